"""The program buffer: fetched at the start of a run, one checked instruction at a time."""

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import crc, data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.isa import INSTRUCTION_BYTES, Epilogue, Flag, Opcode, Select

from .layouts import ADDRESS_BITS, ReadCommandLayout, ReadKind
from .parts import PART_BITS, PartsSignature, parts_per_word

__all__ = ["InstructionLayout", "Program", "flag"]

_CRC_BITS = 32


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
                "crc": _CRC_BITS,
            }
        )


class Program(wiring.Component):
    """Instruction memory with CRC check.

    `load` reads the program from memory, an instruction per cycle. `fetch` presents instruction
    `pc` `FETCH_CYCLES` later, with `crc_ok` and `well_formed` telling whether to believe it.

    Tested with programs of every kind of instruction, loaded at full rate and stalled; with any bit
    flipped; with fields out of range.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    load : In(1)
        Pulse: read `length` instructions from word `address` on.
    fetch : In(1)
        Pulse: fetch instruction `pc`.
    address : In(ADDRESS_BITS)
    length : In(32)
        1 to `max_program`, not checked here.
    pc : In(range(max_program + 1))
        Below `length`, not checked here.
    commands : Out(stream.Signature(ReadCommandLayout()))
        One read per `load`.
    words : In(PartsSignature(config))
        Its words.
    instruction : Out(InstructionLayout())
    loaded : Out(1)
        The program is in; falls in the cycle after `load`.
    ready : Out(1)
        `instruction` and the two verdicts are valid; falls in the cycle after `fetch`.
    crc_ok : Out(1)
        The instruction's check word matches.
    well_formed : Out(1)
        Its opcode, epilogue and selection exist.
    """

    FETCH_CYCLES = 4

    load: Signal
    fetch: Signal
    address: Signal
    length: Signal
    pc: Signal
    commands: stream.Interface
    words: wiring.PureInterface
    instruction: data.View
    loaded: Signal
    ready: Signal
    crc_ok: Signal
    well_formed: Signal

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
                "words": In(PartsSignature(c)),
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
        assert INSTRUCTION_BYTES * 8 == PART_BITS
        m.submodules.buffer = buffer = memory.Memory(shape=PART_BITS, depth=c.max_program, init=[])
        self.build_load(m, buffer.write_port())
        self.build_fetch(m, buffer.read_port())
        return m

    def build_load(self, m: Module, write: memory.WritePort) -> None:
        """Program words into the buffer."""
        cursor = Signal(range(self._config.max_program + 1))
        per_word = parts_per_word(self._config)
        receiving, last = Signal(), Signal()
        m.d.comb += [
            last.eq(cursor + 1 == self.length),
            self.commands.payload.address.eq(self.address),
            self.commands.payload.words.eq((self.length + (per_word - 1)) >> exact_log2(per_word)),
            self.commands.payload.kind.eq(ReadKind.OTHER),
            self.words.at.eq(cursor),
            self.words.ready.eq(receiving & (last | (self.words.at == per_word - 1))),
            write.addr.eq(cursor),
            write.data.eq(self.words.payload),
            write.en.eq(receiving & self.words.valid),
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
                m.d.comb += receiving.eq(1)
                with m.If(self.words.valid):
                    m.d.sync += cursor.eq(cursor + 1)
                    with m.If(last):
                        m.d.sync += self.loaded.eq(1)
                        m.next = "IDLE"

    def build_fetch(self, m: Module, read: memory.ReadPort) -> None:
        """An instruction out of the buffer, and past the check."""
        i = self.instruction
        digest = Signal(_CRC_BITS)
        m.d.comb += [
            read.addr.eq(self.pc),
            self.well_formed.eq(
                (i.opcode <= max(Opcode))
                & (i.epilogue <= max(Epilogue))
                & (i.select <= max(Select))
            ),
        ]
        with m.FSM(name="fetch"):
            with m.State("IDLE"), m.If(self.fetch):
                m.d.sync += self.ready.eq(0)
                m.next = "READ"
            with m.State("READ"):
                m.d.sync += i.eq(read.data)
                m.next = "DIGEST"
            with m.State("DIGEST"):
                m.d.sync += digest.eq(_crc(i.as_value()[:-_CRC_BITS]))
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [self.ready.eq(1), self.crc_ok.eq(digest == i.crc)]
                m.next = "IDLE"


def _crc(word: Value) -> Value:
    """CRC-32 of one word, whose length is in bytes.

    A check word is an exclusive or of some of the word's bits for each of its own, inverted or not
    (it is affine over GF(2)). Written that way, it becomes balanced trees; bit after bit, as
    `amaranth.lib.crc` has it, a chain as long as the word, which not every mapper takes apart.
    """
    check = crc.catalog.CRC32_ISO_HDLC(len(word))
    of_zero = check.compute([0])
    of_bit = [check.compute([1 << n]) ^ of_zero for n in range(len(word))]
    bits = []
    for k in range(_CRC_BITS):
        mask = sum((column >> k & 1) << n for n, column in enumerate(of_bit))
        bits.append((word & mask).xor() ^ (of_zero >> k & 1))
    return Cat(bits)


def flag(instruction: data.View, value: Flag) -> Value:
    """Whether an instruction carries a flag."""
    return (instruction.flags & int(value)) != 0
