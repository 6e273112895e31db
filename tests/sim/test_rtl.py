"""The RTL device and the harness, with a copy engine in the core's place."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from skipstone.devices import Run
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import (
    ConfigError,
    CoreErrorCode,
    DeviceError,
    DeviceTimeoutError,
    ToolError,
)
from skipstone_hw.emit import TOP, emit_component
from skipstone_sim.dram import DRAMS
from skipstone_sim.rtl import RtlDevice
from skipstone_sim.verilated import Channel, MemoryModel, ProtocolError, Response

pytestmark = pytest.mark.rtl

SMALL = CONFIGS["sim-small"]
WORDS = 1200


def copy_engine(config):
    spec = importlib.util.spec_from_file_location(
        "copy_engine", Path(__file__).with_name("copy_engine.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return emit_component(module.CopyEngine(config=config), name=TOP)


@pytest.fixture(scope="module")
def gateware():
    return copy_engine(SMALL)


@pytest.fixture
def open_engine(gateware):
    opened = []

    def open_it(**options):
        device = RtlDevice(SMALL, gateware=gateware, **options)
        opened.append(device)
        device.allocate(WORDS)
        rng = np.random.default_rng(7)
        device.write(0, rng.integers(0, 256, WORDS * SMALL.word_bytes).astype(np.uint8))
        return device

    yield open_it
    for device in opened:
        device.close()


def copy(source, target, words):
    return Run(program_address=source, program_length=words, position=target, chunk_tokens=1)


def memory(device):
    return device.read(0, WORDS * SMALL.word_bytes).reshape(WORDS, -1)


def check_copy(device, source, target, words):
    expected = memory(device)
    expected[target : target + words] = expected[source : source + words]
    device.start(copy(source, target, words))
    assert device.wait(60).tokens_done == words
    assert (memory(device) == expected).all()


@pytest.mark.parametrize(
    "model",
    [
        MemoryModel(),
        MemoryModel(latency=1, outstanding=1, write_outstanding=1),
        MemoryModel(latency=100, bandwidth=0.3, stall=0.4),
        DRAMS["hbm2"].model(SMALL),
        DRAMS["ddr4"].model(SMALL),
    ],
    ids=["default", "narrow", "rough", "hbm2", "ddr4"],
)
def test_copies_are_exact(open_engine, model):
    device = open_engine(memory=model, seed=3)
    check_copy(device, 5, 600, 300)
    check_copy(device, 599, 10, 123)
    assert device.simulated_seconds == device.cycles / 200e6
    for port in device.port_statistics():
        assert (port.read_beats, port.write_beats, port.faults) == (423, 423, 0)


def test_every_configuration_has_its_ports():
    config = CONFIGS["sim-tiny"]
    device = RtlDevice(config, gateware=copy_engine(config))
    device.allocate(64)
    data = np.arange(10 * config.word_bytes, dtype=np.uint8)
    device.write(0, data)
    device.start(copy(0, 50, 10))
    device.wait(60)
    assert (device.read(50, data.size) == data).all()
    device.close()


def test_the_same_seed_takes_the_same_cycles(open_engine):
    cycles = []
    for seed in (1, 1, 2):
        device = open_engine(memory=MemoryModel(stall=0.3), seed=seed)
        check_copy(device, 0, 700, 100)
        cycles.append(device.cycles)
    assert cycles[0] == cycles[1] != cycles[2]


def test_latency_and_bandwidth_are_kept(open_engine):
    def cycles(model):
        device = open_engine(memory=model)
        before = device.cycles
        check_copy(device, 0, 600, 400)
        return device.cycles - before

    fast = cycles(MemoryModel(latency=1, outstanding=8, write_outstanding=64))
    slow = cycles(MemoryModel(latency=1, outstanding=8, write_outstanding=64, bandwidth=0.25))
    assert fast < 1100  # 800 beats through one memory
    assert 3200 <= slow < 3600
    fractional = MemoryModel(latency=1, outstanding=8, write_outstanding=64, bandwidth=0.8)
    assert 1000 <= cycles(fractional) < 1300
    late = cycles(MemoryModel(latency=200, outstanding=1))
    assert late > 400 / 16 * 200


@pytest.mark.parametrize("response", list(Response))
def test_bad_responses_stop_the_run_and_the_next_one_works(open_engine, response):
    device = open_engine()
    device.inject_fault(1, response, first=30, last=30)
    device.start(copy(0, 600, 100))
    with pytest.raises(DeviceError) as caught:
        device.wait(60)
    assert caught.value.code is CoreErrorCode.READ_RESPONSE
    device.clear_faults()
    device.inject_fault(0, response, first=600, last=700, write=True, count=1)
    device.start(copy(0, 600, 100))
    with pytest.raises(DeviceError) as caught:
        device.wait(60)
    assert caught.value.code is CoreErrorCode.WRITE_RESPONSE
    assert [s.faults for s in device.port_statistics()] == [1, 1]
    check_copy(device, 0, 600, 100)  # the write fault was for one access


@pytest.mark.parametrize("channel", list(Channel))
def test_a_stuck_channel_trips_the_watchdog_and_reset_repairs(open_engine, channel):
    device = open_engine(watchdog_cycles=500)
    device.inject_fault(1, channel)
    device.start(copy(0, 600, 100))
    with pytest.raises(DeviceError) as caught:
        device.wait(60)
    assert caught.value.code is CoreErrorCode.WATCHDOG
    device.reset()  # cannot drain: ends in the reset line
    device.clear_faults()
    check_copy(device, 0, 600, 100)


def test_deadline(open_engine):
    device = open_engine(watchdog_cycles=0)
    device.inject_fault(0, Channel.R)
    device.start(copy(0, 600, 100))
    with pytest.raises(DeviceTimeoutError, match=r"within 0\.2 s"):
        device.wait(0.2)
    with pytest.raises(RuntimeError, match=r"start\(\) while the core runs"):
        device.start(copy(0, 600, 100))
    device.clear_faults()
    device.reset()  # drains by itself
    check_copy(device, 0, 600, 100)


def test_addresses_beyond_memory(open_engine):
    device = open_engine()
    device.start(copy(WORDS - 10, 0, 11))
    with pytest.raises(DeviceError, match="ADDRESS_RANGE"):
        device.wait(60)
    with pytest.raises(ValueError, match="beyond the allocated"):
        device.write(WORDS, np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="beyond the allocated"):
        device.read(0, WORDS * SMALL.word_bytes + 1)


def test_wait_needs_start(open_engine):
    with pytest.raises(RuntimeError, match="without start"):
        open_engine().wait()


def test_gateware_of_another_configuration_is_refused(gateware):
    other = dataclasses.replace(SMALL, name="other", max_layers=3)
    with pytest.raises(ConfigError, match="configuration"):
        RtlDevice(other, gateware=gateware)


def test_counters_have_every_name(open_engine):
    device = open_engine()
    assert device.counters() == {}
    check_copy(device, 0, 600, 10)
    assert device.counters()["cycles"] == 0  # the copy engine counts nothing


def test_broken_protocol_is_told(gateware):
    broken = gateware.replace("assign m_axi_01_arburst = 2'h1", "assign m_axi_01_arburst = 2'h0")
    assert broken != gateware
    device = RtlDevice(SMALL, gateware=broken)
    device.allocate(WORDS)
    device.start(copy(0, 600, 10))
    with pytest.raises(ProtocolError, match=r"port 1, cycle \d+: ARBURST must be INCR"):
        device.wait(60)
    device.close()


def test_trace_needs_a_writable_file(gateware, tmp_path):
    with pytest.raises(ToolError, match="cannot record"):
        RtlDevice(SMALL, gateware=gateware, wave=tmp_path / "absent" / "out.fst")


def test_trace_is_written(gateware, tmp_path):
    path = tmp_path / "out.fst"
    device = RtlDevice(SMALL, gateware=gateware, wave=path, wave_cycles=(50, 150))
    device.allocate(WORDS)
    device.start(copy(0, 600, 100))
    device.wait(60)
    device.close()
    assert path.read_bytes()[:2] == b"\x00\x00"  # an FST header block
    assert 10_000 < path.stat().st_size < 500_000


@pytest.mark.parametrize("settings", [{"latency": 0}, {"bandwidth": 2}, {"stall": 1.0}])
def test_memory_models_are_checked(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        MemoryModel(**settings)
