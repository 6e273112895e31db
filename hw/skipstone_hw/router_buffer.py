"""The router buffer: both router vectors of one layer, read in step with the residual stream."""

from amaranth.hdl import Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ROUTER_BITS

from .layouts import INDEX_BITS
from .numeric.pipeline import delay
from .parts import PART_BITS, PartsSignature, part_shape, parts_per_word

__all__ = ["RouterBuffer"]

_PAIR_BITS = 4 * ROUTER_BITS
_EXPONENTS_BITS = 16


class RouterBuffer(wiring.Component):
    """Buffer of a layer's router record.

    A record (`skipstone.spec.layout.pack_router`) is recognised by counting: the first word after
    a whole record, or after reset, is the header of the next. A word takes one cycle for each
    part that is of use. Reading answers in `READ_CYCLES` and never stalls.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    load : In(PartsSignature(config))
    hidden_groups : In(range(max_hidden / group + 1))
        Groups of the hidden dimension, at least 1; must not change while a record is loaded, nor in
        the cycle before.
    begin : Out(1)
        High while a header is accepted.
    busy : Out(1)
        A record has begun and is not complete.
    index : In(INDEX_BITS)
        Pair to read: elements 2 · index and 2 · index + 1.
    mantissas : Out(ArrayLayout(signed(16), 4))
        Attention and MLP of the first element, attention and MLP of the second.
    group : In(range(max_hidden / group))
        Group to read.
    exponents : Out(ArrayLayout(signed(8), 2))
        Attention, MLP.
    largest : Out(ArrayLayout(signed(8), 2))
        Largest exponent of either vector.
    bias : Out(ArrayLayout(32, 2))
        binary32.
    """

    READ_CYCLES = 2

    load: wiring.PureInterface
    hidden_groups: Signal
    begin: Signal
    busy: Signal
    index: Signal
    mantissas: data.View
    group: Signal
    exponents: data.View
    largest: data.View
    bias: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = config
        groups = config.max_hidden // config.group
        super().__init__(
            {
                "load": In(PartsSignature(config)),
                "hidden_groups": In(range(groups + 1)),
                "begin": Out(1),
                "busy": Out(1),
                "index": In(INDEX_BITS),
                "mantissas": Out(data.ArrayLayout(signed(ROUTER_BITS), 4)),
                "group": In(range(groups)),
                "exponents": Out(data.ArrayLayout(signed(8), 2)),
                "largest": Out(data.ArrayLayout(signed(8), 2)),
                "bias": Out(data.ArrayLayout(32, 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        exponents_per_chunk = PART_BITS // _EXPONENTS_BITS
        mantissa_chunks = c.max_hidden * 2 * ROUTER_BITS // PART_BITS
        exponent_chunks = -(-(c.max_hidden // c.group) // exponents_per_chunk)
        shape = unsigned(PART_BITS)
        m.submodules.mantissas = mantissas = memory.Memory(
            shape=shape, depth=mantissa_chunks, init=[]
        )
        m.submodules.exponents = exponents = memory.Memory(
            shape=shape, depth=exponent_chunks, init=[]
        )

        self._load(m, exponents.write_port(), mantissas.write_port(), exponents_per_chunk)
        self._read(m, mantissas.read_port(), self.index, _PAIR_BITS, self.mantissas, "pair")
        self._read(m, exponents.read_port(), self.group, _EXPONENTS_BITS, self.exponents, "group")
        return m

    def _load(self, m, exponents_port, mantissas_port, exponents_per_chunk: int) -> None:
        c = self._config
        place = Signal(part_shape(c))
        chunk = Signal(range(c.max_hidden * 2 * ROUTER_BITS // PART_BITS + 1))
        last_exponents, last_mantissas = Signal.like(chunk), Signal.like(chunk)
        section_end, word_end = Signal(), Signal()
        exponents = (self.hidden_groups + exponents_per_chunk - 1) // exponents_per_chunk
        mantissas = self.hidden_groups * (c.group * 2 * ROUTER_BITS // PART_BITS)
        m.d.sync += [last_exponents.eq(exponents - 1), last_mantissas.eq(mantissas - 1)]
        last = Signal.like(chunk)  # of the section at hand
        m.d.comb += [
            self.load.at.eq(place),
            word_end.eq(section_end | (place == parts_per_word(c) - 1)),
        ]

        write_exponents, write_mantissas = Signal(), Signal()
        with m.FSM() as fsm:
            with m.State("HEADER"):
                m.d.comb += self.load.ready.eq(1)
                with m.If(self.load.valid):
                    m.d.comb += self.begin.eq(1)
                    m.d.sync += Cat(self.bias.as_value(), self.largest.as_value()).eq(
                        self.load.payload
                    )
                    m.d.sync += last.eq(last_exponents)
                    m.next = "EXPONENTS"
            with m.State("EXPONENTS"):
                m.d.comb += [
                    section_end.eq(chunk == last),
                    write_exponents.eq(self.load.valid),
                    self.load.ready.eq(word_end),
                ]
                with m.If(self.load.valid & section_end):
                    m.d.sync += last.eq(last_mantissas)
                    m.next = "MANTISSAS"
            with m.State("MANTISSAS"):
                m.d.comb += [
                    section_end.eq(chunk == last),
                    write_mantissas.eq(self.load.valid),
                    self.load.ready.eq(word_end),
                ]
                with m.If(self.load.valid & section_end):
                    m.next = "HEADER"
        with m.If(write_exponents | write_mantissas):
            m.d.sync += chunk.eq(chunk + 1)
            m.d.sync += place.eq(place + 1)
            with m.If(word_end):
                m.d.sync += place.eq(0)
            with m.If(section_end):
                m.d.sync += chunk.eq(0)

        # Writes go through registers; the last of a record still has to land.
        landing = Signal()
        m.d.sync += landing.eq(write_exponents | write_mantissas)
        m.d.comb += self.busy.eq(~fsm.ongoing("HEADER") | landing)
        for port, en in (
            (exponents_port, write_exponents),
            (mantissas_port, write_mantissas),
        ):
            m.d.comb += [
                port.en.eq(delay(m, en, 1, name="write_en", reset=True)),
                port.addr.eq(delay(m, chunk, 1, name="write_address")),
                port.data.eq(delay(m, self.load.payload, 1, name="write_data")),
            ]

    @staticmethod
    def _read(m, port, index, bits: int, result, name: str) -> None:
        low = exact_log2(PART_BITS // bits)
        m.d.comb += port.addr.eq(index >> low)
        place = delay(m, index[:low], 1, name=f"{name}_place")
        m.d.sync += result.as_value().eq(port.data.word_select(place, bits))
