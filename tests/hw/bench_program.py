"""Bench of the program buffer: random programs, fetched in any order, some of them damaged."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

import cocotb

from skipstone.spec.errors import ImageError
from skipstone.spec.isa import (
    INSTRUCTION_BYTES,
    Epilogue,
    Flag,
    Instruction,
    Opcode,
    Select,
    decode_program,
    encode_program,
)
from skipstone_hw.layouts import ReadCommandLayout, ReadKind
from skipstone_hw.program import InstructionLayout, Program
from skipstone_sim.bench_tools import (
    StreamDriver,
    StreamMonitor,
    begin,
    bench_config,
    cycle,
    random_stall,
    unpack,
)

CONFIG = bench_config()


def random_instruction(rng: random.Random) -> Instruction:
    return Instruction(
        opcode=rng.choice(list(Opcode)),
        epilogue=rng.choice(list(Epilogue)),
        select=rng.choice(list(Select)),
        flags=Flag(rng.randrange(4)),
        layer=rng.randrange(64),
        address=rng.getrandbits(32),
        groups=rng.getrandbits(16),
        blocks=rng.getrandbits(16),
        exponent=rng.randrange(-128, 128),
        source=rng.getrandbits(8),
        a=rng.getrandbits(32),
        b=rng.getrandbits(32),
        c=rng.getrandbits(32),
    )


class TestBench:
    """The unit; its reads are answered from a program."""

    def __init__(self, dut: Any, *, stall: float):
        stalls = [random_stall(stall, seed=n) if stall else None for n in range(2)]
        self.dut, self.rng = dut, random.Random(9)
        self.commands = StreamMonitor(dut, "commands", shape=ReadCommandLayout(), stall=stalls[0])
        self.words = StreamDriver(dut, "words", stall=stalls[1])
        self.program = b""

    async def load(self, program: bytes) -> None:
        dut, size = self.dut, CONFIG.word_bytes
        self.program = program
        words = -(-len(program) // size)
        padded = program + self.rng.randbytes(words * size - len(program))
        address = self.rng.getrandbits(32)
        dut.address.value, dut.length.value = address, len(program) // INSTRUCTION_BYTES
        dut.load.value = 1
        await cycle(dut)
        dut.load.value = 0
        expected = {"address": address, "words": words, "kind": ReadKind.OTHER}
        assert await self.commands.take(1) == [expected]
        assert dut.loaded.value == 0
        await self.words.send(
            int.from_bytes(padded[n * size :][:size], "little") for n in range(words)
        )
        await cycle(dut, 2)
        assert dut.loaded.value == 1
        await self.commands.expect_silence(3)

    async def fetch(self, pc: int) -> None:
        """Fetch an instruction; its fields and both verdicts against the specification's."""
        dut = self.dut
        dut.pc.value, dut.fetch.value = pc, 1
        await cycle(dut)
        dut.fetch.value = 0
        for n in range(Program.FETCH_CYCLES):
            await cycle(dut)
            assert dut.ready.value == (n == Program.FETCH_CYCLES - 1)
        raw = self.program[pc * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES]
        fields = unpack(InstructionLayout(), int(dut.instruction.value))
        opcode, modes, flags, layer, *words = struct.unpack("<BBBBIHHbBHIIII", raw)
        assert list(fields.values()) == [opcode, modes & 15, modes >> 4, flags, layer, *words]
        assert dut.crc_ok.value == (zlib.crc32(raw[:28]) == words[-1])
        try:
            decode_program(raw[:28] + struct.pack("<I", zlib.crc32(raw[:28])))
            well_formed = True
        except ImageError:
            well_formed = False
        assert dut.well_formed.value == well_formed
        await cycle(dut, self.rng.randint(0, 3))
        assert dut.ready.value == 1


async def exercise(dut: Any, stall: float) -> None:
    await begin(dut)
    bench = TestBench(dut, stall=stall)
    for length in (1, 2, 7, 33, CONFIG.max_program):
        await bench.load(encode_program(random_instruction(bench.rng) for _ in range(length)))
        assert len(decode_program(bench.program)) == length
        for pc in (0, length - 1, *bench.rng.choices(range(length), k=10)):
            await bench.fetch(pc)
            assert dut.crc_ok.value == 1
            assert dut.well_formed.value == 1


@cocotb.test()
async def full_rate(dut):
    await exercise(dut, 0.0)


@cocotb.test()
async def both_sides_stalled(dut):
    await exercise(dut, 0.5)


@cocotb.test()
async def damaged(dut):
    """Any flipped bit is noticed, wherever it is; and so is a field that means nothing."""
    await begin(dut)
    bench = TestBench(dut, stall=0.0)
    program = bytearray(encode_program(random_instruction(bench.rng) for _ in range(64)))
    for n in range(64):
        bit = 4 * n + bench.rng.randrange(4)
        program[n * INSTRUCTION_BYTES + bit // 8] ^= 1 << bit % 8
    await bench.load(bytes(program))
    for pc in range(64):
        await bench.fetch(pc)
        assert dut.crc_ok.value == 0

    heads = [(opcode, 0) for opcode in (*Opcode, max(Opcode) + 1, 0x80, 0xFF)]
    heads += [(Opcode.LINEAR, modes) for modes in range(256)]
    heads = [*bench.rng.sample(heads, 40), (max(Opcode) + 1, 0), (Opcode.LINEAR, 0x45)]
    raw = [bytes([opcode, modes]) + bench.rng.randbytes(26) for opcode, modes in heads]
    await bench.load(b"".join(r + struct.pack("<I", zlib.crc32(r)) for r in raw))
    for pc in range(len(heads)):
        await bench.fetch(pc)
        assert dut.crc_ok.value == 1
