"""Where everything of a model will lie, known from its shape alone.

Weights are not needed: the plan serves the compiler, which fills it in, and whoever wants to know
sizes, addresses and the program of a model that nobody has.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..model import ModelConfig
from ..quant.types import MATRICES
from ..spec.config import CoreConfig
from ..spec.isa import INSTRUCTION_BYTES, Instruction
from ..spec.layout import KvLayout, logits_row_words, matrix_words, router_words, row_words
from ..spec.records import RECORD_BYTES
from .fit import check_fit
from .kv_heads import with_served_heads
from .kv_room import ExpectedSkip, kv_rooms
from .program import KvStore, Matrix, build_program, program_length

__all__ = ["Plan", "plan_image"]


def _matrix_sizes(shape: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """Name, outputs and inputs of every matrix, in order of execution."""
    d, query, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        "q": (query, d),
        "k": (kv, d),
        "v": (kv, d),
        "o": (d, query),
        "gate_up": (2 * shape.ffn, d),
        "down": (d, shape.ffn),
    }
    for layer in range(shape.layers):
        for name in MATRICES:
            yield f"{layer}.{name}", *sizes[name]
    yield "head", shape.vocab, d


@dataclass(frozen=True)
class Plan:
    """An image without its contents.

    Attributes
    ----------
    shape : ModelConfig
        With as many KV heads as the core needs (`with_served_heads`).
    config : CoreConfig
    kv_capacity : int
        Longest sequence in tokens.
    kv_stores : tuple of KvStore
        Of each layer; absolute addresses.
    matrices : dict of str to Matrix
        By "LAYER.NAME", and "head"; absolute addresses. Exponents are 0: they come with weights.
    sections : dict of str to (address, words)
    """

    shape: ModelConfig
    config: CoreConfig
    kv_capacity: int
    kv_stores: tuple[KvStore, ...]
    matrices: Mapping[str, Matrix]
    sections: Mapping[str, tuple[int, int]]

    @property
    def words(self) -> int:
        """Memory the image occupies."""
        return max(address + words for address, words in self.sections.values())

    @property
    def logits_stride(self) -> int:
        """Elements between two rows of logits."""
        words = logits_row_words(self.config, self.matrices["head"].blocks)
        return words * self.config.word_bytes // 4

    def program(self, exponents: Mapping[str, int] | None = None) -> list[Instruction]:
        """The instructions; `exponents` gives the largest scale exponent of each matrix."""
        known = exponents or {}
        routers = self.sections["routers"][0]
        step = router_words(self.config, self.shape.hidden)
        return build_program(
            self.shape,
            self.config,
            matrices={
                name: Matrix(m.address, m.groups, m.blocks, known.get(name, 0))
                for name, m in self.matrices.items()
            },
            addresses={name: address for name, (address, _) in self.sections.items()},
            routers=[routers + layer * step for layer in range(self.shape.layers)],
            kv_capacity=self.kv_capacity,
            kv_stores=self.kv_stores,
        )

    def manifest(self, *, routed: bool) -> dict[str, Any]:
        """What the runtime must know of the model."""
        s = self.shape
        return {
            "name": s.name,
            "hidden": s.hidden,
            "layers": s.layers,
            "heads": s.heads,
            "kv_heads": s.kv_heads,
            "head_dim": s.head_dim,
            "ffn": s.ffn,
            "vocabulary": s.vocab,
            "logits_stride": self.logits_stride,
            "max_positions": s.max_positions,
            "kv_capacity": self.kv_capacity,
            "kv_room": [store.room for store in self.kv_stores],
            "kv_rule": s.kv_rule,
            "routed": routed,
            "bos": s.bos,
            "eos": s.eos,
            "program_length": program_length(s.layers),
        }


def plan_image(
    shape: ModelConfig,
    config: CoreConfig,
    kv_capacity: int | None = None,
    kv_expected_skip: ExpectedSkip = 0.0,
) -> Plan:
    """The plan of a model of `shape` on core `config`.

    `kv_capacity` defaults to the smaller of the model's and the core's limit; `kv_expected_skip`
    makes the KV stores smaller (`kv_rooms`). Raises ConfigError if the model does not fit the core.
    """
    if kv_capacity is None:
        kv_capacity = max(64, min(shape.max_positions, config.max_context) // 64 * 64)
    check_fit(shape, config, kv_capacity)
    shape = with_served_heads(shape, config)

    tiles, weights = {}, 0
    for name, outputs, inputs in _matrix_sizes(shape):
        tiles[name] = Matrix(weights, inputs // config.group, -(-outputs // config.columns), 0)
        weights += matrix_words(config, tiles[name].groups, tiles[name].blocks)
    kv = KvLayout(shape.head_dim, shape.kv_heads, config.word_bytes)
    rooms = kv_rooms(shape, kv_capacity, kv_expected_skip)
    sizes = {
        "program": row_words(config, program_length(shape.layers) * INSTRUCTION_BYTES),
        "weights": weights,
        "embedding": shape.vocab * row_words(config, 2 * shape.hidden),
        "routers": shape.layers * router_words(config, shape.hidden),
        "rope": kv_capacity * row_words(config, 4 * shape.head_dim),
        "kv": sum(kv.words(room) for room in rooms),
        "input": row_words(config, config.max_chunk * RECORD_BYTES),
        "records": row_words(config, kv_capacity * RECORD_BYTES),
        "logits": logits_row_words(config, tiles["head"].blocks) * config.max_chunk,
    }
    sections, at = {}, 0
    for name, words in sizes.items():
        sections[name] = (at, words)
        at += words
    base = sections["weights"][0]
    placed = {n: Matrix(base + m.address, m.groups, m.blocks, 0) for n, m in tiles.items()}
    ends = list(itertools.accumulate(map(kv.words, rooms), initial=sections["kv"][0]))
    stores = tuple(map(KvStore, ends, rooms))
    return Plan(shape, config, kv_capacity, stores, placed, sections)
