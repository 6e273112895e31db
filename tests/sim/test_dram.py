"""The DRAM of the harness against the microbenchmarks that it is calibrated to."""

import ctypes
import dataclasses
import math

import pytest

from skipstone.spec.config import CONFIGS
from skipstone_sim.compiled import HARNESS
from skipstone_sim.dram import DRAMS
from skipstone_sim.toolchain import find_compiler
from skipstone_sim.verilated import DramCycles, MemoryModel, _DramSettings

# One port of a channel's width at its peak rate: a beat per cycle is 100 %.
CORE = dataclasses.replace(CONFIGS["sim-large"], clock_mhz=225.0)
PROBE = """
#include "dram.h"
// A master that keeps `outstanding` bursts of `beats` under way, `stride` bytes apart, wrapping
// round at `region`; returns when the last of `count` bursts is complete.
extern "C" __attribute__((visibility("default"))) uint64_t
probe(const DramSettings *settings, uint32_t latency, uint32_t beats, uint32_t bytes,
      uint64_t stride, uint64_t region, uint32_t outstanding, uint64_t count) {
    Dram dram;
    dram.settings = *settings;
    std::vector<uint64_t> done;
    uint64_t bus = 0;
    for (uint64_t i = 0; i < count; ++i) {
        const uint64_t now = i < outstanding ? 0 : done[i - outstanding];
        const uint64_t address = i * stride % region;
        uint64_t due = now + latency + dram.arrive(address, now);
        if (bus > due) due = bus;
        for (uint32_t b = 0; b < beats; ++b) {
            while (dram.refreshing(due)) ++due;
            dram.pass(address + b * bytes);
            ++due;
        }
        bus = due;
        done.push_back(due);
    }
    return bus;
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dram")
    (folder / "probe.cpp").write_text(PROBE)
    compiler, flags = find_compiler(), ("-std=c++17", "-fPIC", "-O1", "-I", HARNESS)
    compiler.make_object(*flags, "-c", folder / "probe.cpp", "-o", folder / "probe.o")
    compiler.make_linked("-shared", folder / "probe.o", "-o", folder / "probe.so")
    function = ctypes.CDLL(str(folder / "probe.so")).probe
    function.restype = ctypes.c_uint64

    def run(model, *, beats, stride, region=2**30, outstanding=32, count=1):
        d = model.dram
        settings = _DramSettings(*(getattr(d, f.name) for f in dataclasses.fields(d)))
        u64 = ctypes.c_uint64
        return function(
            ctypes.byref(settings), model.latency, beats, CORE.port_bytes, u64(stride),
            u64(region), outstanding, u64(count),
        )  # fmt: skip

    return run


@pytest.mark.parametrize("name", DRAMS)
def test_idle_latencies(probe, name):
    """One burst at a time, as Shuhai measures them: to closed banks, to the same page, to another
    page of the same bank."""
    dram = DRAMS[name]
    model = dram.model(CORE)
    model = dataclasses.replace(model, dram=dataclasses.replace(model.dram, refresh=0))
    page = model.dram.page_bytes

    def cycles(ns):
        return math.ceil(ns * CORE.clock_mhz / 1000)

    def each(stride, region=2**30):
        runs = [
            probe(model, beats=1, stride=stride, region=region, outstanding=1, count=n)
            for n in (1, 2)
        ]
        return runs[0] - 1, runs[1] - runs[0] - 1

    assert each(0) == (cycles(dram.closed_ns), cycles(dram.hit_ns))
    assert each(page) == (cycles(dram.closed_ns), cycles(dram.closed_ns))
    assert each(page * dram.banks) == (cycles(dram.closed_ns), cycles(dram.miss_ns))


@pytest.mark.parametrize("name", DRAMS)
def test_sequential_bandwidth_is_what_was_measured(probe, name):
    model = DRAMS[name].model(CORE)
    beats, count = 16, 20_000
    stride = beats * CORE.port_bytes
    cycles = probe(model, beats=beats, stride=stride, count=count)
    assert beats * count / cycles == pytest.approx(DRAMS[name].share, rel=0.005)


def test_rows_of_one_bank_wait_for_each_other(probe):
    """Shuhai, strides of a bank's page: what a row cycle lets through is left."""
    model = DRAMS["hbm2"].model(CORE)
    d = model.dram
    cycles = probe(model, beats=1, stride=d.page_bytes * d.banks, count=5000)
    assert cycles / 5000 == pytest.approx(d.row_cycle, rel=0.1)


def test_memory_shared_by_ports():
    config = CONFIGS["sim-large"]  # 4 ports of 14.4 GB/s
    ddr4 = DRAMS["ddr4"]
    assert ddr4.port_share(config) == pytest.approx(19.2 / 57.6)
    assert ddr4.deliverable(config) == pytest.approx(18.0 / 57.6)
    assert ddr4.model(config).bandwidth == pytest.approx(1 / 3)
    assert DRAMS["hbm2"].deliverable(config) == pytest.approx(13.27 / 14.4)
    assert DRAMS["hbm2"].model(config, switch_ns=40).latency == math.ceil(146.7 * 0.225)


@pytest.mark.parametrize(
    ("field", "value"),
    [("page_bytes", 0), ("banks", 0), ("refresh_interval", 0), ("miss", -1), ("refresh", 900)],
)
def test_impossible_memory_is_refused(field, value):
    d = DRAMS["hbm2"].model(CORE).dram
    with pytest.raises(ValueError, match=f"{field} must be"):
        dataclasses.replace(d, **{field: value})


def test_ideal_memory_has_no_dram():
    assert MemoryModel().dram is None
    assert isinstance(DRAMS["ddr4"].model(CORE).dram, DramCycles)
