"""The program buffer: fetched at the start of a run, one checked instruction at a time."""

from amaranth import Module, Signal, signed
from amaranth.lib import crc, data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from skipstone.spec.config import CoreConfig
from skipstone.spec.isa import INSTRUCTION_BYTES, Epilogue, Opcode, Select

from .layouts import ADDRESS_BITS, ReadCommandLayout, ReadKind

__all__ = ["InstructionLayout", "Program", "flag"]

_BITS = 8 * INSTRUCTION_BYTES


class InstructionLayout(data.StructLayout):
    """An instruction's fields (`skipstone.spec.isa`), in the order of its bits."""

    def __init__(self):
        super().__init__(
            {
                "opcode": 8,
                "epilogue": 4,
                "select": 4,
                "flags": 8,
                "layer": 8,
                "address": ADDRESS_BITS,
                "groups": 16,
                "blocks": 16,
                "exponent": signed(8),
                "source": 8,
                "reserved": 16,
                "a": 32,
                "b": 32,
                "c": 32,
                "crc": 32,
            }
        )


class Program(wiring.Component):
    """Instruction memory with CRC check.

    `load` reads `length` instructions from word `address`; `loaded` is high when they are in. `fetch` presents
    instruction `pc`; `ready` is high `FETCH_CYCLES` later and stays until the next fetch, with
    `crc_ok` and `well_formed` telling whether to believe it.

    Members
    -------
    load, fetch : In(1)
        Pulses.
    address, length, pc : In
    commands, words : streams to and from the reader
    instruction : Out
    loaded, ready, crc_ok, well_formed : Out(1)
    """

    FETCH_CYCLES = 4

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        super().__init__(
            {
                "load": In(1),
                "fetch": In(1),
                "address": In(ADDRESS_BITS),
                "length": In(32),
                "pc": In(range(c.max_program + 1)),
                "commands": Out(stream.Signature(ReadCommandLayout())),
                "words": In(stream.Signature(c.word_bits)),
                "instruction": Out(InstructionLayout()),
                "loaded": Out(1),
                "ready": Out(1),
                "crc_ok": Out(1),
                "well_formed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        per_word = c.word_bits // _BITS
        shift = exact_log2(per_word)
        m.submodules.words_memory = buffer = memory.Memory(
            shape=c.word_bits, depth=-(-c.max_program // per_word), init=[]
        )
        write, read = buffer.write_port(), buffer.read_port()
        cursor, words = Signal(range(c.max_program + 1)), Signal(24)
        m.d.comb += [
            words.eq((self.length + per_word - 1) >> shift),
            self.commands.payload.address.eq(self.address),
            self.commands.payload.words.eq(words),
            self.commands.payload.kind.eq(ReadKind.OTHER),
            write.addr.eq(cursor),
            write.data.eq(self.words.payload),
            write.en.eq(self.words.valid & self.words.ready),
            read.addr.eq(self.pc >> shift),
        ]
        with m.FSM(name="load"):
            with m.State("IDLE"):
                m.d.sync += cursor.eq(0)
                with m.If(self.load):
                    m.d.sync += self.loaded.eq(0)
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.commands.valid.eq(1)
                with m.If(self.commands.ready):
                    m.next = "RECEIVE"
            with m.State("RECEIVE"):
                m.d.comb += self.words.ready.eq(1)
                with m.If(self.words.valid):
                    m.d.sync += cursor.eq(cursor + 1)
                    with m.If(cursor + 1 == words):
                        m.d.sync += self.loaded.eq(1)
                        m.next = "IDLE"

        m.submodules.crc = check = crc.catalog.CRC32_ISO_HDLC(_BITS - 32).create()
        i = self.instruction
        place = Signal(range(max(2, per_word)))
        m.d.comb += [
            place.eq(self.pc & (per_word - 1)),
            check.data.eq(i.as_value()[: _BITS - 32]),
        ]
        with m.FSM(name="fetch"):
            with m.State("IDLE"):
                with m.If(self.fetch):
                    m.d.sync += self.ready.eq(0)
                    m.next = "READ"
            with m.State("READ"):
                m.d.sync += i.eq(read.data.word_select(place, _BITS))
                m.next = "DIGEST"
            with m.State("DIGEST"):
                m.d.comb += [check.start.eq(1), check.valid.eq(1)]
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [self.ready.eq(1), self.crc_ok.eq(check.crc == i.crc)]
                m.next = "IDLE"
        m.d.comb += self.well_formed.eq(
            (i.opcode <= max(Opcode)) & (i.epilogue <= max(Epilogue)) & (i.select <= max(Select))
        )
        return m


def flag(instruction, value):
    """Whether an instruction carries an `isa.Flag`."""
    return (instruction.flags & int(value)) != 0

