"""Cutting read commands into AXI bursts."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode

from ..layouts import ADDRESS_BITS, ErrorLayout, ReadCommandLayout, ReadKind
from .skid import Skid

__all__ = ["BurstLayout", "BurstSplitter", "aligned_beats"]


def aligned_beats(config: CoreConfig) -> int:
    """Longest burst: the largest power of two within `burst_beats`; bursts end at its multiples."""
    return 1 << (config.burst_beats.bit_length() - 1)


class BurstLayout(data.StructLayout):
    """Read `beats` words from word `address` on every port; `last` ends its command."""

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "address": ADDRESS_BITS,
                "beats": aligned_beats(config).bit_length(),
                "kind": ReadKind,
                "last": 1,
            }
        )


class BurstSplitter(wiring.Component):
    """Splitter of read commands into bursts.

    A burst ends at the next multiple of `aligned_beats(config)` words. With port bases aligned to
    4 KiB it therefore never crosses 4 KiB, and the same split serves all ports. A command's first
    burst appears two cycles after the command was accepted; from then on there is one burst a
    cycle, across commands too.

    A command that reaches to or beyond `memory_words` is dropped and reported. A command of no
    words is dropped silently.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    commands : In(stream.Signature(ReadCommandLayout()))
    bursts : Out(stream.Signature(BurstLayout(config)))
    memory_words : In(32)
    abort : In(1)
        While high, commands are dropped and no burst is offered; from the second cycle on they
        are all accepted.
    error : Out(ErrorLayout())
        ADDRESS_RANGE.
    idle : Out(1)
        No command is held.
    """

    commands: stream.Interface
    bursts: stream.Interface
    memory_words: Signal
    abort: Signal
    error: data.View
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "commands": In(stream.Signature(ReadCommandLayout())),
                "bursts": Out(stream.Signature(BurstLayout(config))),
                "memory_words": In(32),
                "abort": In(1),
                "error": Out(ErrorLayout()),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        limit = aligned_beats(self._config)
        limit_log2 = limit.bit_length() - 1

        # First stage: the command; its `ready` is a register.
        m.submodules.held = held = ResetInserter(self.abort)(Skid(shape=ReadCommandLayout()))
        wiring.connect(m, wiring.flipped(self.commands), held.i)
        command = held.o.payload
        # Second stage: what is left of the command being split, and its next burst.
        current = Signal(ReadCommandLayout())
        current_valid = Signal()
        burst = self.bursts.payload
        beats, final = Signal.like(burst.beats), Signal()
        m.d.comb += [
            self.bursts.valid.eq(current_valid & ~self.abort),
            burst.address.eq(current.address),
            burst.beats.eq(beats),
            burst.kind.eq(current.kind),
            burst.last.eq(final),
        ]
        taken = Signal()
        m.d.comb += taken.eq(self.bursts.valid & self.bursts.ready)

        def next_burst(words: Value, most: Value | int) -> list[Any]:
            """Of `words`, before which the next boundary lies `most` words away."""
            fits = words <= most
            return [final.eq(fits), beats.eq(Mux(fits, words, most))]

        left = Signal.like(current.words)
        m.d.comb += left.eq(current.words - beats)
        with m.If(taken):
            m.d.sync += [
                current_valid.eq(~final),
                current.address.eq(
                    Cat(Const(0, limit_log2), (current.address >> limit_log2) + 1),
                ),
                current.words.eq(left),
                *next_burst(left, limit),
            ]

        free = Signal()
        m.d.comb += free.eq(~current_valid | (taken & final))
        in_range = command.address + command.words <= self.memory_words
        m.d.comb += held.o.ready.eq(free)
        m.d.sync += self.error.valid.eq(0)
        with m.If(free & held.o.valid):
            m.d.sync += [
                current.eq(command),
                *next_burst(command.words, limit - command.address[:limit_log2]),
                current_valid.eq(in_range & (command.words != 0)),
                self.error.valid.eq(~in_range),
                self.error.code.eq(CoreErrorCode.ADDRESS_RANGE),
            ]
        with m.If(self.abort):
            m.d.sync += current_valid.eq(0)

        m.d.comb += self.idle.eq(~held.o.valid & ~current_valid)
        return m
