"""The compiler's steps in order: check, pack, place, program, assemble."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..model import ModelConfig, rope_table
from ..quant import QuantizedLinear, QuantizedModel
from ..spec.config import CoreConfig
from ..spec.formats import fp16_parts
from ..spec.image import Image, Section
from ..spec.isa import INSTRUCTION_BYTES, encode_program
from ..spec.layout import (
    KvLayout,
    RouterRecord,
    logits_row_words,
    matrix_words,
    pack_matrix,
    pack_router,
    router_words,
    row_words,
)
from ..spec.records import RECORD_BYTES
from .fit import check_fit
from .program import Matrix, build_program

__all__ = ["compile_model"]

Bytes = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and of how much."""


def _named_matrices(model: QuantizedModel) -> Iterator[tuple[str, QuantizedLinear]]:
    for index, layer in enumerate(model.layers):
        for name in ("q", "k", "v", "o", "gate_up", "down"):
            yield f"{index}.{name}", getattr(layer, name)
    yield "head", model.head


def _rows(table: NDArray[np.generic], config: CoreConfig) -> Bytes:
    """Rows of a 2-D table, each padded to whole words."""
    raw = np.ascontiguousarray(table).view(np.uint8).reshape(len(table), -1)
    out = np.zeros((len(table), row_words(config, raw.shape[1]) * config.word_bytes), np.uint8)
    out[:, : raw.shape[1]] = raw
    return out.reshape(-1)


def _rope_rows(model: ModelConfig, positions: int) -> NDArray[np.float32]:
    """(positions, head_dim) of interleaved (cos, sin)."""
    cos, sin = rope_table(model, positions)
    return np.stack([cos, sin], axis=-1).reshape(positions, -1).astype(np.float32)


def _pack_weights(
    model: QuantizedModel, config: CoreConfig, progress: Progress | None
) -> tuple[dict[str, Matrix], Bytes]:
    """All matrices back to back (addresses relative to the section)."""
    shapes = {
        name: (m.weights.shape[1] // config.group, -(-m.weights.shape[0] // config.columns))
        for name, m in _named_matrices(model)
    }
    total = sum(matrix_words(config, *shape) for shape in shapes.values())
    data = np.empty((total, config.word_bytes), np.uint8)
    placed: dict[str, Matrix] = {}
    at = 0
    for done, (name, m) in enumerate(_named_matrices(model)):
        if progress is not None:
            progress("pack", done, len(shapes))
        words = pack_matrix(m.weights, m.scales, config)
        data[at : at + len(words)] = words
        placed[name] = Matrix(at, *shapes[name], int(fp16_parts(m.scales)[1].max()))
        at += len(words)
    return placed, data.reshape(-1)


def compile_model(
    model: QuantizedModel,
    config: CoreConfig,
    *,
    kv_capacity: int | None = None,
    progress: Progress | None = None,
) -> Image:
    """The memory image of `model` for core `config`.

    `kv_capacity` is the longest sequence in tokens (default: the smaller of the model's and the
    core's limit).

    Raises ConfigError if the model does not fit the core.
    """
    shape = model.config
    if kv_capacity is None:
        kv_capacity = max(64, min(shape.max_positions, config.max_context) // 64 * 64)
    check_fit(shape, config, kv_capacity)

    matrices, weights = _pack_weights(model, config, progress)
    routers = [
        layer.router or RouterRecord.never_skip(shape.hidden, config.group)
        for layer in model.layers
    ]
    kv = KvLayout(0, kv_capacity, shape.head_dim, shape.kv_heads, config.word_bytes)
    head_blocks = matrices["head"].blocks
    logits_stride = logits_row_words(config, head_blocks)
    program_length = len(routers) * 9 + 6

    data: dict[str, Bytes] = {
        "program": np.zeros(program_length * INSTRUCTION_BYTES, np.uint8),
        "weights": weights,
        "embedding": _rows(model.embedding, config),
        "routers": np.concatenate([pack_router(r, config).reshape(-1) for r in routers]),
        "rope": _rows(_rope_rows(shape, kv_capacity), config),
    }
    reserved = {
        "kv": kv.words(shape.layers),
        "input": row_words(config, config.max_chunk * RECORD_BYTES),
        "records": row_words(config, kv_capacity * RECORD_BYTES),
        "logits": logits_stride * config.max_chunk,
    }
    addresses: dict[str, int] = {}
    at = 0
    sizes = {name: row_words(config, d.size) for name, d in data.items()} | reserved
    for name, words in sizes.items():
        addresses[name] = at
        at += words

    base = addresses["weights"]
    program = build_program(
        shape,
        config,
        matrices={
            name: Matrix(base + m.address, m.groups, m.blocks, m.exponent)
            for name, m in matrices.items()
        },
        addresses=addresses,
        routers=[
            addresses["routers"] + i * router_words(config, shape.hidden)
            for i in range(shape.layers)
        ],
        kv_capacity=kv_capacity,
    )
    assert len(program) == program_length
    data["program"] = np.frombuffer(encode_program(program), np.uint8)

    nothing = np.zeros(0, np.uint8)
    return Image(
        config,
        {
            "name": shape.name,
            "hidden": shape.hidden,
            "layers": shape.layers,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "ffn": shape.ffn,
            "vocabulary": shape.vocab,
            "logits_stride": logits_stride * config.word_bytes // 4,
            "max_positions": shape.max_positions,
            "kv_capacity": kv_capacity,
            "kv_rule": shape.kv_rule,
            "routed": any(layer.router is not None for layer in model.layers),
            "bos": shape.bos,
            "eos": shape.eos,
            "program_length": program_length,
        },
        {
            name: Section(name, addresses[name], words, data.get(name, nothing))
            for name, words in sizes.items()
        },
    )
