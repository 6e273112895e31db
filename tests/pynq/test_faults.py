"""Everything that goes wrong: a typed error in time, then a clean run in the same process."""

import os
import subprocess
import sys
import threading
import time

import pynq
import pytest

from skipstone.board.device import PynqDevice, load_overlay
from skipstone.board.manifest import Manifest
from skipstone.build import build_image
from skipstone.runtime import Engine
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import (
    BitstreamError,
    CoreErrorCode,
    DeviceBusyError,
    DeviceError,
    DeviceMemoryError,
    DeviceTimeoutError,
    ImageError,
    InterruptLostError,
    RunAbortedError,
    ToolError,
)
from skipstone.spec.registers import VERSION
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.pynq_board import plug_in
from skipstone_sim.verilated import Channel, Response

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def expected(image):
    return Engine(GoldenDevice(image.config), image).forward(PROMPT).next_token


def check_clean_run(device, image, expected):
    assert Engine(device, image).forward(PROMPT).next_token == expected


def test_lost_interrupt(board, open_device, image, expected):
    device = open_device()
    engine = Engine(device, image, timeout_s=1.5)
    board.kernel.lost = True
    began = time.monotonic()
    with pytest.raises(InterruptLostError, match=r"4 tokens done, but no interrupt came within"):
        engine.forward(PROMPT)
    assert time.monotonic() - began < 5
    board.kernel.lost = False
    check_clean_run(device, image, expected)


def test_never_finishes(board, open_device, image, expected):
    device = open_device()
    engine = Engine(device, image, timeout_s=0.3)
    board.paused = True
    with pytest.raises(DeviceTimeoutError, match=r"within 0\.3 s; CTRL 0x\d+, TOKENS_DONE 0"):
        engine.forward(PROMPT)
    board.paused = False
    check_clean_run(device, image, expected)


def test_the_deadline_comes_from_the_program(board, open_device, image, expected):
    """Without a time-out given: the shortest deadline and the program's cycles."""
    device = open_device(watchdog_cycles=0)
    device.ip.time_dilation = 1
    engine = Engine(device, image)
    board.paused = True
    began = time.monotonic()
    with pytest.raises(DeviceTimeoutError):
        engine.forward(PROMPT)
    assert 0.5 < time.monotonic() - began < 3
    board.paused = False
    check_clean_run(device, image, expected)


def test_wrong_bitstream_hash(board, overlay_path, open_device, image, expected, tmp_path):
    good = overlay_path()
    path = tmp_path / "skipstone.bit"
    for suffix in (".bit", ".hwh", ".json"):
        path.with_suffix(suffix).write_bytes(good.with_suffix(suffix).read_bytes())
    path.write_bytes(good.read_bytes() + b"\0\0\0\0")
    with pytest.raises(BitstreamError, match=r"SHA-256 is [0-9a-f]{64}, but its manifest says"):
        load_overlay(path)
    check_clean_run(open_device(), image, expected)


def test_a_bitstream_with_another_core(board, overlay_path, open_device, image, expected, tmp_path):
    """The manifest is right about the file, wrong about the core: the registers tell."""
    good = overlay_path()
    path = tmp_path / "skipstone.bit"
    for suffix in (".bit", ".hwh"):
        path.with_suffix(suffix).write_bytes(good.with_suffix(suffix).read_bytes())
    Manifest.write(path, CONFIGS["sim-small"], "simulated")
    message = f"the loaded bitstream has version {VERSION} and config"
    with pytest.raises(BitstreamError, match=message):
        PynqDevice(bitstream=path)
    check_clean_run(open_device(), image, expected)


def test_wrong_image(open_device, image, expected):
    device = open_device()
    with pytest.raises(ImageError, match=r"compiled for core 'sim-small'.*device is 'sim-tiny'"):
        Engine(device, build_image("nano", CONFIGS["sim-small"]))
    check_clean_run(device, image, expected)


