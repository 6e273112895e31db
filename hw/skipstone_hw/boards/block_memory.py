"""The core's memory in block RAM: an AXI4 slave, and a port of 32 bits for the host's bridge."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..memory.axi import AxiSignature, Response

__all__ = ["AccessLayout", "BlockMemory"]

_ACCESS_BITS = 32


class AccessLayout(data.StructLayout):
    """An access of the bridge: `address` counts 32-bit words, `value` is written if `write`."""

    def __init__(self) -> None:
        super().__init__({"address": 32, "write": 1, "value": _ACCESS_BITS})


class BlockMemory(wiring.Component):
    """Memory of `words` words behind one AXI4 port, all of it in block RAM.

    AXI reads and writes are independent; INCR bursts of whole words; a beat beyond the memory is
    answered with DECERR and writes nothing. A read gives a beat per cycle after three cycles, a
    write a beat per cycle. Accesses of the bridge go before those of AXI, at the latest after the
    cycle in which a beat on R waits; reads are answered in their order. Bridge addresses must lie
    within memory.

    Parameters
    ----------
    data_bits : int
        Bits of a word, a power of two from 64.
    words : int
    init : bytes
        What the memory holds at power-up, from word 0; zeros follow.

    Members
    -------
    s_axi : In(AxiSignature(data_bits=data_bits))
    access : In(stream.Signature(AccessLayout()))
    answer : Out(32)
        The word that was read.
    answer_valid : Out(1)
        For one cycle.
    """

    s_axi: Any
    access: stream.Interface
    answer: Signal
    answer_valid: Signal

    def __init__(self, *, data_bits: int, words: int, init: bytes = b""):
        if len(init) > words * data_bits // 8:
            raise ValueError(
                f"init must have at most {words * data_bits // 8} bytes, not {len(init)}"
            )
        self._data_bits, self._words, self._init = data_bits, words, init
        super().__init__(
            {
                "s_axi": In(AxiSignature(data_bits=data_bits)),
                "access": In(stream.Signature(AccessLayout())),
                "answer": Out(_ACCESS_BITS),
                "answer_valid": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        size = self._data_bits // 8
        rows = [self._init[n : n + size] for n in range(0, len(self._init), size)]
        m.submodules.memory = array = memory.Memory(
            shape=self._data_bits,
            depth=self._words,
            init=[int.from_bytes(row, "little") for row in rows],
        )
        self.build_reads(m, array.read_port())
        self.build_writes(m, array.write_port(granularity=8))
        return m

    def _word(self, byte_address: Signal) -> Any:
        return byte_address[exact_log2(self._data_bits // 8) :]

    def build_reads(self, m: Module, port: Any) -> None:
        """Both kinds of reads share a pipeline: address, the RAM's latch, a register."""
        axi = self.s_axi
        lane_log2 = exact_log2(self._data_bits // _ACCESS_BITS)
        asked = self.access.valid & ~self.access.payload.write
        stage = data.StructLayout(
            {"axi": 1, "bridge": 1, "last": 1, "outside": 1, "lane": lane_log2}
        )
        latched, out = Signal(stage, name="latched"), Signal(stage, name="out")
        word = Signal(self._data_bits, reset_less=True)
        advance = Signal()

        address = Signal.like(self._word(axi.araddr))
        left = Signal(9)  # beats to issue
        issue = Signal()
        m.d.comb += [
            advance.eq(~out.axi | axi.rready),
            issue.eq(advance & (left != 0) & ~asked),
            axi.arready.eq(left == 0),
            port.en.eq(advance),
            port.addr.eq(
                Mux(asked, self.access.payload.address[lane_log2:], address[: len(port.addr)])
            ),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [address.eq(self._word(axi.araddr)), left.eq(axi.arlen + 1)]
        with m.Elif(issue):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        with m.If(advance):
            m.d.sync += [
                latched.axi.eq(issue),
                latched.bridge.eq(asked),
                latched.last.eq(left == 1),
                latched.outside.eq(address >= self._words),
                latched.lane.eq(self.access.payload.address[:lane_log2]),
                out.eq(latched),
                word.eq(port.data),
            ]
        m.d.comb += [
            axi.rvalid.eq(out.axi),
            axi.rdata.eq(word),
            axi.rlast.eq(out.last),
            axi.rresp.eq(Mux(out.outside, Response.DECERR, Response.OKAY)),
            # What the bridge reads leaves at once: it is never kept by `advance`.
            self.answer.eq(word.word_select(out.lane, _ACCESS_BITS)),
            self.answer_valid.eq(out.bridge),
            self.access.ready.eq(Mux(self.access.payload.write, 1, advance)),
        ]

    def build_writes(self, m: Module, port: Any) -> None:
        """Addresses, then beats, then the response; the bridge writes between them."""
        axi = self.s_axi
        lane_log2 = exact_log2(self._data_bits // _ACCESS_BITS)
        access = self.access.payload
        mine = self.access.valid & access.write
        address = Signal.like(self._word(axi.awaddr))
        writing, outside = Signal(), Signal()
        m.d.comb += [
            axi.awready.eq(~writing & ~axi.bvalid),
            axi.wready.eq(writing & ~mine),
            axi.bresp.eq(Mux(outside, Response.DECERR, Response.OKAY)),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [address.eq(self._word(axi.awaddr)), writing.eq(1), outside.eq(0)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += address.eq(address + 1)
            with m.If(address >= self._words):
                m.d.sync += outside.eq(1)
            with m.If(axi.wlast):
                m.d.sync += [writing.eq(0), axi.bvalid.eq(1)]
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(mine):
            lanes = Cat(
                (access.address[:lane_log2] == n).replicate(_ACCESS_BITS // 8)
                for n in range(1 << lane_log2)
            )
            m.d.comb += [
                port.addr.eq(access.address[lane_log2:]),
                port.data.eq(access.value.replicate(1 << lane_log2)),
                port.en.eq(lanes),
            ]
        with m.Else():
            m.d.comb += [
                port.addr.eq(address),
                port.data.eq(axi.wdata),
                port.en.eq(
                    axi.wstrb
                    & (axi.wvalid & axi.wready & (address < self._words)).replicate(
                        self._data_bits // 8
                    )
                ),
            ]
