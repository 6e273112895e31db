"""What goes wrong during a run: the error's code and place, and that the next run is exact."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from skipstone.devices import Run
from skipstone.spec.errors import CoreErrorCode, DeviceError, DeviceTimeoutError
from skipstone.spec.isa import (
    INSTRUCTION_BYTES,
    Epilogue,
    Flag,
    Instruction,
    Opcode,
    decode_program,
    encode_program,
)
from skipstone_sim.lockstep import Lockstep, input_records
from skipstone_sim.verilated import Channel, Response

pytestmark = [pytest.mark.rtl, pytest.mark.xdist_group("core")]

TINY, SMALL = "sim-tiny", "sim-small"
IDS = [3, 1, 4, 1, 5, 9]


@pytest.fixture(params=[TINY, SMALL])
def both(request, lockstep, random_image):
    """Devices with a model, which work after the test as they did before."""
    pair = lockstep(request.param)
    pair.load(random_image(request.param, layers=2, heads=2, kv_heads=2))
    yield pair
    pair.actual.clear_faults()
    check_next_run(pair)


@pytest.fixture
def tiny(lockstep, random_image):
    """The smaller ones."""
    pair = lockstep(TINY)
    pair.load(random_image(TINY, layers=2, heads=2, kv_heads=2))
    yield pair
    pair.actual.clear_faults()
    check_next_run(pair)


def check_next_run(pair: Lockstep) -> None:
    """Without a reset; first on what the failed run left in memory, then afresh."""
    program = pair.image.sections["program"]
    pair.write("program", np.asarray(program.data))
    pair.copy_memory()
    pair.kick(input_records(IDS), steps=2)
    pair.load(pair.image)
    pair.kick(input_records(IDS), steps=2, mode=1)


def errors(pair: Lockstep) -> int:
    return pair.actual.counters().get("errors", 0)


def fail(device, run: Run) -> DeviceError:
    device.start(run)
    with pytest.raises(DeviceError) as caught:
        device.wait(60)
    return caught.value


def whole_run(pair: Lockstep, **changes) -> Run:
    pair.write("input", input_records(IDS))
    run = Run(
        program_address=pair.image.sections["program"].address,
        program_length=pair.image.model["program_length"],
        position=0,
        chunk_tokens=len(IDS),
        steps=1,
        mode=1,
    )
    return replace(run, **changes)


# -- the memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("response", list(Response))
@pytest.mark.parametrize(
    "section", ["program", "weights", "embedding", "routers", "rope", "kv", "input"]
)
def test_a_read_that_fails(tiny, section, response):
    where = tiny.image.sections[section]
    before = errors(tiny)
    tiny.actual.inject_fault(0, response, first=where.address, last=where.end - 1, count=1)
    error = fail(tiny.actual, whole_run(tiny))
    assert error.code is CoreErrorCode.READ_RESPONSE
    assert errors(tiny) == before + 1


@pytest.mark.parametrize("response", list(Response))
@pytest.mark.parametrize("section", ["kv", "records", "logits"])
def test_a_write_that_fails(tiny, section, response):
    where = tiny.image.sections[section]
    tiny.actual.inject_fault(0, response, first=where.address, last=where.end - 1, write=True)
    assert fail(tiny.actual, whole_run(tiny)).code is CoreErrorCode.WRITE_RESPONSE


@pytest.mark.parametrize("port", [0, 1])
def test_one_port_fails(lockstep, random_image, port):
    pair = lockstep(SMALL)
    pair.load(random_image(SMALL))
    at = pair.image.sections["weights"].address
    pair.actual.inject_fault(port, Response.SLVERR, first=at + 20, last=at + 20, count=1)
    assert fail(pair.actual, whole_run(pair)).code is CoreErrorCode.READ_RESPONSE
    check_next_run(pair)


@pytest.mark.parametrize("channel", list(Channel))
def test_a_memory_that_stops_answering(both, channel):
    """The watchdog ends the run; once memory answers again, so does the core."""
    both.actual.inject_fault(both.actual.config.ports - 1, channel)
    assert fail(both.actual, whole_run(both)).code is CoreErrorCode.WATCHDOG
    both.actual.clear_faults()
    # What was outstanding is still on its way, and reset waits for it.
    both.actual.reset()


def test_a_memory_that_never_answers_again(tiny):
    """While an answer is owed, runs are refused."""
    tiny.actual.inject_fault(0, Channel.R)
    run = whole_run(tiny)
    assert fail(tiny.actual, run).code is CoreErrorCode.WATCHDOG
    assert fail(tiny.actual, run).code is CoreErrorCode.WATCHDOG
    tiny.actual.clear_faults()
    tiny.actual.reset()


def test_a_reset_in_the_middle(both):
    for seconds in (0.0, 0.001, 0.01):
        both.actual.start(whole_run(both, steps=20))
        with pytest.raises(DeviceTimeoutError):
            both.actual.wait(seconds)
        both.actual.reset()
        both.copy_memory()
        both.kick(input_records(IDS), steps=2)


def test_the_sequence_survives_an_error(tiny):
    """A chunk that failed is repeated; what lies before it is as it was."""
    tiny.kick(input_records(IDS))
    weights = tiny.image.sections["weights"]
    tiny.actual.inject_fault(0, Response.SLVERR, first=weights.end - 2, last=weights.end - 2)
    run = whole_run(tiny, position=len(IDS))
    assert fail(tiny.actual, run).code is CoreErrorCode.READ_RESPONSE
    tiny.actual.clear_faults()
    tiny.copy_memory()
    tiny.kick(input_records(IDS), position=len(IDS), steps=3)


# -- the request -----------------------------------------------------------------------------------


def check_both_fail(pair: Lockstep, run: Run, code: CoreErrorCode) -> int:
    """Golden and gateware end in the same error; the instruction it happened at."""
    with pytest.raises(DeviceError) as caught:
        pair.run(run)
    assert caught.value.code is code
    return caught.value.pc


EMBED_PC = 3


@pytest.mark.parametrize("name", ["none", "beyond", "double", "wraps", "most"])
def test_chunks_of_impossible_length(both, name):
    most = both.actual.config.max_chunk
    length = {"none": 0, "beyond": most + 1, "double": 2 * most + 1, "wraps": 1 << 16}
    length["most"] = 2**32 - 1
    run = whole_run(both, chunk_tokens=length[name])
    assert check_both_fail(both, run, CoreErrorCode.KV_OVERFLOW) == EMBED_PC


@pytest.mark.parametrize("position", [59, 64, 511, 512, 513, 1 << 16, 2**32 - 1])
def test_positions_beyond_the_capacity(both, position):
    """Capacity is 64, the chunk has 6 tokens."""
    run = whole_run(both, position=position)
    assert check_both_fail(both, run, CoreErrorCode.KV_OVERFLOW) == EMBED_PC


def test_steps_beyond_the_capacity(tiny):
    tiny.kick(input_records(IDS))
    for position in range(6, 60, 6):
        tiny.kick(input_records(IDS), position=position)
    run = whole_run(tiny, position=60, chunk_tokens=2, steps=5)
    assert check_both_fail(tiny, run, CoreErrorCode.KV_OVERFLOW) == EMBED_PC
    tiny.compare_memory()


@pytest.mark.parametrize("place", [0, 2, 5])
@pytest.mark.parametrize("token", [40, 2**24, 2**32 - 1])
def test_unknown_tokens(both, token, place):
    """The vocabulary is 40."""
    run = whole_run(both)
    ids = list(IDS)
    ids[place] = token
    both.write("input", input_records(ids))
    assert check_both_fail(both, run, CoreErrorCode.TOKEN_RANGE) == EMBED_PC


# -- the program -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 257, 1 << 20, 2**32 - 1])
def test_programs_of_impossible_length(tiny, length):
    run = whole_run(tiny, program_length=length)
    assert check_both_fail(tiny, run, CoreErrorCode.BAD_OPCODE) == 0


def test_a_program_without_end(tiny):
    length = tiny.image.model["program_length"] - 1
    run = whole_run(tiny, program_length=length, steps=0)
    assert check_both_fail(tiny, run, CoreErrorCode.BAD_OPCODE) == length


@pytest.mark.parametrize("bit", [0, 13, 100, 223, 224, 255])
@pytest.mark.parametrize("pc", [0, 5, 12])
def test_a_flipped_bit(tiny, pc, bit):
    raw = np.array(tiny.image.sections["program"].data)
    raw[pc * INSTRUCTION_BYTES + bit // 8] ^= 1 << bit % 8
    tiny.write("program", raw)
    assert check_both_fail(tiny, whole_run(tiny), CoreErrorCode.PROGRAM_CRC) == pc


def program(pair: Lockstep) -> list[Instruction]:
    return decode_program(np.asarray(pair.image.sections["program"].data).tobytes())


def rewrite(pair: Lockstep, pc: int, **fields) -> None:
    instructions = program(pair)
    instructions[pc] = replace(instructions[pc], **fields)
    pair.write("program", np.frombuffer(encode_program(instructions), np.uint8))


def find(pair: Lockstep, opcode: Opcode, epilogue: Epilogue | None = None) -> int:
    """Index of the first such instruction."""
    return next(
        n
        for n, i in enumerate(program(pair))
        if i.opcode is opcode and epilogue in (None, i.epilogue)
    )


GEOMETRY_FIELDS = {
    "head_dim 16": {"exponent": 4},
    "head_dim 256": {"exponent": 8},
    "head_dim negative": {"exponent": -3},
    "head_dim wider than a word": {"exponent": 7},
    "no queries": {"source": 0},
    "more queries than lanes": {"source": 9},
    "no heads": {"a": 64 << 16},
    "more heads than the query buffer holds": {"a": 64 << 16 | 100},
    "heads beyond count": {"a": 64 << 16 | 0xFFFF},
    "no hidden": {"groups": 0},
    "hidden beyond the buffer": {"groups": 9},
    "hidden beyond count": {"groups": 0xFFFF},
    "no layers": {"blocks": 0},
    "layers beyond the core's": {"blocks": 17},
}


@pytest.mark.parametrize("name", GEOMETRY_FIELDS)
def test_geometry_that_the_core_cannot_hold(both, name):
    rewrite(both, 0, **GEOMETRY_FIELDS[name])
    assert check_both_fail(both, whole_run(both), CoreErrorCode.BAD_OPCODE) == 0


MALFORMED = {
    "embedding rows": (Opcode.TABLES, None, {"groups": 9}),
    "rope rows": (Opcode.TABLES, None, {"blocks": 0}),
    "route layer": (Opcode.ROUTE, None, {"layer": 16}),
    "attention layer": (Opcode.ATTEND, None, {"layer": 255}),
    "key layer": (Opcode.LINEAR, Epilogue.KEY, {"layer": 64}),
    "no groups": (Opcode.LINEAR, Epilogue.QUERY, {"groups": 0}),
    "no blocks": (Opcode.LINEAR, Epilogue.SWIGLU, {"blocks": 0}),
    "more groups than the residual has": (Opcode.LINEAR, Epilogue.LOGITS, {"groups": 3}),
    "more groups than the buffer holds": (Opcode.LINEAR, Epilogue.RESIDUAL, {"groups": 25}),
    "a source that does not exist": (Opcode.LINEAR, Epilogue.VALUE, {"source": 2}),
    "a jump past the end": (Opcode.NEXT, None, {"a": 1 << 16}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_fields(both, name):
    opcode, epilogue, fields = MALFORMED[name]
    # All tokens execute everything, so no instruction is skipped.
    run = whole_run(both)
    everything = ([3] * len(IDS), [3] * len(IDS))
    both.write("input", input_records(IDS, maps=everything))
    pc = find(both, opcode, epilogue)
    rewrite(both, pc, **fields)
    assert check_both_fail(both, run, CoreErrorCode.BAD_OPCODE) == pc


def encoded(opcode: int, modes: int) -> np.ndarray:
    """An instruction with a good check word around fields that may not exist."""
    head = struct.pack("<BB26x", opcode, modes)
    return np.frombuffer(head + struct.pack("<I", zlib.crc32(head)), np.uint8)


@pytest.mark.parametrize(
    ("opcode", "modes"), [(9, 0), (255, 0), (16 + 6, 0), (6, 6), (6, 15), (6, 4 << 4), (0, 15 << 4)]
)
def test_instructions_that_do_not_exist(tiny, opcode, modes):
    raw = np.array(tiny.image.sections["program"].data).reshape(-1, INSTRUCTION_BYTES)
    raw[4] = encoded(opcode, modes)
    tiny.write("program", raw)
    assert check_both_fail(tiny, whole_run(tiny), CoreErrorCode.BAD_OPCODE) == 4


@pytest.mark.parametrize(
    ("removed", "pc"),
    [(0, 0), (1, 2), (2, 3), (3, 3)],
    ids=["geometry", "tables", "router", "embed"],
)
def test_steps_left_out(tiny, removed, pc):
    """Whatever an earlier run set up does not count."""
    instructions = program(tiny)
    del instructions[removed]
    tiny.write("program", np.frombuffer(encode_program(instructions), np.uint8))
    run = whole_run(tiny, program_length=len(instructions))
    assert check_both_fail(tiny, run, CoreErrorCode.BAD_OPCODE) == pc


def test_an_empty_program(tiny):
    """HALT alone is a program that does nothing."""
    tiny.write(
        "program", np.frombuffer(encode_program([Instruction(opcode=Opcode.HALT)]), np.uint8)
    )
    result = tiny.run(whole_run(tiny, program_length=1))
    assert (result.tokens_done, result.next_token) == (0, 0)


ADDRESSES = {
    "weights": (Opcode.LINEAR, Epilogue.QUERY, "address"),
    "head": (Opcode.LINEAR, Epilogue.LOGITS, "address"),
    "routers": (Opcode.ROUTER, None, "address"),
    "input": (Opcode.EMBED, None, "address"),
    "embedding": (Opcode.TABLES, None, "address"),
    "rope": (Opcode.TABLES, None, "a"),
    "records": (Opcode.TABLES, None, "b"),
    "logits": (Opcode.LINEAR, Epilogue.LOGITS, "b"),
    "kv": (Opcode.ROUTE, None, "a"),
}


@pytest.mark.parametrize("beyond", ["just", "far"])
@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses_out_of_range(both, name, beyond):
    opcode, epilogue, field = ADDRESSES[name]
    pc = find(both, opcode, epilogue)
    run = whole_run(both)
    both.write("input", input_records(IDS, maps=([3] * len(IDS), [3] * len(IDS))))
    rewrite(both, pc, **{field: both.image.words if beyond == "just" else 0xFFFF_FF00})
    failures = [fail(device, run) for device in (both.expected, both.actual)]
    assert [error.code for error in failures] == [CoreErrorCode.ADDRESS_RANGE] * 2
    if opcode not in (Opcode.GEOMETRY, Opcode.TABLES) and field == "address":
        assert failures[0].pc == pc
        assert failures[1].pc in (pc, pc + 1), "a read is checked while its instruction is issued"


def test_a_program_out_of_range(both):
    run = whole_run(both, program_address=both.image.words)
    assert check_both_fail(both, run, CoreErrorCode.ADDRESS_RANGE) == 0


def test_flags_without_meaning_are_ignored(tiny):
    rewrite(tiny, 4, flags=Flag(0xF0) | Flag.BARRIER)
    tiny.run(whole_run(tiny))


# -- the first and the last ------------------------------------------------------------------------


def test_errors_are_counted_since_power_up(tiny):
    before = errors(tiny)
    for _ in range(3):
        fail(tiny.actual, whole_run(tiny, chunk_tokens=0))
    assert errors(tiny) == before + 3


def test_registers_after_an_error(tiny):
    """A run that works clears what the failed one reported."""
    fail(tiny.actual, whole_run(tiny, position=100))
    tiny.copy_memory()
    result = tiny.kick(input_records(IDS))
    assert result.tokens_done == len(IDS)
