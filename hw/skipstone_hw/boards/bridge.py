"""The bridge from a serial line to the core's registers and memory (`skipstone.spec.serial`)."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import crc, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.serial import (
    MAX_WORDS,
    PROTOCOL_VERSION,
    REQUEST_START,
    RESPONSE_START,
    Operation,
    Status,
)

from ..memory.axi import LITE_ADDRESS_BITS, AxiLiteSignature
from .block_memory import AccessLayout

__all__ = ["SerialBridge"]

_HEAD_BYTES = 14  # operation, tag, address, words, CRC
_CRC_BYTES = 4
_RESET_CYCLES = 16


class SerialBridge(wiring.Component):
    """Master of the core's control port and of memory, slave of a serial line.

    One request at a time; bytes that arrive while a request is carried out or answered are lost.
    Registers take about five cycles each, memory a cycle or two for 32 bits; CHECK_MEMORY streams.

    Parameters
    ----------
    memory_bytes : int
        What may be accessed.

    Members
    -------
    rx_data : In(8)
    rx_valid : In(1)
        From `UartReceiver`.
    tx : Out(stream.Signature(8))
        To `UartTransmitter`.
    m_axi_control : Out(AxiLiteSignature())
    access : Out(stream.Signature(AccessLayout()))
    answer : In(32)
    answer_valid : In(1)
        To and from `BlockMemory`.
    reset : Out(1)
        Core and memory's port are to be reset.
    """

    rx_data: Signal
    rx_valid: Signal
    tx: stream.Interface
    m_axi_control: Any
    access: stream.Interface
    answer: Signal
    answer_valid: Signal
    reset: Signal

    def __init__(self, *, memory_bytes: int):
        self._memory_bytes = memory_bytes
        super().__init__(
            {
                "rx_data": In(8),
                "rx_valid": In(1),
                "tx": Out(stream.Signature(8)),
                "m_axi_control": Out(AxiLiteSignature()),
                "access": Out(stream.Signature(AccessLayout())),
                "answer": In(32),
                "answer_valid": In(1),
                "reset": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = self._crc = crc.catalog.CRC32_ISO_HDLC(8).create()
        m.submodules.buffer = buffer = memory.Memory(shape=32, depth=MAX_WORDS, init=[])
        self._store, self._fetch = buffer.write_port(), buffer.read_port()

        # The request.
        head = Signal(8 * _HEAD_BYTES)
        self._tag, self._address, self._words = head[8:16], head[16:48], head[48:80]
        self._status = Signal(Status)
        self._answer_words = Signal(range(MAX_WORDS + 1))
        self._index = Signal(range(MAX_WORDS + 1))  # of a word in the buffer
        m.d.comb += self._fetch.addr.eq(self._index)

        with m.FSM():
            self.build_request(m, head)
            self.build_registers(m)
            self.build_memory(m)
            self.build_check(m)
            self.build_reset(m)
            self.build_response(m)
        return m

    def _finish(self, m: Module, status: Status, words: Any = 0) -> None:
        """Answer with `status` and `words` words of the buffer."""
        m.d.sync += [
            self._status.eq(status),
            self._answer_words.eq(words),
            self._index.eq(0),
        ]
        m.next = "RESPOND"

    def build_request(self, m: Module, head: Signal) -> None:
        """Take a request, judge it, take its data, judge them."""
        check = self._crc
        operation = head[:8]
        count = Signal(range(4 * MAX_WORDS + _CRC_BYTES + 1))  # bytes taken
        value = Signal(32)
        end = Signal(34)
        outside, writes, some = Signal(), Signal(), Signal()
        register_space = Const(1 << LITE_ADDRESS_BITS)
        of_registers = (operation == Operation.READ_REGISTERS) | (
            operation == Operation.WRITE_REGISTERS
        )
        m.d.comb += [
            end.eq(self._address + (self._words << 2)),
            outside.eq(
                (end > Mux(of_registers, register_space, self._memory_bytes))
                | (self._address[:2] != 0)
                | self._words[30:].any()
            ),
            writes.eq(
                (operation == Operation.WRITE_REGISTERS) | (operation == Operation.WRITE_MEMORY)
            ),
            some.eq((self._words != 0) & (self._words <= MAX_WORDS)),
        ]
        with m.State("HUNT"):
            m.d.comb += check.start.eq(1)
            m.d.sync += [count.eq(0), self._index.eq(0)]
            with m.If(self.rx_valid & (self.rx_data == REQUEST_START)):
                m.next = "HEAD"
        with m.State("HEAD"):
            m.d.comb += [check.data.eq(self.rx_data), check.valid.eq(self.rx_valid)]
            with m.If(self.rx_valid):
                m.d.sync += [head.eq(Cat(head[8:], self.rx_data)), count.eq(count + 1)]
                with m.If(count == _HEAD_BYTES - 1):
                    m.next = "JUDGE"
        with m.State("JUDGE"):
            m.d.comb += check.start.eq(1)
            m.d.sync += count.eq(0)
            with m.If(~check.match_detected):
                m.next = "HUNT"
            with m.Elif(writes & some):
                m.next = "DATA"
            with m.Else():
                m.next = "EXECUTE"
        with m.State("DATA"):
            m.d.comb += [check.data.eq(self.rx_data), check.valid.eq(self.rx_valid)]
            m.d.comb += [self._store.addr.eq(self._index), self._store.data.eq(value)]
            with m.If(self.rx_valid):
                m.d.sync += [value.eq(Cat(value[8:], self.rx_data)), count.eq(count + 1)]
                # A word is stored when the byte after it comes; behind the data stands the CRC.
                with m.If((count[:2] == 0) & (count != 0)):
                    m.d.comb += self._store.en.eq(1)
                    m.d.sync += self._index.eq(self._index + 1)
                with m.If(count == (self._words[:9] << 2) + _CRC_BYTES - 1):
                    m.next = "DATA-JUDGE"
        with m.State("DATA-JUDGE"):
            m.d.sync += self._index.eq(0)
            with m.If(check.match_detected):
                m.next = "EXECUTE"
            with m.Else():
                self._finish(m, Status.BAD_DATA)
        with m.State("EXECUTE"):
            m.d.comb += check.start.eq(1)
            with m.Switch(operation):
                with m.Case(Operation.IDENTIFY):
                    m.next = "IDENTIFY"
                with m.Case(Operation.RESET):
                    m.next = "RESET"
                with m.Case(Operation.CHECK_MEMORY):
                    with m.If(outside):
                        self._finish(m, Status.BAD_REQUEST)
                    with m.Else():
                        m.next = "CHECK"
                for case, state in (
                    (Operation.READ_REGISTERS, "READ-REGISTER"),
                    (Operation.WRITE_REGISTERS, "FETCH"),
                    (Operation.READ_MEMORY, "READ-MEMORY"),
                    (Operation.WRITE_MEMORY, "FETCH"),
                ):
                    with m.Case(case):
                        with m.If(outside | ~some):
                            self._finish(m, Status.BAD_REQUEST)
                        with m.Else():
                            m.next = state
                with m.Default():
                    self._finish(m, Status.BAD_REQUEST)
        with m.State("FETCH"):
            with m.If(operation == Operation.WRITE_REGISTERS):
                m.next = "WRITE-REGISTER"
            with m.Else():
                m.next = "WRITE-MEMORY"
        with m.State("IDENTIFY"):
            m.d.comb += [
                self._store.en.eq(1),
                self._store.addr.eq(self._index),
                self._store.data.eq(Mux(self._index[0], self._memory_bytes, PROTOCOL_VERSION)),
            ]
            m.d.sync += self._index.eq(self._index + 1)
            with m.If(self._index[0]):
                self._finish(m, Status.OK, 2)

    def _step(self, m: Module, again: str, words: Any = 0) -> None:
        """The next word, or the answer if this was the last."""
        m.d.sync += self._index.eq(self._index + 1)
        m.next = again
        with m.If(self._index + 1 == self._words):
            self._finish(m, Status.OK, words)

    def build_registers(self, m: Module) -> None:
        """One access of the control port for each word."""
        axi = self.m_axi_control
        address = (self._address + (self._index << 2))[:LITE_ADDRESS_BITS]
        address_done, data_done = Signal(), Signal()
        m.d.comb += [
            axi.araddr.eq(address),
            axi.awaddr.eq(address),
            axi.wdata.eq(self._fetch.data),
            axi.wstrb.eq(0xF),
        ]
        with m.State("READ-REGISTER"):
            m.d.comb += axi.arvalid.eq(1)
            with m.If(axi.arready):
                m.next = "REGISTER-VALUE"
        with m.State("REGISTER-VALUE"):
            m.d.comb += [
                axi.rready.eq(1),
                self._store.addr.eq(self._index),
                self._store.data.eq(axi.rdata),
                self._store.en.eq(axi.rvalid),
            ]
            with m.If(axi.rvalid):
                self._step(m, "READ-REGISTER", self._words[:9])
                with m.If(axi.rresp[1]):
                    self._finish(m, Status.BUS_ERROR)
        with m.State("WRITE-REGISTER"):
            m.d.comb += [axi.awvalid.eq(~address_done), axi.wvalid.eq(~data_done)]
            with m.If(axi.awvalid & axi.awready):
                m.d.sync += address_done.eq(1)
            with m.If(axi.wvalid & axi.wready):
                m.d.sync += data_done.eq(1)
            with m.If(address_done & data_done):
                m.d.comb += axi.bready.eq(1)
                with m.If(axi.bvalid):
                    m.d.sync += [address_done.eq(0), data_done.eq(0)]
                    self._step(m, "FETCH")
                    with m.If(axi.bresp[1]):
                        self._finish(m, Status.BUS_ERROR)

    def build_memory(self, m: Module) -> None:
        """One access of memory for each word."""
        access = self.access
        address = (self._address >> 2) + self._index
        with m.State("READ-MEMORY"):
            m.d.comb += [access.valid.eq(1), access.payload.address.eq(address)]
            with m.If(access.ready):
                m.next = "MEMORY-VALUE"
        with m.State("MEMORY-VALUE"):
            m.d.comb += [
                self._store.addr.eq(self._index),
                self._store.data.eq(self.answer),
                self._store.en.eq(self.answer_valid),
            ]
            with m.If(self.answer_valid):
                self._step(m, "READ-MEMORY", self._words[:9])
        with m.State("WRITE-MEMORY"):
            m.d.comb += [
                access.valid.eq(1),
                access.payload.address.eq(address),
                access.payload.write.eq(1),
                access.payload.value.eq(self._fetch.data),
            ]
            with m.If(access.ready):
                self._step(m, "FETCH")

    def build_check(self, m: Module) -> None:
        """The CRC of any number of words, read without a pause."""
        m.submodules.check = check = crc.catalog.CRC32_ISO_HDLC(32).create()
        asked, taken = Signal(32), Signal(32)
        m.d.comb += [check.data.eq(self.answer), check.valid.eq(self.answer_valid)]
        with m.State("CHECK"):
            m.d.comb += check.start.eq(1)
            m.d.sync += [asked.eq(0), taken.eq(0)]
            m.next = "CHECKING"
        with m.State("CHECKING"):
            m.d.comb += [
                self.access.valid.eq(asked != self._words),
                self.access.payload.address.eq((self._address >> 2) + asked),
            ]
            with m.If(self.access.valid & self.access.ready):
                m.d.sync += asked.eq(asked + 1)
            with m.If(self.answer_valid):
                m.d.sync += taken.eq(taken + 1)
            with m.If(taken == self._words):
                m.d.comb += [
                    self._store.addr.eq(0),
                    self._store.data.eq(check.crc),
                    self._store.en.eq(1),
                ]
                self._finish(m, Status.OK, 1)

    def build_reset(self, m: Module) -> None:
        """Hold the reset line for a while."""
        left = Signal(range(_RESET_CYCLES), init=_RESET_CYCLES - 1)
        with m.State("RESET"):
            m.d.comb += self.reset.eq(1)
            m.d.sync += left.eq(left - 1)
            with m.If(left == 0):
                m.d.sync += left.eq(_RESET_CYCLES - 1)
                self._finish(m, Status.OK)

    def build_response(self, m: Module) -> None:
        """Start byte, head, data, CRC."""
        tx, check = self.tx, self._crc
        place = Signal(3)  # of a byte in what is being sent
        moves = tx.valid & tx.ready
        answer_words = Signal(16)
        m.d.comb += answer_words.eq(self._answer_words)

        def send(bytes_: Any, count: int, following: str) -> None:
            m.d.comb += [tx.valid.eq(1), tx.payload.eq(bytes_.word_select(place, 8))]
            with m.If(moves):
                m.d.sync += place.eq(place + 1)
                with m.If(place == count - 1):
                    m.d.sync += place.eq(0)
                    m.next = following

        with m.State("RESPOND"):
            m.d.comb += check.start.eq(1)
            send(Const(RESPONSE_START, 8), 1, "RESPOND-HEAD")
        with m.State("RESPOND-HEAD"):
            head = Signal(32)
            status = Signal(8)
            m.d.comb += [status.eq(self._status), head.eq(Cat(status, self._tag, answer_words))]
            m.d.comb += [check.data.eq(tx.payload), check.valid.eq(moves)]
            send(head, 4, "RESPOND-NEXT")
        with m.State("RESPOND-NEXT"):
            with m.If(self._answer_words == self._index):
                m.next = "RESPOND-CRC"
            with m.Else():
                m.next = "RESPOND-DATA"
        with m.State("RESPOND-DATA"):
            m.d.comb += [check.data.eq(tx.payload), check.valid.eq(moves)]
            send(self._fetch.data, 4, "RESPOND-NEXT")
            with m.If(moves & (place == 3)):
                m.d.sync += self._index.eq(self._index + 1)
        with m.State("RESPOND-CRC"):
            send(check.crc, _CRC_BYTES, "HUNT")
