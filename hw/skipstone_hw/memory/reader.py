"""The stream reader: read commands in, memory words out, over all ports in lockstep addresses."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode

from ..layouts import ErrorLayout, ReadCommandLayout, ReadKind, WordLayout
from .axi import ADDRESS_BITS, AxiReadSignature, Burst, Cache
from .bursts import BurstSplitter, aligned_beats
from .skid import Skid

__all__ = ["Reader"]


class _AddressLayout(data.StructLayout):
    """What varies on a read address channel."""

    def __init__(self) -> None:
        super().__init__({"araddr": ADDRESS_BITS, "arlen": 8})


class _OrderLayout(data.StructLayout):
    """What is to be said about the words of a burst when they leave."""

    def __init__(self, config: CoreConfig):
        beats_bits = aligned_beats(config).bit_length()
        super().__init__({"beats": beats_bits, "kind": ReadKind, "last": 1})


class Reader(wiring.Component):
    """Stream reader over all memory ports.

    Port p reads word `address` at byte `port_base[p] + address · port_bytes`; one beat of every
    port makes a word, port 0 in its low bits. Words leave in the order of the commands, one per
    cycle as long as memory keeps up, without a bubble between bursts or commands. A burst is
    issued on all ports at once, when every port has fewer than `outstanding` bursts in flight and
    every FIFO has room for the whole burst, so R channels are never stalled; skew between ports is
    absorbed by the FIFOs. Commands may be queued ahead: issuing does not wait for words to be
    consumed.

    `PIPELINE_CYCLES` cycles pass from an accepted command to its first `arvalid`,
    `DELIVERY_CYCLES` from the last port's beat to the word on `words`. Against a memory latency of
    L cycles, full rate needs `fifo_words` ≥ L + `burst_beats` + 4 and as many beats in the
    `outstanding` bursts as L plus two bursts.

    On an error the report comes before any word that it concerns; words already in flight still
    follow. To stop, raise `abort` and hold it until `idle`: commands are dropped, data is drained
    and discarded, from the second cycle on no word is offered (a waiting one is withdrawn), bursts
    whose address is already on a channel are completed as AXI demands. After that the reader is as
    new. A memory that never answers keeps `idle` low.

    Parameters
    ----------
    config : CoreConfig
        P = `ports`.

    Members
    -------
    commands : In(stream.Signature(ReadCommandLayout()))
    words : Out(stream.Signature(WordLayout(config)))
    port_base : In(64).array(P)
        Byte address of each port's word 0; must be a multiple of 4096 and stable unless `idle`.
        Bursts are split by word address alone and rely on it not to cross 4 KiB.
    memory_words : In(32)
        Words that may be addressed; stable unless `idle`.
    abort : In(1)
    m_axi : Out(AxiReadSignature(data_bits=port_bits)).array(P)
    error : Out(ErrorLayout())
        ADDRESS_RANGE (the command is dropped) or READ_RESPONSE. None is reported during `abort`.
        If both happen at once, READ_RESPONSE.
    idle : Out(1)
        No command held, nothing outstanding, no word waiting. Low from the cycle after a command
        was accepted.
    """

    PIPELINE_CYCLES = 3
    DELIVERY_CYCLES = 3

    commands: stream.Interface
    words: stream.Interface
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
                "commands": In(stream.Signature(ReadCommandLayout())),
                "words": Out(stream.Signature(WordLayout(config))),
                "port_base": In(ADDRESS_BITS).array(config.ports),
                "memory_words": In(32),
                "abort": In(1),
                "m_axi": Out(AxiReadSignature(data_bits=config.port_bits)).array(config.ports),
                "error": Out(ErrorLayout()),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.splitter = splitter = BurstSplitter(config=config)
        m.submodules.order = order = ResetInserter(self.abort)(
            SyncFIFOBuffered(width=_OrderLayout(config).size, depth=config.fifo_words)
        )
        wiring.connect(m, wiring.flipped(self.commands), splitter.commands)
        m.d.comb += [splitter.memory_words.eq(self.memory_words), splitter.abort.eq(self.abort)]

        issue = Signal()
        fetch = Signal()
        burst = splitter.bursts.payload

        # Room: beats of every FIFO that are neither stored nor promised to a burst in flight.
        room = Signal(range(config.fifo_words + 1), init=config.fifo_words)
        m.d.sync += room.eq(Mux(issue, room - burst.beats + fetch, room + fetch))

        ports = [self.build_port(m, p, issue=issue, burst=burst) for p in range(config.ports)]
        may_issue = Cat(port["may_issue"] for port in ports).all()
        m.d.comb += [
            splitter.bursts.ready.eq(may_issue & (room >= burst.beats) & order.w_rdy),
            issue.eq(splitter.bursts.valid & splitter.bursts.ready),
        ]
        order_in = Signal(_OrderLayout(config))
        m.d.comb += [
            order_in.beats.eq(burst.beats),
            order_in.kind.eq(burst.kind),
            order_in.last.eq(burst.last),
            order.w_data.eq(order_in),
            order.w_en.eq(issue),
        ]

        waiting = self.build_delivery(m, order=order, ports=ports, fetch=fetch)

        bad_response = Cat(port["bad_response"] for port in ports).any()
        failed = Signal()
        code = Signal.like(self.error.code)
        m.d.comb += [self.error.valid.eq(failed & ~self.abort), self.error.code.eq(code)]
        m.d.sync += [
            failed.eq(splitter.error.valid | bad_response),
            code.eq(Mux(bad_response, CoreErrorCode.READ_RESPONSE, CoreErrorCode.ADDRESS_RANGE)),
        ]
        outstanding = Cat(port["outstanding"] for port in ports).any()
        stored = room != config.fifo_words
        m.d.comb += self.idle.eq(splitter.idle & ~outstanding & ~stored & ~waiting)
        with m.If(self.abort):
            m.d.sync += room.eq(config.fifo_words)
        return m

    def build_port(self, m: Module, p: int, *, issue: Signal, burst: Any) -> dict[str, Any]:
        """Address channel, FIFO and counts of port `p`."""
        config = self._config
        axi = self.m_axi[p]
        m.submodules[f"address_{p}"] = address = Skid(shape=_AddressLayout())
        size_log2 = config.port_bytes.bit_length() - 1
        m.d.comb += [
            address.i.valid.eq(issue),
            address.i.payload.araddr.eq(self.port_base[p] + (burst.address << size_log2)),
            address.i.payload.arlen.eq(burst.beats - 1),
            axi.arvalid.eq(address.o.valid),
            address.o.ready.eq(axi.arready),
            axi.araddr.eq(address.o.payload.araddr),
            axi.arlen.eq(address.o.payload.arlen),
            axi.arsize.eq(size_log2),
            axi.arburst.eq(Burst.INCR),
            axi.arcache.eq(Cache.MODIFIABLE_BUFFERABLE),
            axi.rready.eq(1),
        ]

        in_flight = Signal(range(config.outstanding + 1), name=f"in_flight_{p}")
        m.d.sync += in_flight.eq(in_flight + issue - (axi.rvalid & axi.rlast))

        m.submodules[f"fifo_{p}"] = fifo = Memory(
            shape=config.port_bits, depth=config.fifo_words, init=[]
        )
        write, read = fifo.write_port(), fifo.read_port()
        m.d.comb += [write.en.eq(axi.rvalid), write.data.eq(axi.rdata)]
        with m.If(self.abort):
            m.d.sync += write.addr.eq(0)
        with m.Elif(axi.rvalid):
            m.d.sync += write.addr.eq(_next(write.addr, config.fifo_words))
        return {
            "may_issue": address.i.ready & (in_flight != config.outstanding),
            "outstanding": in_flight != 0,
            "bad_response": axi.rvalid & axi.rresp[1],
            "arrived": axi.rvalid,
            "read": read,
        }

    def build_delivery(self, m: Module, *, order: Any, ports: list[Any], fetch: Signal) -> Signal:
        """Join the FIFOs into words; the result tells that a word is on its way out."""
        config = self._config
        current = data.View(_OrderLayout(config), order.r_data)
        latch = Signal(WordLayout(config))
        latched = Signal()
        m.submodules.words = words = ResetInserter(self.abort)(Skid(shape=WordLayout(config)))
        ready = Signal()  # the latch can be loaded
        m.d.comb += ready.eq(~latched | words.i.ready)

        available = []
        for p, port in enumerate(ports):
            level = Signal(range(config.fifo_words + 1), name=f"level_{p}")
            m.d.sync += level.eq(level + port["arrived"] - fetch)
            with m.If(self.abort):
                m.d.sync += level.eq(0)
            available.append(level != 0)
        m.d.comb += fetch.eq(Cat(available).all() & order.r_rdy & ready & ~self.abort)

        address = Signal(range(config.fifo_words))
        beat = Signal.like(current.beats)
        ends_burst = beat == current.beats - 1
        m.d.comb += order.r_en.eq(fetch & ends_burst)
        with m.If(fetch):
            m.d.sync += [
                address.eq(_next(address, config.fifo_words)),
                beat.eq(Mux(ends_burst, 0, beat + 1)),
            ]

        # The memories' own output latch; then registers both ways, so that nobody's logic on
        # `ready` reaches the FIFOs.
        for p, port in enumerate(ports):
            m.d.comb += [
                port["read"].addr.eq(address),
                port["read"].en.eq(fetch),
                latch.data.word_select(p, config.port_bits).eq(port["read"].data),
            ]
        kind = Signal(ReadKind)
        last = Signal()
        m.d.comb += [latch.kind.eq(kind), latch.last.eq(last)]
        with m.If(ready):
            m.d.sync += [
                latched.eq(fetch),
                kind.eq(current.kind),
                last.eq(current.last & ends_burst),
            ]
        with m.If(self.abort):
            m.d.sync += [latched.eq(0), address.eq(0), beat.eq(0)]
        m.d.comb += [
            words.i.valid.eq(latched),
            words.i.payload.eq(latch),
            words.o.ready.eq(self.words.ready),
            self.words.valid.eq(words.o.valid),
            self.words.payload.eq(words.o.payload),
        ]
        waiting = Signal()
        m.d.comb += waiting.eq(latched | words.o.valid)
        return waiting


def _next(pointer: Any, depth: int) -> Any:
    """The pointer after `pointer` in a ring of `depth` entries."""
    return Mux(pointer == depth - 1, 0, pointer + 1)