def test_out_of_memory(board, open_device, image, expected):
    device = open_device()
    with pytest.raises(
        DeviceMemoryError,
        match=r"port 0 needs 134,217,728 contiguous bytes .* but 66,060,288 bytes are free",
    ):
        device.allocate((128 << 20) // 32)
    check_clean_run(device, image, expected)


def test_reset_in_mid_run(board, open_device, image, expected):
    device = open_device()
    engine = Engine(device, image)
    board.paused = True

    def intervene():
        time.sleep(0.3)
        board.paused = False
        device.reset()

    other = threading.Thread(target=intervene)
    other.start()
    began = time.monotonic()
    with pytest.raises(RunAbortedError, match="broken off by a reset"):
        engine.forward(PROMPT)
    other.join()
    assert time.monotonic() - began < 5
    check_clean_run(device, image, expected)


_SECOND = """
import sys, warnings
warnings.simplefilter("ignore")
from skipstone_sim.pynq_board import plug_in
from skipstone.board.device import PynqDevice
from skipstone.spec.errors import DeviceBusyError
plug_in(sys.argv[1], memory_bytes=1 << 24)
try:
    PynqDevice(bitstream=sys.argv[2])
except DeviceBusyError as error:
    print(error)
"""


def test_two_processes_at_once(overlay_path, image, expected):
    tag = f"shared-{os.getpid()}"
    board = plug_in(tag, memory_bytes=64 << 20)
    device = PynqDevice(bitstream=overlay_path())
    done = subprocess.run(
        [sys.executable, "-c", _SECOND, tag, str(overlay_path())],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert f"the device '{tag}' is in use by process {os.getpid()}" in done.stdout
    with pytest.raises(DeviceBusyError, match="in use by this process"):
        PynqDevice(overlay=device.overlay)
    check_clean_run(device, image, expected)
    device.close()
    again = PynqDevice(overlay=device.overlay)
    again.close()
    board.unplug()


def test_no_board(overlay_path, monkeypatch):
    monkeypatch.setattr(type(pynq.Device), "_subclasses", {})
    monkeypatch.delattr(pynq.Device, "_active_device", raising=False)
    monkeypatch.delattr(pynq.Device, "_devices", raising=False)
    with (
        pytest.warns(UserWarning, match="No devices found"),
        pytest.raises(ToolError, match="pynq finds no board here"),
    ):
        load_overlay(overlay_path())


def test_misuse(open_device, image, expected):
    device = open_device()
    with pytest.raises(RuntimeError, match=r"wait\(\) without start"):
        device.wait()
    check_clean_run(device, image, expected)
    device.close()
    with pytest.raises(RuntimeError, match="closed"):
        device.read(0, 1)


# -- on the gateware -------------------------------------------------------------------------------


@pytest.mark.rtl
@pytest.mark.parametrize("response", list(Response))
def test_axi_error(board, open_device, image, expected, response):
    device = open_device(logic="rtl")
    engine = Engine(device, image)
    board.logic.simulation.inject_response(0, response, count=1)
    with pytest.raises(DeviceError) as caught:
        engine.forward(PROMPT)
    assert caught.value.code is CoreErrorCode.READ_RESPONSE
    board.logic.simulation.clear_faults()
    check_clean_run(device, image, expected)


@pytest.mark.rtl
def test_memory_that_does_not_answer(board, open_device, image, expected):
    """The core's watchdog reports; its memory port stays stuck until the memory is repaired."""
    device = open_device(logic="rtl", watchdog_cycles=5_000)
    engine = Engine(device, image)
    board.logic.simulation.hang(0, Channel.R)
    threading.Timer(0.5, board.logic.simulation.clear_faults).start()
    with pytest.raises(DeviceError) as caught:
        engine.forward(PROMPT)
    assert caught.value.code is CoreErrorCode.WATCHDOG
    check_clean_run(device, image, expected)


@pytest.mark.rtl
def test_a_core_that_hangs(board, overlay_path, image, expected):
    """No watchdog, memory dead: time-out, a reset that fails, and a new download that helps."""
    device = PynqDevice(bitstream=overlay_path(logic="rtl"), watchdog_cycles=0)
    engine = Engine(device, image, timeout_s=0.5)
    device.ip.time_dilation = 1
    board.logic.simulation.hang(0, Channel.R)
    with pytest.raises(DeviceTimeoutError, match="download the bitstream again"):
        engine.forward(PROMPT)
    device.close()
    device = PynqDevice(bitstream=overlay_path(logic="rtl"))
    check_clean_run(device, image, expected)
    device.close()


@pytest.mark.rtl
def test_reset_in_mid_run_of_the_gateware(board, open_device, image, expected):
    device = open_device(logic="rtl")
    engine = Engine(device, image)
    board.paused = True

    def intervene():
        time.sleep(0.2)
        board.paused = False
        time.sleep(0.005)
        device.reset()

    other = threading.Thread(target=intervene)
    other.start()
    with pytest.raises(RunAbortedError):
        engine.forward(list(range(5, 69)))
    other.join()
    check_clean_run(device, image, expected)
