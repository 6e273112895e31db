"""The core's memory in block RAM: an AXI4 slave, and a port of 32 bits for the host's bridge."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..memory.axi import AxiSignature, Response
from .ecp5_memory import Ecp5Memory

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
        A multiple of 512.
    init : bytes
        What the memory holds after configuration, from word 0; zeros follow.

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
        m.submodules.array = array = Ecp5Memory(
            data_bits=self._data_bits, words=self._words, init=self._init
        )
        self.build_reads(m, array)
        self.build_writes(m, array)
        return m

    def _word(self, byte_address: Signal) -> Any:
        return byte_address[exact_log2(self._data_bits // 8) :]

    def build_reads(self, m: Module, array: Ecp5Memory) -> None:
        """Both kinds of reads share a pipeline: address, the RAM's latch, a register."""
        axi = self.s_axi
        lane_log2 = exact_log2(self._data_bits // _ACCESS_BITS)
        asked = self.access.valid & ~self.access.payload.write
        stage = data.StructLayout(
            {"axi": 1, "bridge": 1, "id": 1, "last": 1, "outside": 1, "lane": lane_log2}
        )
        latched, out = Signal(stage, name="latched"), Signal(stage, name="out")
        word = Signal(self._data_bits, reset_less=True)
        advance = Signal()

        address = Signal.like(self._word(axi.araddr))
        left = Signal(9)  # beats to issue
        identity = Signal()
        issue = Signal()
        m.d.comb += [
            advance.eq(~out.axi | axi.rready),
            issue.eq(advance & (left != 0) & ~asked),
            axi.arready.eq(left == 0),
            array.read_en.eq(advance),
            array.read_addr.eq(Mux(asked, self.access.payload.address[lane_log2:], address[:32])),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [
                address.eq(self._word(axi.araddr)),
                left.eq(axi.arlen + 1),
                identity.eq(axi.arid),
            ]
        with m.Elif(issue):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        with m.If(advance):
            m.d.sync += [
                latched.axi.eq(issue),
                latched.bridge.eq(asked),
                latched.id.eq(identity),
                latched.last.eq(left == 1),
                latched.outside.eq(address >= self._words),
                latched.lane.eq(self.access.payload.address[:lane_log2]),
                out.eq(latched),
                word.eq(array.read_data),
            ]
        m.d.comb += [
            axi.rvalid.eq(out.axi),
            axi.rdata.eq(word),
            axi.rid.eq(out.id),
            axi.rlast.eq(out.last),
            axi.rresp.eq(Mux(out.outside, Response.DECERR, Response.OKAY)),
            # What the bridge reads leaves at once: it is never kept by `advance`.
            self.answer.eq(word.word_select(out.lane, _ACCESS_BITS)),
            self.answer_valid.eq(out.bridge),
            self.access.ready.eq(Mux(self.access.payload.write, 1, advance)),
        ]

    def build_writes(self, m: Module, array: Ecp5Memory) -> None:
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
            m.d.sync += [
                address.eq(self._word(axi.awaddr)),
                axi.bid.eq(axi.awid),
                writing.eq(1),
                outside.eq(0),
            ]
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
                array.write_addr.eq(access.address[lane_log2:]),
                array.write_data.eq(access.value.replicate(1 << lane_log2)),
                array.write_en.eq(lanes),
            ]
        with m.Else():
            m.d.comb += [
                array.write_addr.eq(address),
                array.write_data.eq(axi.wdata),
                array.write_en.eq(
                    axi.wstrb
                    & (axi.wvalid & axi.wready & (address < self._words)).replicate(
                        self._data_bits // 8
                    )
                ),
            ]
