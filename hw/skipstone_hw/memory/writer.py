"""The writer: pieces of words with byte strobes in, single-beat AXI writes out."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode

from ..layouts import ErrorLayout, WriteLayout, piece_bytes
from .axi import ADDRESS_BITS, AxiWriteSignature, Burst, Cache
from .skid import Skid

__all__ = ["Writer"]


class _BeatLayout(data.StructLayout):
    """What varies on a write data channel."""

    def __init__(self, config: CoreConfig):
        super().__init__({"wdata": config.port_bits, "wstrb": config.port_bytes})


class Writer(wiring.Component):
    """Byte-strobed writer over all memory ports.

    A piece goes out as one single-beat write on each of its ports whose slice of `strobe` is not
    zero; port p writes byte `port_base[p] + address · port_bytes`. A piece is accepted in every
    second cycle while its ports have room: an entry on its data channel, one of two on its address
    channel, and fewer than `OUTSTANDING` writes not yet acknowledged. Writes of one port to one
    address take effect in order; nothing else is ordered but by waiting for `idle`.

    To stop, raise `abort` and hold it until `idle`: pieces are accepted and dropped, writes already
    handed to a port are completed as AXI demands. After that the writer is as new. A memory that
    never answers keeps `idle` low.

    `PIPELINE_CYCLES` cycles pass from an accepted piece to its `awvalid` and `wvalid`.

    Parameters
    ----------
    config : CoreConfig
        P = `ports`.

    Members
    -------
    i : In(stream.Signature(WriteLayout(config)))
    port_base : In(64).array(P)
        Byte address of each port's word 0; must be a multiple of 4096 and stable unless `idle`.
    memory_words : In(32)
        Words that may be addressed; stable unless `idle`.
    abort : In(1)
    m_axi : Out(AxiWriteSignature(data_bits=port_bits)).array(P)
    error : Out(ErrorLayout())
        ADDRESS_RANGE (the piece is dropped) or WRITE_RESPONSE. None is reported during `abort`.
        If both happen at once, WRITE_RESPONSE.
    idle : Out(1)
        Nothing held, every write acknowledged. Low from the cycle after a piece was accepted.
    """

    PIPELINE_CYCLES = 2
    OUTSTANDING = 16

    i: stream.Interface
    port_base: Any
    memory_words: Signal
    abort: Signal
    m_axi: Any
    error: data.View
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(WriteLayout(config))),
                "port_base": In(ADDRESS_BITS).array(config.ports),
                "memory_words": In(32),
                "abort": In(1),
                "m_axi": Out(AxiWriteSignature(data_bits=config.port_bits)).array(config.ports),
                "error": Out(ErrorLayout()),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        held = Signal(WriteLayout(config))
        held_valid = Signal()
        in_range = Signal()
        m.d.comb += in_range.eq(held.address < self.memory_words)

        dispatch = Signal()
        ports = [self.build_port(m, p, held=held, dispatch=dispatch) for p in range(config.ports)]
        room = Cat(port["room"] for port in ports).all()
        # `ready` is a register: what the ports say goes no further.
        m.d.comb += [
            dispatch.eq(held_valid & in_range & room & ~self.abort),
            self.i.ready.eq(~held_valid),
        ]
        with m.If(~held_valid):
            m.d.sync += [held.eq(self.i.payload), held_valid.eq(self.i.valid & ~self.abort)]
        with m.Elif(room | self.abort):
            m.d.sync += held_valid.eq(0)

        out_of_range = held_valid & ~in_range & room
        bad_response = Cat(port["bad_response"] for port in ports).any()
        failed = Signal()
        code = Signal.like(self.error.code)
        m.d.comb += [self.error.valid.eq(failed & ~self.abort), self.error.code.eq(code)]
        m.d.sync += [
            failed.eq(out_of_range | bad_response),
            code.eq(Mux(bad_response, CoreErrorCode.WRITE_RESPONSE, CoreErrorCode.ADDRESS_RANGE)),
        ]
        outstanding = Cat(port["outstanding"] for port in ports).any()
        m.d.comb += self.idle.eq(~held_valid & ~outstanding)
        return m

    def build_port(self, m: Module, p: int, *, held: Any, dispatch: Signal) -> dict[str, Any]:
        """Channels and count of port `p`."""
        config = self._config
        axi = self.m_axi[p]
        m.submodules[f"address_{p}"] = address = Skid(shape=ADDRESS_BITS)
        # All ports together are as wide as the core's whole memory: no room for a second beat.
        beat, beat_valid = Signal(_BeatLayout(config), name=f"data_{p}"), Signal()
        size_log2 = config.port_bytes.bit_length() - 1
        piece, part = divmod(p, piece_bytes(config) // config.port_bytes)
        strobe = held.strobe.word_select(part, config.port_bytes)
        mine = Signal(name=f"mine_{p}")
        write = Signal(name=f"write_{p}")
        m.d.comb += [
            mine.eq(held.piece == piece),
            write.eq(dispatch & mine & strobe.any()),
            address.i.valid.eq(write),
            address.i.payload.eq(self.port_base[p] + (held.address << size_log2)),
            axi.awvalid.eq(address.o.valid),
            address.o.ready.eq(axi.awready),
            axi.awaddr.eq(address.o.payload),
            axi.awsize.eq(size_log2),
            axi.awburst.eq(Burst.INCR),
            axi.awcache.eq(Cache.MODIFIABLE_BUFFERABLE),
            axi.wvalid.eq(beat_valid),
            axi.wdata.eq(beat.wdata),
            axi.wstrb.eq(beat.wstrb),
            axi.wlast.eq(1),
            axi.bready.eq(1),
        ]
        with m.If(write):
            m.d.sync += [
                beat_valid.eq(1),
                beat.wdata.eq(held.data.word_select(part, config.port_bits)),
                beat.wstrb.eq(strobe),
            ]
        with m.Elif(axi.wready):
            m.d.sync += beat_valid.eq(0)
        in_flight = Signal(range(self.OUTSTANDING + 1), name=f"in_flight_{p}")
        m.d.sync += in_flight.eq(in_flight + write - axi.bvalid)
        return {
            "room": ~mine | (address.i.ready & ~beat_valid & (in_flight != self.OUTSTANDING)),
            "outstanding": in_flight != 0,
            "bad_response": axi.bvalid & axi.bresp[1],
        }
