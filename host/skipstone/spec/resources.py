"""What a core takes of a device, before anything is synthesized; and whether a board has it.

Multipliers and memory blocks are counted: they follow from the configuration. LUTs and flip-flops
are sums of terms, each with a size that it grows with. Their coefficients come from Yosys'
synthesis (UltraScale+) of the units of sim-tiny, of the leaves at their size, and of what takes
words at two widths (256 and 2,048 bits): good to a third or so, enough to refuse what cannot fit,
not to say how full a device will be. Vendors' tools need fewer, for one because they add up
products in the DSP blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .config import CoreConfig
from .errors import ConfigError

__all__ = [
    "TILE_BUFFER",
    "Buffer",
    "buffers",
    "check_budget",
    "luts_and_ffs",
    "memory_blocks",
    "multipliers",
    "resources",
]

TILE_BUFFER = "weight tile"


@dataclass(frozen=True)
class Buffer:
    """A memory of the core: `copies` of `depth` entries of `width` bits."""

    name: str
    width: int
    depth: int
    copies: int = 1

    def blocks(self, shapes: Mapping[int, int]) -> int:
        """Memory blocks, which can be used as any of `shapes`: width → depth."""
        one = min(math.ceil(self.width / w) * math.ceil(self.depth / d) for w, d in shapes.items())
        return self.copies * one


_BLOCK_RAM = {
    "27x18": {72: 512, 36: 1024, 18: 2048, 9: 4096},  # RAMB36E2
    "25x18": {72: 512, 36: 1024, 18: 2048, 9: 4096},  # RAMB36E1
    "18x18": {36: 512, 18: 1024, 9: 2048, 4: 4096},  # ECP5 DP16KD
}
_ULTRA_RAM = {72: 4096}
_LUT_RAM_DEPTH = 64
"""Memories no deeper are made of LUTs."""


def buffers(c: CoreConfig) -> list[Buffer]:
    """The memories that are too deep for LUTs."""
    tokens = 1 << (c.max_chunk - 1).bit_length()
    sizes = (c.max_hidden, c.max_activation, c.max_query)
    words = sum(size // c.rows for size in sizes)
    groups = sum(
        s // unit for s, unit in zip(sizes, (c.group, c.group, c.min_head_dim), strict=True)
    )
    heads = c.heads_per_word
    found = [
        Buffer("activations", 12 * c.rows, words * tokens, c.lanes),
        Buffer("activation exponents", 8, groups * tokens, c.lanes),
        Buffer("residual stream", 64, c.max_chunk * c.max_hidden // 2),
        Buffer("rotations", 64, c.max_chunk * 64),
        Buffer("scores", heads * (32 * c.lanes + 8), c.max_context),
        Buffer("stored layers", c.max_layers, c.max_context),
        Buffer("router vectors", 256, c.max_hidden // 8),
        Buffer("read FIFOs", c.port_bits, c.fifo_words, c.ports),
    ]
    if c.max_chunk > c.lanes:
        found += [
            Buffer(TILE_BUFFER, c.word_bits, c.tile_groups * c.steps_per_group),
            Buffer("tile buffer's scales", 16 * c.columns, c.tile_groups),
        ]
    return [buffer for buffer in found if buffer.depth > _LUT_RAM_DEPTH]


def multipliers(c: CoreConfig) -> dict[str, int]:
    """Multipliers by what they are for."""
    wide = 2 if c.dsp == "18x18" else 1  # for factors of more than 18 bits
    heads = c.heads_per_word
    return {
        "array": c.lanes * c.rows * math.ceil(c.columns / c.products_per_dsp),
        "scales": wide * c.lanes * c.columns,
        "probabilities": wide * c.lanes * heads,
        "floating point": _FLOATING_POINT,
    }


_FLOATING_POINT = 40
_LUT4_PER_LUT6 = 1.7


@dataclass(frozen=True)
class _Term:
    """LUTs and flip-flops for each unit of `size`."""

    size: int
    lut: float
    ff: float


def _terms(c: CoreConfig) -> list[_Term]:
    repair = 12.0 * c.packing.overlap / 3 if c.packing.overlap else 0.0
    products = c.rows * c.columns
    words = 2 if c.history_words and c.lanes > 1 else 1  # at a time, each prepared for itself
    regions = int(c.region_registers)
    return [
        _Term(c.lanes * products, 26.5 + repair, 34.0),  # operands, adders
        _Term(words * products, 7.0, 4.0),  # wide operands
        _Term(c.lanes * c.columns, 376.0, 330.0),  # column sums, scaling, accumulators, drain
        _Term(c.lanes * c.word_bytes, 60.0, 55.0),  # queries, mixing
        _Term(c.lanes * c.heads_per_word, 1200.0, 770.0),  # scores, probabilities
        _Term(c.word_bits, 12.0, 9.0),  # whoever takes words: reader, writer, program, embedding
        _Term(1, 19_000.0, 12_000.0),  # control, epilogue, reductions
        # Between regions: words, with a register on each side, a queue and its register; and all
        # the rest, which is narrow.
        _Term(regions * c.word_bits, 0.6, 3.0),
        _Term(regions, 450.0, 1_400.0),
    ]


def luts_and_ffs(c: CoreConfig) -> tuple[int, int]:
    """LUTs (of the device's kind) and flip-flops."""
    terms = _terms(c)
    lut = sum(t.size * t.lut for t in terms) * (_LUT4_PER_LUT6 if c.dsp == "18x18" else 1)
    return round(lut), round(sum(t.size * t.ff for t in terms))


def memory_blocks(c: CoreConfig, budget: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """Of each memory of `c` the resource it takes, "bram" or "uram", and how much.

    Memories go to UltraRAM, the deepest first, as long as there is some and it is no worse filled
    than block RAM.
    """
    found, free = {}, budget["uram"]
    for buffer in sorted(buffers(c), key=lambda b: -b.depth):
        ultra, block = buffer.blocks(_ULTRA_RAM), buffer.blocks(_BLOCK_RAM[c.dsp])
        if ultra <= free and 2 * ultra <= block:
            found[buffer.name] = "uram", ultra
            free -= ultra
        else:
            found[buffer.name] = "bram", block
    return found


def resources(c: CoreConfig, budget: Mapping[str, int]) -> dict[str, int]:
    """What `c` takes, by the resources of `budget`."""
    lut, ff = luts_and_ffs(c)
    found = {"lut": lut, "ff": ff, "dsp": sum(multipliers(c).values()), "bram": 0, "uram": 0}
    for kind, count in memory_blocks(c, budget).values():
        found[kind] += count
    return found


def check_budget(c: CoreConfig, board: str, budget: Mapping[str, int]) -> None:
    """Raise ConfigError with the numbers if `c` takes more than `budget` of the device of `board`
    has."""
    taken = resources(c, budget)
    over = [f"{n} {taken[n]:,} of {budget[n]:,}" for n in taken if taken[n] > budget[n]]
    if over:
        fits = [f"{n} {taken[n]:,} of {budget[n]:,}" for n in taken if taken[n] <= budget[n]]
        raise ConfigError(
            f"core {c.name!r} does not fit {board}: {', '.join(over)}"
            + (f" (within budget: {', '.join(fits)})" if fits else "")
        )
