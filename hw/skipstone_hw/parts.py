"""Parts of memory words: what is not for the array comes out of its words 32 bytes at a time.

That is an instruction, a record, eight pairs of an embedding row, four angles of RoPE, sixteen
exponents of a router: nobody takes more of a word in a cycle. On a large card a word has 64 parts
and the choice of one is thousands of LUTs, so it is made in one place, for all who take parts.
"""

from typing import Any

from amaranth.hdl import Module, Shape, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from skipstone.spec.config import CoreConfig

__all__ = ["PART_BITS", "Parts", "PartsSignature", "part_shape", "parts_per_word"]

PART_BITS = 256


def parts_per_word(config: CoreConfig) -> int:
    """Parts of a memory word: a power of two."""
    return config.word_bits // PART_BITS


def part_shape(config: CoreConfig) -> Shape:
    """Number of a part within its word."""
    return unsigned(ceil_log2(parts_per_word(config)))


class PartsSignature(wiring.Signature):
    """A stream of memory words, of which the taker sees one part.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    valid : Out(1)
        There is a word.
    at : In(part_shape(config))
        The part that is wanted; may change in every cycle.
    payload : Out(256)
        It, in the same cycle.
    ready : In(1)
        The taker is done with the whole word.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "valid": Out(1),
                "at": In(part_shape(config)),
                "payload": Out(PART_BITS),
                "ready": In(1),
            }
        )


class Parts(wiring.Component):
    """The choice of a part, for several takers, one of whom has its turn.

    Parameters
    ----------
    config : CoreConfig
    takers : int

    Members
    -------
    i : In(stream.Signature(word_bits))
    turn : In(range(takers))
        Whose words these are.
    o : Out(PartsSignature(config)).array(takers)
    """

    i: stream.Interface
    turn: Signal
    o: list[Any]

    def __init__(self, *, config: CoreConfig, takers: int):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(config.word_bits)),
                "turn": In(range(takers)),
                "o": Out(PartsSignature(config)).array(takers),
            }
        )

    def elaborate(self, platform):
        m = Module()
        at = Signal(part_shape(self._config))
        part = Signal(PART_BITS)
        m.d.comb += part.eq(self.i.payload.word_select(at, PART_BITS))
        for n, taker in enumerate(self.o):
            m.d.comb += taker.payload.eq(part)
            with m.If(self.turn == n):
                m.d.comb += [
                    at.eq(taker.at),
                    taker.valid.eq(self.i.valid),
                    self.i.ready.eq(taker.ready),
                ]
        return m
