"""Images of any size without a model: random words where the weights lie, in the layout's order.

What is computed means nothing; speed does not depend on it. Scales have the size that keeps the
residual stream in range. The sections are parts of one file, as those of a compiled model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipstone.compiler.fit import check_fit
from skipstone.compiler.program import KvStore, Matrix, build_program
from skipstone.model import ModelConfig, rope_table
from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import fp16_parts
from skipstone.spec.image import Image, Section
from skipstone.spec.isa import encode_program
from skipstone.spec.layout import (
    KvLayout,
    RouterRecord,
    logits_row_words,
    matrix_words,
    pack_router,
    router_words,
    row_words,
)
from skipstone.spec.records import RECORD_BYTES

__all__ = ["synthetic_image"]

_INT4_RMS = 4.6
_PAGE = 4096
_BLOCK_BYTES = 1 << 26


def _fill(words: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """Random bytes: a block of them, from another place each time."""
    block = np.frombuffer(rng.bytes(min(_BLOCK_BYTES, words.size) + _PAGE), np.uint8)
    for at in range(0, words.size, _BLOCK_BYTES):
        part = words[at : at + _BLOCK_BYTES]
        shift = int(rng.integers(0, _PAGE))
        part[:] = block[shift : shift + part.size]


def _shapes(model: ModelConfig) -> dict[str, tuple[int, int, float]]:
    """Outputs, inputs and gain of each matrix."""
    d, query, kv = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    layer = {
        "q": (query, d, 1.5 / np.sqrt(model.head_dim)),
        "k": (kv, d, 1.5),
        "v": (kv, d, 1.0),
        "o": (d, query, 0.1),
        "gate_up": (2 * model.ffn, d, 1.5),
        "down": (d, model.ffn, 0.1),
    }
    shapes = {f"{n}.{name}": shape for n in range(model.layers) for name, shape in layer.items()}
    return shapes | {"head": (model.vocab, d, 4.0)}


def synthetic_image(
    model: ModelConfig, config: CoreConfig, path: Path, *, kv_capacity: int, seed: int = 0
) -> Image:
    """An image of this shape for `config`, its sections in the file `path`.

    All tokens execute everything. Raises ConfigError if the shape does not fit the core.
    """
    check_fit(model, config, kv_capacity)
    rng = np.random.default_rng(seed)
    places: dict[str, Matrix] = {}
    scales: dict[str, np.float16] = {}
    weight_words = 0
    for name, (outputs, inputs, gain) in _shapes(model).items():
        scales[name] = np.float16(gain / (_INT4_RMS * np.sqrt(inputs)))
        exponent = int(fp16_parts(np.array([scales[name]]))[1][0])
        groups, blocks = inputs // config.group, -(-outputs // config.columns)
        places[name] = Matrix(weight_words, groups, blocks, exponent)
        weight_words += matrix_words(config, groups, blocks)

    row = row_words(config, 2 * model.hidden)
    angles = row_words(config, 4 * model.head_dim)
    record = router_words(config, model.hidden)
    stride = logits_row_words(config, places["head"].blocks)
    kv = KvLayout(model.head_dim, model.kv_heads, config.word_bytes)
    store = kv.words(kv_capacity)
    length = model.layers * 9 + 6
    stored = {
        "program": row_words(config, 32 * length),
        "weights": weight_words,
        "embedding": row * model.vocab,
        "routers": record * model.layers,
        "rope": angles * kv_capacity,
    }
    reserved = {
        "kv": store * model.layers,
        "input": row_words(config, config.max_chunk * RECORD_BYTES),
        "records": row_words(config, kv_capacity * RECORD_BYTES),
        "logits": stride * config.max_chunk,
    }
    addresses: dict[str, int] = {}
    offsets: dict[str, int] = {}
    address = offset = 0
    for name, words in (stored | reserved).items():
        addresses[name], offsets[name] = address, offset
        address += words
        if name in stored:
            offset += -(-words * config.word_bytes // _PAGE) * _PAGE
    with path.open("wb") as f:
        f.truncate(offset)

    def part(name: str, mode: str) -> NDArray[np.uint8]:
        size = stored[name] * config.word_bytes
        return np.memmap(path, np.uint8, mode, offsets[name], (size,))  # type: ignore[call-overload]

    weights = part("weights", "r+").reshape(-1, config.word_bytes)
    _fill(weights.reshape(-1), rng)
    per_run = config.groups_per_scale_word * config.steps_per_group
    for name, m in places.items():
        matrix = weights[m.address : m.address + matrix_words(config, m.groups, m.blocks)]
        matrix.reshape(m.blocks, -1, config.word_bytes)[:, :: 1 + per_run].view(np.float16)[:] = (
            scales[name]
        )
    embedding = part("embedding", "r+").view(np.float16)
    values = rng.standard_normal(1 << 20).astype(np.float16)
    for at in range(0, embedding.size, values.size):
        embedding[at : at + values.size] = values[: embedding.size - at]
    never = pack_router(RouterRecord.never_skip(model.hidden, config.group), config)
    part("routers", "r+").reshape(model.layers, -1)[:] = never.reshape(-1)
    cos, sin = rope_table(model, kv_capacity)
    turns = np.stack([cos, sin], axis=-1).reshape(kv_capacity, -1).astype(np.float32)
    rows = part("rope", "r+").reshape(kv_capacity, -1)
    rows[:, : 4 * model.head_dim] = turns.view(np.uint8)
    base = addresses["weights"]
    program = build_program(
        model,
        config,
        matrices={
            n: Matrix(base + m.address, m.groups, m.blocks, m.exponent) for n, m in places.items()
        },
        addresses=addresses,
        routers=[addresses["routers"] + n * record for n in range(model.layers)],
        kv_capacity=kv_capacity,
        kv_stores=[KvStore(addresses["kv"] + n * store, kv_capacity) for n in range(model.layers)],
    )
    part("program", "r+")[: 32 * length] = np.frombuffer(encode_program(program), np.uint8)

    nothing = np.zeros(0, np.uint8)
    sections = {
        name: Section(name, addresses[name], words, part(name, "r") if name in stored else nothing)
        for name, words in (stored | reserved).items()
    }
    manifest = {
        "name": model.name, "hidden": model.hidden, "layers": model.layers, "heads": model.heads,
        "kv_heads": model.kv_heads, "head_dim": model.head_dim, "ffn": model.ffn,
        "vocabulary": model.vocab, "logits_stride": stride * config.word_bytes // 4,
        "max_positions": kv_capacity, "kv_capacity": kv_capacity,
        "kv_room": [kv_capacity] * model.layers, "kv_rule": model.kv_rule,
        "routed": False, "bos": None, "eos": None, "program_length": length,
    }  # fmt: skip
    return Image(config, manifest, sections)
