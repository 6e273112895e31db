"""The serial device and the board's bridge, with a copy engine in the core's place."""

import dataclasses
import importlib.util
import os
import random
import select
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skipstone.devices import Run, open_device
from skipstone.serial_device import SerialDevice
from skipstone.spec.errors import (
    ConfigError,
    CoreErrorCode,
    DeviceError,
    DeviceTimeoutError,
    LinkError,
)
from skipstone.spec.image import Image, Section
from skipstone.spec.serial import MAX_WORDS, Operation, Status, parse_response, request
from skipstone_hw.boards.ulx3s import CONFIG, Ulx3s
from skipstone_hw.emit import emit_component
from skipstone_sim.board import SimulatedBoard, build_board
from skipstone_sim.ecp5 import block_models

pytestmark = pytest.mark.rtl

DIVISOR = 4
MEMORY_WORDS = 512
WORDS = 250
BYTES = WORDS * CONFIG.word_bytes
INIT = np.random.default_rng(3).integers(0, 256, 40 * CONFIG.word_bytes).astype(np.uint8)


@pytest.fixture(scope="module")
def library() -> Path:
    spec = importlib.util.spec_from_file_location(
        "copy_engine", Path(__file__).with_name("copy_engine.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    top = Ulx3s(
        core=module.CopyEngine(config=CONFIG),
        divisor=DIVISOR,
        memory_words=MEMORY_WORDS,
        image=INIT.tobytes(),
    )
    return build_board([emit_component(top, name="ulx3s"), block_models()], top="ulx3s")


@pytest.fixture
def board(library) -> Iterator[SimulatedBoard]:
    with SimulatedBoard(library, divisor=DIVISOR) as board:
        yield board


@pytest.fixture
def device(board) -> Iterator[SerialDevice]:
    device = SerialDevice(CONFIG, place=board.place, timeout_s=20, watchdog_cycles=1000)
    yield device
    device.close()


@pytest.fixture
def filled(device) -> SerialDevice:
    device.allocate(WORDS)
    device.write(0, np.random.default_rng(7).integers(0, 256, BYTES).astype(np.uint8))
    return device


def copy(source, target, words):
    return Run(program_address=source, program_length=words, position=target, chunk_tokens=1)


def check_copy(device, source, target, words):
    expected = device.read(0, BYTES).reshape(WORDS, -1)
    expected[target : target + words] = expected[source : source + words]
    device.start(copy(source, target, words))
    assert device.wait(20).tokens_done == words
    assert (device.read(0, BYTES).reshape(WORDS, -1) == expected).all()


def test_copies_are_exact(filled):
    check_copy(filled, 5, 120, 101)
    check_copy(filled, 119, 10, 23)
    assert filled.counters()["errors"] == 0


def test_reads_and_writes_of_any_length(filled):
    expected = filled.read(0, BYTES)
    rng = random.Random(5)
    for count in (1, 2, 3, 4, 31, 33, 255, 256, 257, 2049):
        word = rng.randrange(WORDS - 70)
        data = np.frombuffer(rng.randbytes(count), np.uint8)
        filled.write(word, data)
        start = word * CONFIG.word_bytes
        expected[start : start + count] = data
        assert (filled.read(word, count) == data).all()
    assert (filled.read(0, BYTES) == expected).all()
    for word, count in ((WORDS, 1), (0, BYTES + 1), (-1, 4)):
        with pytest.raises(ValueError, match="beyond the allocated 8000"):
            filled.read(word, count)


def image(*sections):
    return Image(CONFIG, {}, {s.name: s for s in sections})


def test_an_image_in_the_bitstream_is_not_sent_again(board):
    sent = []

    class Counting(SerialDevice):
        def _send(self, data):
            sent.append(len(data))
            super()._send(data)

    device = Counting(CONFIG, place=board.place, timeout_s=20)
    sent.clear()
    configured = image(Section("a", 0, 40, INIT), Section("b", 40, 60, np.zeros(0, np.uint8)))
    device.load(configured)
    assert sent == [15]
    device.write(50, np.ones(8, np.uint8))
    device.load(configured)  # restores what a run may have left behind
    assert (device.read(0, 40 * 32) == INIT).all()
    assert not device.read(40, 60 * 32).any()
    assert max(sent) == 15 + 4 * MAX_WORDS + 4
    device.allocate(100)
    assert not device.read(0, 100 * 32).any()
    device.close()


def test_images_that_do_not_fit_are_refused(device):
    with pytest.raises(MemoryError, match=r"has 16384 bytes of memory, 16416 are needed"):
        device.load(image(Section("a", 0, 513, INIT)))
    device.allocate(512)
    assert device.memory_bytes == 16384


def test_errors_of_the_core(filled):
    filled.start(copy(WORDS - 10, 0, 11))
    with pytest.raises(DeviceError) as caught:
        filled.wait(20)
    assert caught.value.code is CoreErrorCode.ADDRESS_RANGE
    check_copy(filled, 0, 100, 50)


def test_deadline_and_reset(filled, monkeypatch):
    device = filled
    with monkeypatch.context() as patch:  # a core that does not start
        write = device._write_registers
        patch.setattr(device, "_write_registers", lambda name, v: name == "CTRL" or write(name, v))
        device.start(copy(0, 100, 50))
    with pytest.raises(DeviceTimeoutError, match=r"within 0\.1 s"):
        device.wait(0.1)
    with pytest.raises(RuntimeError, match=r"read\(\) while the core runs"):
        device.read(0, 4)
    device.reset()
    check_copy(device, 0, 100, 50)


def test_wait_needs_start(device):
    with pytest.raises(RuntimeError, match="without start"):
        device.wait()


def test_the_reset_button(board, filled):
    check_copy(filled, 0, 100, 50)
    board.press_reset()
    check_copy(filled, 3, 50, 20)  # memory is kept


def test_bitstream_of_another_configuration(board):
    other = dataclasses.replace(CONFIG, max_layers=3)
    with pytest.raises(ConfigError, match=f"{CONFIG.hash64:016x}.*{other.hash64:016x}"):
        SerialDevice(other, place=board.place, timeout_s=20)


def test_found_by_name(board):
    device = open_device(f"serial:{board.place}", CONFIG, timeout_s=20)
    assert device.memory_bytes == 16384
    device.close()


def test_places():
    with pytest.raises(ConfigError, match="device 'serial' needs a place, as in serial:/dev/tty"):
        open_device("serial", CONFIG)
    with pytest.raises(ConfigError, match="device 'golden' takes no place, not '/dev/ttyUSB0'"):
        open_device("golden:/dev/ttyUSB0", CONFIG)


def test_the_line_breaks(board, filled):
    board.unplug()
    with pytest.raises(LinkError, match=f"serial port {board.place} is gone"):
        filled.read(0, 64)
    with pytest.raises(LinkError, match="is gone"):
        filled.start(copy(0, 100, 50))


def test_a_port_that_is_not_there(tmp_path):
    with pytest.raises(LinkError, match="cannot open serial port"):
        SerialDevice(CONFIG, place=str(tmp_path / "ttyUSB0"))


@pytest.fixture
def stranger():
    """Something else at the line: answers everything with `reply`."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    replies = {"reply": b""}

    def serve():
        try:
            while os.read(ours, 4096):
                if replies["reply"]:
                    os.write(ours, replies["reply"])
        except OSError:
            pass  # the terminal was closed

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield os.ttyname(theirs), replies
    os.close(theirs)
    thread.join(5)
    os.close(ours)


def test_a_silent_line(stranger):
    place, _ = stranger
    with pytest.raises(LinkError, match=r"nothing came within 0\.1 s"):
        SerialDevice(CONFIG, place=place, timeout_s=0.1)


def test_a_line_that_speaks_nonsense(stranger):
    place, replies = stranger
    replies["reply"] = b"login: Z\xff\xa5" * 10
    with pytest.raises(LinkError, match=r"only \d+ bytes of nonsense"):
        SerialDevice(CONFIG, place=place, timeout_s=0.1)


def raw(board, data, count):
    """What the bridge answers to bytes of our own making."""
    descriptor = os.open(board.place, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(descriptor, data)
        answer = b""
        while len(answer) < count:
            ready, _, _ = select.select([descriptor], [], [], 20)
            assert ready, f"{count} bytes were to come, {answer!r} came"
            answer += os.read(descriptor, 4096)
        return answer
    finally:
        os.close(descriptor)


def statuses(stream):
    found = []
    while stream:
        response, used = parse_response(stream)
        assert response, stream
        found.append((response.tag, Status(response.status)))
        stream = stream[used:]
    return found


def test_bytes_that_wait_for_the_board_are_heard(library, monkeypatch):
    serve = SimulatedBoard._serve
    monkeypatch.setattr(SimulatedBoard, "_serve", lambda self: time.sleep(0.2) or serve(self))
    with SimulatedBoard(library, divisor=DIVISOR) as board:
        assert statuses(raw(board, request(7, 2), 9)) == [(2, Status.BAD_REQUEST)]


def test_the_bridge_refuses_bad_requests(board):
    good = request(Operation.READ_MEMORY, 1, 0, 1)
    bad = [
        request(7, 2),  # no such operation
        request(Operation.READ_MEMORY, 3, 0, 0),
        request(Operation.READ_MEMORY, 4, 0, MAX_WORDS + 1),
        request(Operation.READ_MEMORY, 5, 2, 1),
        request(Operation.READ_MEMORY, 6, 16384, 1),
        request(Operation.READ_REGISTERS, 7, 4096, 1),
        request(Operation.WRITE_MEMORY, 8, 16384 - 4, data=bytes(8)),
        request(Operation.CHECK_MEMORY, 9, 0, 0xFFFFFFFF),
        request(Operation.CHECK_MEMORY, 10, 0, 4097),
    ]
    answers = b"".join(raw(board, frame, 9) for frame in bad)
    assert statuses(answers) == [(n, Status.BAD_REQUEST) for n in range(2, 11)]
    assert statuses(raw(board, good, 13)) == [(1, Status.OK)]


def test_damaged_frames_change_nothing(board, device):
    device.allocate(WORDS)
    frame = request(Operation.WRITE_MEMORY, 1, 0, data=b"\xff" * 16)
    for position in range(1, len(frame)):
        damaged = bytearray(frame)
        damaged[position] ^= 0x10
        if position < 15:  # not believed, and its data looked through for a request
            both = bytes(damaged) + request(Operation.IDENTIFY, 9)
            assert statuses(raw(board, both, 17)) == [(9, Status.OK)]
        else:
            assert statuses(raw(board, bytes(damaged), 9)) == [(1, Status.BAD_DATA)]
    assert not device.read(0, 64).any()


def test_a_frame_cut_short_is_passed_over(board, device):
    device.allocate(WORDS)
    frame = request(Operation.WRITE_MEMORY, 1, 0, data=b"\xff" * (4 * MAX_WORDS))
    for length in (1, 9, 15, 100, len(frame) - 1):
        descriptor = os.open(board.place, os.O_RDWR | os.O_NOCTTY)
        os.write(descriptor, frame[:length])
        os.close(descriptor)
        device._astray = True  # as after a broken-off exchange
        assert not device.read(0, 64).any()
