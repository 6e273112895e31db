"""Core configurations: every choice made when the gateware is built.

A configuration is validated and its derived sizes computed once, here; gateware, compiler, golden
model and harness take it as an argument. Its hash ties an image to the core it was compiled for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError
from .packing import MULTIPLIERS, Packing

__all__ = [
    "BOARD_CONFIGS",
    "CONFIGS",
    "HEAD_DIM_LOG2",
    "SIMULATION_CONFIGS",
    "CoreConfig",
    "named_config",
]


HEAD_DIM_LOG2 = range(5, 8)
"""Logarithms of the head dimensions that some core can tap."""


def _is_power_of_two(x: int) -> bool:
    return x > 0 and x & (x - 1) == 0


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """One buildable core.

    A memory *word* is what one decode cycle of the array eats: `rows` · `columns` int4 weights,
    delivered by `ports` AXI4 ports of `port_bits` each in lockstep.

    Parameters
    ----------
    rows, columns, lanes
        Shape of the PE array: reduction elements per cycle, output columns, tokens sharing a
        weight.
    ports, port_bits
        AXI4 ports; `ports * port_bits == 4 * rows * columns`.
    group
        Elements along the reduction that share an exponent (activations) or a scale (weights).
    max_hidden, max_ffn, max_query
        Largest model dimensions the buffers hold: residual stream, FFN inner, query heads ·
        head_dim.
    max_context, max_chunk, max_layers
        Largest sequence, prefill chunk (tokens), and layer count (at most 64).
    max_program
        Instructions the program buffer holds.
    fifo_words, burst_beats, outstanding
        Per port: FIFO depth in beats, longest burst, and reads in flight.
    prefetch_words
        Words of a matrix that are requested before it is known whether any token needs it; at most
        `fifo_words`. 0: none.
    clock_mhz
        The clock that simulated time is quoted at.
    products_per_dsp, dsp
        Weights that share a multiplier (1, 2 or 3), and its type: a key of `packing.MULTIPLIERS`.
    history_words
        K words that the KV history buffer holds, and as many V words: a position takes as many as
        the model has head groups, rounded up to a power of two. 0: no buffer.
    min_head_dim
        Smallest head_dim of a model: 32, 64 or 128, at least a column's `rows` / 2 bytes. A word
        has a set of score and probability units for each head of this size.
    region_registers
        Registers between the units that lie in different super logic regions of a large card.
    """

    name: str
    rows: int
    columns: int
    lanes: int
    ports: int
    port_bits: int
    group: int = 32
    max_hidden: int
    max_ffn: int
    max_query: int
    max_context: int
    max_chunk: int
    max_layers: int
    max_program: int = 256
    fifo_words: int = 64
    burst_beats: int = 16
    outstanding: int = 32
    clock_mhz: float = 200.0
    prefetch_words: int = 32
    products_per_dsp: int = 2
    dsp: str = "27x18"
    history_words: int = 0
    min_head_dim: int = 32
    region_registers: bool = False

    def __post_init__(self) -> None:
        problems = []

        def need(ok: bool, text: str) -> None:
            if not ok:
                problems.append(text)

        for field in ("rows", "columns", "ports", "port_bits", "group", "max_context"):
            value = getattr(self, field)
            need(_is_power_of_two(value), f"{field} must be a power of two, not {value}")
        need(1 <= self.lanes <= 16, f"lanes must be between 1 and 16, not {self.lanes}")
        need(
            self.ports * self.port_bits == 4 * self.rows * self.columns,
            f"ports * port_bits must be 4 * rows * columns = {4 * self.rows * self.columns}, "
            f"not {self.ports * self.port_bits}",
        )
        need(self.rows >= 4, f"rows must be at least 4, not {self.rows}")
        # SwiGLU pairs two gates with two ups of the same block.
        need(self.columns >= 4, f"columns must be at least 4, not {self.columns}")
        need(32 <= self.group <= 128, f"group must be 32, 64 or 128, not {self.group}")
        need(self.rows <= self.group, f"rows must be at most group ({self.group}), not {self.rows}")
        need(self.word_bytes >= 32, f"a word must have at least 32 bytes, not {self.word_bytes}")
        need(64 <= self.port_bits <= 1024, f"port_bits must be 64 to 1024, not {self.port_bits}")
        for field in ("max_hidden", "max_ffn", "max_query"):
            value = getattr(self, field)
            need(
                value > 0 and value % self.group == 0,
                f"{field} must be a positive multiple of group ({self.group}), not {value}",
            )
        need(1 <= self.max_layers <= 64, f"max_layers must be 1 to 64, not {self.max_layers}")
        need(1 <= self.max_chunk <= 64, f"max_chunk must be 1 to 64, not {self.max_chunk}")
        need(1 <= self.burst_beats <= 256, f"burst_beats must be 1 to 256, not {self.burst_beats}")
        need(
            self.burst_beats * self.port_bits // 8 <= 4096,
            f"a burst must fit 4 KiB: burst_beats * port_bits / 8 is "
            f"{self.burst_beats * self.port_bits // 8}",
        )
        need(
            self.fifo_words >= 2 * self.burst_beats,
            f"fifo_words must be at least 2 * burst_beats = {2 * self.burst_beats}, "
            f"not {self.fifo_words}",
        )
        need(
            0 <= self.prefetch_words <= self.fifo_words,
            f"prefetch_words must be 0 to fifo_words = {self.fifo_words}, "
            f"not {self.prefetch_words}",
        )
        need(
            self.history_words == 0 or _is_power_of_two(self.history_words),
            f"history_words must be 0 or a power of two, not {self.history_words}",
        )
        head_dims = [1 << log2 for log2 in HEAD_DIM_LOG2]
        need(
            self.min_head_dim in head_dims and self.rows // 2 <= self.min_head_dim,
            f"min_head_dim must be {', '.join(map(str, head_dims))}, and at least "
            f"rows / 2 = {self.rows // 2}, not {self.min_head_dim}",
        )
        need(
            self.min_head_dim <= self.word_bytes,
            f"min_head_dim must be at most a word's {self.word_bytes} bytes, "
            f"not {self.min_head_dim}",
        )
        need(self.outstanding >= 1, f"outstanding must be at least 1, not {self.outstanding}")
        need(
            self.products_per_dsp in (1, 2, 3),
            f"products_per_dsp must be 1, 2 or 3, not {self.products_per_dsp}",
        )
        need(
            self.dsp in MULTIPLIERS,
            f"dsp must be one of {', '.join(MULTIPLIERS)}, not {self.dsp!r}",
        )
        if not problems:
            need(
                self.packing.holds(self.rows // 2),
                f"{self.products_per_dsp} products in a {self.dsp} multiplier leave fields "
                f"{self.packing.spacing} bits apart, which cannot hold the sum of rows / 2 = "
                f"{self.rows // 2} products",
            )
        if problems:
            raise ConfigError(f"configuration {self.name!r}: " + "; ".join(problems))

    @property
    def word_bits(self) -> int:
        """Bits of a memory word."""
        return 4 * self.rows * self.columns

    @property
    def word_bytes(self) -> int:
        """Bytes of a memory word; also the int8 elements of a KV word."""
        return self.rows * self.columns // 2

    @property
    def port_bytes(self) -> int:
        """Bytes of one port's beat."""
        return self.port_bits // 8

    @property
    def steps_per_group(self) -> int:
        """Weight words (array cycles) per group."""
        return self.group // self.rows

    @property
    def groups_per_scale_word(self) -> int:
        """Groups whose scales (FP16, one per column) share one word."""
        return self.rows // 4

    @property
    def tile_blocks(self) -> int:
        """Blocks of a matrix that are replayed when a chunk has more tokens than lanes.

        Enough columns for whole groups of every kind of output (two for each element of SwiGLU), so
        that no more than `lanes` tokens ever have a group under way.
        """
        columns = max(2 * self.group, min(128, self.word_bytes))
        return max(1, columns // self.columns)

    @property
    def tile_groups(self) -> int:
        """Groups of the longest tile, over all of its blocks."""
        return self.tile_blocks * (max(self.max_hidden, self.max_activation) // self.group)

    @property
    def tile_words(self) -> int:
        """Words of the longest tile, those of its scales included."""
        groups = self.tile_groups // self.tile_blocks
        scale_words = -(-groups // self.groups_per_scale_word)
        return self.tile_groups * self.steps_per_group + self.tile_blocks * scale_words

    @property
    def head_dim_log2(self) -> range:
        """Logarithms of the head dimensions that the array can tap: a head is no longer than a
        word."""
        first = self.min_head_dim.bit_length() - 1
        return range(first, min(HEAD_DIM_LOG2.stop, self.word_bytes.bit_length()))

    @property
    def heads_per_word(self) -> int:
        """KV heads that a word has at most."""
        return self.word_bytes // self.min_head_dim

    @property
    def packing(self) -> Packing:
        """How products share multipliers."""
        return Packing(self.products_per_dsp, self.dsp)

    @property
    def max_activation(self) -> int:
        """Longest vector in the second activation buffer (attention output or FFN inner)."""
        return max(self.max_ffn, self.max_query)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return _canonical(dataclasses.asdict(self)).decode()

    @property
    def hash64(self) -> int:
        """The core's identity: first 64 bits of the SHA-256 of the canonical JSON.

        Of all fields that are not at their default, so that a core stays what it was when a field
        is added. A default must therefore never change.
        """
        said = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }
        return int.from_bytes(hashlib.sha256(_canonical(said)).digest()[:8], "big")


def _canonical(fields: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


SIMULATION_CONFIGS = {
    c.name: c
    for c in (
        # The smallest core of the tests: one port, two lanes.
        CoreConfig(
            name="sim-tiny", rows=8, columns=8, lanes=2, ports=1, port_bits=256,
            max_hidden=128, max_ffn=384, max_query=128, max_context=512, max_chunk=8,
            max_layers=8, fifo_words=32, burst_beats=8, outstanding=4, clock_mhz=100.0,
            history_words=32,
        ),
        # The board of the demo: the size of a small edge FPGA.
        CoreConfig(
            name="sim-small", rows=16, columns=8, lanes=4, ports=2, port_bits=256,
            max_hidden=256, max_ffn=768, max_query=256, max_context=512, max_chunk=16,
            max_layers=16, clock_mhz=200.0, history_words=512,
        ),
        # A wider core, for benchmarks of larger synthetic layers.
        CoreConfig(
            name="sim-large", rows=32, columns=16, lanes=4, ports=4, port_bits=512,
            max_hidden=1024, max_ffn=2816, max_query=1024, max_context=1024, max_chunk=64,
            max_layers=32, clock_mhz=225.0, history_words=1024,
        ),
    )
}  # fmt: skip
"""Cores of no board: for tests, demos and benchmarks."""

BOARD_CONFIGS = {
    c.name: c
    for c in (
        # HBM cards. A port of 512 bits at 225 MHz takes the whole of a pseudo channel, which
        # delivers less than a word per cycle: what the FIFOs gather while the array cannot go on is
        # caught up with later. As many LUTs as the card has allow for two lanes.
        CoreConfig(
            name="u280", rows=128, columns=32, lanes=2, ports=32, port_bits=512, group=128,
            max_hidden=5120, max_ffn=14336, max_query=5120, max_context=4096, max_chunk=64,
            max_layers=40, max_program=512, fifo_words=4096, burst_beats=32, outstanding=16,
            prefetch_words=256, clock_mhz=225.0, min_head_dim=128, region_registers=True,
        ),
        # Half the width, twice the lanes: four query heads to a KV head.
        CoreConfig(
            name="u55c", rows=64, columns=32, lanes=4, ports=32, port_bits=256, group=128,
            max_hidden=5120, max_ffn=14336, max_query=5120, max_context=4096, max_chunk=32,
            max_layers=40, max_program=512, fifo_words=128, burst_beats=32, outstanding=16,
            clock_mhz=225.0, min_head_dim=128, region_registers=True,
        ),
        CoreConfig(
            name="u50", rows=64, columns=32, lanes=2, ports=32, port_bits=256, group=128,
            max_hidden=4096, max_ffn=11008, max_query=4096, max_context=4096, max_chunk=32,
            max_layers=32, max_program=512, fifo_words=128, burst_beats=32, outstanding=16,
            clock_mhz=225.0, min_head_dim=128, region_registers=True,
        ),
        # DDR4 boards, 19.2 GB/s, of which 14.4 are taken by 64 bytes at 225 MHz: models of the size
        # of Llama 3.2 1B.
        CoreConfig(
            name="kv260", rows=16, columns=8, lanes=4, ports=4, port_bits=128, group=128,
            max_hidden=2048, max_ffn=8192, max_query=2048, max_context=1024, max_chunk=4,
            max_layers=22, clock_mhz=225.0, min_head_dim=64,
        ),
        CoreConfig(
            name="zcu104", rows=32, columns=8, lanes=4, ports=4, port_bits=256, group=128,
            max_hidden=2048, max_ffn=8192, max_query=2048, max_context=2048, max_chunk=8,
            max_layers=22, clock_mhz=200.0, min_head_dim=64,
        ),
        # DDR3, 4.2 GB/s, and few LUTs: models of some ten million parameters.
        CoreConfig(
            name="pynq-z2", rows=16, columns=4, lanes=2, ports=4, port_bits=64, group=32,
            max_hidden=512, max_ffn=1536, max_query=512, max_context=256, max_chunk=8,
            max_layers=8, max_program=128, clock_mhz=100.0, dsp="25x18",
        ),
        # Memory is block RAM, as much as the nano model needs.
        CoreConfig(
            name="ulx3s", rows=16, columns=4, lanes=1, ports=1, port_bits=256,
            max_hidden=64, max_ffn=160, max_query=64, max_context=128, max_chunk=4,
            max_layers=4, max_program=64, fifo_words=16, burst_beats=8, outstanding=4,
            clock_mhz=25.0, prefetch_words=16, dsp="18x18",
        ),
    )
}  # fmt: skip
"""Cores of the boards, by the board's name."""

CONFIGS = SIMULATION_CONFIGS | BOARD_CONFIGS


def named_config(name: str) -> CoreConfig:
    """The configuration called `name`; ConfigError lists the known ones."""
    try:
        return CONFIGS[name]
    except KeyError:
        known = ", ".join(sorted(CONFIGS))
        raise ConfigError(f"unknown core configuration {name!r}; known: {known}") from None
