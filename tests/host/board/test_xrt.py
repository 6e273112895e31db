"""The XRT device against a stand-in for pyxrt: not against a card."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from skipstone.board.xrt import XrtDevice
from skipstone.build import build_image
from skipstone.runtime import Engine
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import (
    BitstreamError,
    ConfigError,
    DeviceBusyError,
    DeviceMemoryError,
    DeviceTimeoutError,
    RunAbortedError,
    ToolError,
)
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.overlay_files import write_overlay

CORE = CONFIGS["sim-small"]
PROMPT = list(range(5, 25))

_spec = importlib.util.spec_from_file_location(
    "pyxrt_stand_in", Path(__file__).with_name("pyxrt_stand_in.py")
)
pyxrt_stand_in = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pyxrt_stand_in)
State = pyxrt_stand_in.CommandState


@pytest.fixture
def card(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # cards of other tests are not this one
    card = pyxrt_stand_in.Card()
    monkeypatch.setitem(sys.modules, "pyxrt", pyxrt_stand_in.stand_in(card))
    return card


@pytest.fixture(scope="module")
def xclbin(tmp_path_factory):
    return write_overlay(tmp_path_factory.mktemp("xrt"), CORE, logic="golden", style="alveo")


@pytest.fixture
def device(card, xclbin):
    device = XrtDevice(CORE, bitstream=xclbin)
    yield device
    device.close()


@pytest.fixture(scope="module")
def image():
    return build_image("nano", CORE)


def tokens(device, image, **options):
    generation = Engine(device, image).generate(PROMPT, 6, **options)
    for _ in generation:
        pass
    return generation.tokens


@pytest.mark.parametrize("steps", [1, 4])
def test_same_tokens_as_golden(device, image, steps):
    assert tokens(device, image, steps_per_run=steps) == tokens(GoldenDevice(CORE), image)
    assert device.counters() == {}


def test_ports_live_in_their_banks(card, device):
    device.allocate(10)
    data = np.arange(10 * 64, dtype=np.uint8)
    device.write(0, data)
    for port in range(2):
        at = port * pyxrt_stand_in.BANK_BYTES + 4096
        stripe = card.memory[at : at + 320].reshape(10, 32)
        assert (stripe == data.reshape(10, 2, 32)[:, port]).all()


def test_time_out(card, device, image):
    engine = Engine(device, image)
    card.next_state = State.ERT_CMD_STATE_TIMEOUT
    with pytest.raises(DeviceTimeoutError, match="XRT says TIMEOUT"):
        engine.forward(PROMPT)
    assert tokens(device, image) == tokens(GoldenDevice(CORE), image)


def test_abort(card, device, image):
    engine = Engine(device, image)
    card.next_state = State.ERT_CMD_STATE_ABORT
    with pytest.raises(RunAbortedError, match="XRT ended the run: ABORT"):
        engine.forward(PROMPT)


def test_an_error_of_the_core(device, image):
    """Its code is out of reach, but that the run is incomplete is seen."""
    engine = Engine(device, image)
    embedding = image.sections["program"]
    raw = np.array(embedding.data)
    raw[40 * 16] ^= 1  # some instruction's CRC fails
    engine.forward(PROMPT[:4])
    device._programs.get(device._parameters)  # decoded before it is damaged
    device._words().write(embedding.address, raw)
    with pytest.raises(RunAbortedError, match="stopped after 0 of 4 tokens"):
        engine.forward(PROMPT[:4])


def test_out_of_memory(card, device, image):
    with pytest.raises(
        DeviceMemoryError, match=r"port 0 needs 3,200,000 bytes in memory bank 0 .*bad_alloc"
    ):
        device.allocate(100_000)
    assert tokens(device, image) == tokens(GoldenDevice(CORE), image)


def test_opening(card, xclbin, device, monkeypatch):
    with pytest.raises(DeviceBusyError, match="in use by this process"):
        XrtDevice(bitstream=xclbin)
    with pytest.raises(BitstreamError, match="No such device"):
        XrtDevice(bitstream=xclbin, index=1)
    with pytest.raises(ConfigError, match="holds core 'sim-small', not 'sim-tiny'"):
        XrtDevice(CONFIGS["sim-tiny"], bitstream=xclbin)
    monkeypatch.delenv("SKIPSTONE_BITSTREAM", raising=False)
    with pytest.raises(BitstreamError, match="no bitstream was given"):
        XrtDevice()
    monkeypatch.setitem(sys.modules, "pyxrt", None)
    with pytest.raises(ToolError, match=r"source /opt/xilinx/xrt/setup\.sh"):
        XrtDevice(bitstream=xclbin)
