"""Filling a plan with numbers: the contents of every section, in memory or straight into a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..model import ModelConfig, rope_table
from ..quant import QuantizedLinear
from ..quant.types import QuantizedSource
from ..spec.config import CoreConfig
from ..spec.formats import fp16_parts
from ..spec.image import Image, ImageWriter, Section
from ..spec.isa import INSTRUCTION_BYTES, encode_program
from ..spec.layout import RouterRecord, pack_matrix, pack_router, row_words
from .kv_heads import RepeatedKvHeads
from .kv_room import ExpectedSkip
from .plan import Plan, plan_image
from .program import program_length

__all__ = ["compile_model", "compile_to_file"]

Bytes = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and of how much."""

_WORDS = 1 << 14
"""Words of a matrix, or rows of a table, that are packed at once."""


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


def _matrix_pieces(m: QuantizedLinear, config: CoreConfig) -> Iterator[Bytes]:
    """Words of a matrix, some blocks of columns at a time."""
    words_per_block = m.weights.shape[1] // config.rows
    step = max(1, _WORDS // words_per_block) * config.columns
    for start in range(0, len(m.weights), step):
        rows = slice(start, start + step)
        yield pack_matrix(m.weights[rows], m.scales[rows], config)


def _contents(
    plan: Plan, source: QuantizedSource, progress: Progress | None
) -> Iterator[tuple[str, Bytes]]:
    """Pieces of the sections, each section's in order; the program, which needs the exponents of
    all matrices, comes last."""
    config = plan.config
    if source.config.kv_heads != plan.shape.kv_heads:
        source = RepeatedKvHeads(source, plan.shape.kv_heads)
    # Sizes first: what has the wrong one is refused before anything is converted.
    tiles = {name: (m.groups, m.blocks) for name, m in plan.matrices.items()}
    total = sum(groups * blocks for groups, blocks in tiles.values())
    done, exponents = 0, {}
    for name, m in source.matrices():
        if progress is not None:
            progress("convert", done, total)
        found = (m.weights.shape[1] // config.group, -(-len(m.weights) // config.columns))
        if found != tiles[name] or m.group != config.group:
            raise ValueError(f"matrix {name} must have {tiles[name]} tiles, not {found}")
        exponents[name] = int(fp16_parts(m.scales)[1].max())
        for piece in _matrix_pieces(m, config):
            yield "weights", piece
        done += found[0] * found[1]
    for rows in source.embedding_rows():
        yield "embedding", _rows(rows, config)
    for router in source.routers():
        record = router or RouterRecord.never_skip(plan.shape.hidden, config.group)
        yield "routers", pack_router(record, config).reshape(-1)
    yield "rope", _rows(_rope_rows(plan.shape, plan.kv_capacity), config)
    yield "program", np.frombuffer(encode_program(plan.program(exponents)), np.uint8)


def _sizes(plan: Plan) -> dict[str, int]:
    """Bytes of the sections that have contents."""
    sizes = {
        name: words * plan.config.word_bytes
        for name, (_, words) in plan.sections.items()
        if name in ("weights", "embedding", "routers", "rope")
    }
    return {"program": program_length(plan.shape.layers) * INSTRUCTION_BYTES} | sizes


def _is_routed(source: QuantizedSource) -> bool:
    return next(source.routers(), None) is not None


def compile_model(
    model: QuantizedSource,
    config: CoreConfig,
    *,
    kv_capacity: int | None = None,
    kv_expected_skip: ExpectedSkip = 0.0,
    progress: Progress | None = None,
) -> Image:
    """The memory image of `model` for core `config`, in memory.

    `kv_capacity` is the longest sequence in tokens (default: the smaller of the model's and the
    core's limit); with `kv_expected_skip`, the share of tokens that skip attention, of all layers
    or of each, the KV stores get only that much room and a margin (`kv_rooms`).

    Raises ConfigError if the model does not fit the core.
    """
    plan = plan_image(model.config, config, kv_capacity, kv_expected_skip)
    data = {name: np.empty(size, np.uint8) for name, size in _sizes(plan).items()}
    filled = dict.fromkeys(data, 0)
    for name, piece in _contents(plan, model, progress):
        raw = piece.reshape(-1)
        data[name][filled[name] : filled[name] + raw.size] = raw
        filled[name] += raw.size
    nothing = np.zeros(0, np.uint8)
    return Image(
        config,
        plan.manifest(routed=_is_routed(model)),
        {
            name: Section(name, address, words, data.get(name, nothing))
            for name, (address, words) in plan.sections.items()
        },
    )


def compile_to_file(
    model: QuantizedSource,
    config: CoreConfig,
    path: str | os.PathLike[str],
    *,
    kv_capacity: int | None = None,
    kv_expected_skip: ExpectedSkip = 0.0,
    progress: Progress | None = None,
) -> None:
    """Write the image that `compile_model` gives to file `path`, holding little of it at a time."""
    plan = plan_image(model.config, config, kv_capacity, kv_expected_skip)
    manifest = plan.manifest(routed=_is_routed(model))
    with ImageWriter(path, config, manifest, plan.sections, _sizes(plan)) as writer:
        for name, piece in _contents(plan, model, progress):
            writer.write(name, piece)
