"""The bench runner: a passing bench passes, a failing one says why, and builds are cached."""

from pathlib import Path

import pytest
from amaranth.hdl import Module, signed, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CONFIGS
from skipstone_sim.bench import BenchFailure, build_bench, run_bench
from skipstone_sim.bench_tools import pack, unpack

BENCH = Path(__file__).with_name("bench_stream.py")
LAYOUT = data.StructLayout({"value": signed(12), "pair": data.ArrayLayout(7, 2)})


class Fifo(wiring.Component):
    """A FIFO between two streams."""

    def __init__(self):
        super().__init__(
            {"w_stream": In(stream.Signature(LAYOUT)), "r_stream": Out(stream.Signature(LAYOUT))}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=LAYOUT.size, depth=4)
        m.d.comb += [
            fifo.w_data.eq(self.w_stream.payload),
            fifo.w_en.eq(self.w_stream.valid),
            self.w_stream.ready.eq(fifo.w_rdy),
            self.r_stream.payload.eq(fifo.r_data),
            self.r_stream.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.r_stream.ready),
        ]
        return m


@pytest.mark.cocotb
def test_bench_passes():
    log = run_bench(
        Fifo(),
        test_module=BENCH,
        testcase=["stalled", "full_rate", "parameters_arrive"],
        config=CONFIGS["sim-tiny"],
        parameters={"depth": 4},
    )
    assert "PASS=3" in log


@pytest.mark.cocotb
def test_bench_failure_is_reported():
    with pytest.raises(BenchFailure, match=r"(?s)wrong failed.*the depth is wrong"):
        run_bench(Fifo(), test_module=BENCH, testcase="wrong", parameters={"depth": 4})


@pytest.mark.cocotb
def test_bench_without_tests_fails():
    with pytest.raises(BenchFailure, match="no test ran"):
        run_bench(Fifo(), test_module=BENCH, testcase="absent")


@pytest.mark.cocotb
def test_builds_are_cached():
    assert build_bench(Fifo()) == build_bench(Fifo())


class Kind(enum.Enum, shape=unsigned(2)):
    """Two kinds."""

    A = 0
    B = 3


def test_pack_and_unpack_agree_with_amaranth():
    layout = data.StructLayout({"a": signed(5), "k": Kind, "v": data.ArrayLayout(signed(3), 3)})
    value = {"a": -7, "k": Kind.B, "v": [1, -4, 3]}
    assert pack(layout, value) == layout.const(value).as_bits()
    assert unpack(layout, pack(layout, value)) == value
    with pytest.raises(ValueError, match="16 does not fit"):
        pack(layout, {"a": 16})
