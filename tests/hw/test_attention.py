import dataclasses
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from skipstone.spec.config import CONFIGS, CoreConfig
from skipstone_hw.activations import Activations
from skipstone_hw.array import Array
from skipstone_hw.attention import Attend
from skipstone_hw.layouts import MantissaPairLayout
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_attention.py")
STREAMS = ("command", "walk", "misses", "hits", "words", "o")
SHARED = ("geometry", "query_heads", "position")
STATUS = ("hit", "reading", "stall_words", "idle")
"""Ports of Attend that the bench sees."""


class AttentionUnderTest(wiring.Component):
    """Attend with the array and the activation buffer it is made to work with."""

    def __init__(self, *, config: CoreConfig):
        self._config = config
        self._attend = Attend(config=config)
        members = self._attend.signature.members
        super().__init__(
            {
                "queries": In(stream.Signature(MantissaPairLayout(config))),
                "queries_idle": Out(1),
                "head_dim_log2": In(3),
                **{name: members[name] for name in (*STREAMS, *SHARED, *STATUS)},
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.attend = attend = self._attend
        m.submodules.array = array = Array(config=self._config)
        m.submodules.activations = activations = Activations(config=self._config)
        connect(m, flipped(self.queries), activations.i)
        for name in STREAMS:
            connect(m, flipped(getattr(self, name)), getattr(attend, name))
        for lane, port in zip(attend.lanes, activations.lanes, strict=True):
            connect(m, lane, port)
        m.d.comb += [
            self.queries_idle.eq(activations.idle),
            activations.head_dim_log2.eq(self.head_dim_log2),
            array.head_dim_log2.eq(self.head_dim_log2),
            attend.geometry.eq(self.geometry),
            attend.query_heads.eq(self.query_heads),
            attend.position.eq(self.position),
            *(getattr(self, name).eq(getattr(attend, name)) for name in STATUS),
            array.valid.eq(attend.array_valid),
            array.mode.eq(attend.array_mode),
            array.word.eq(attend.array_word),
            array.upper_word.eq(attend.array_upper_word),
            array.lane_enable.eq(attend.array_lanes),
            array.bytes.eq(attend.array_bytes),
            array.heads.eq(attend.array_heads),
            attend.sums.eq(array.sums),
            *(a.eq(b) for a, b in zip(attend.products, array.products, strict=True)),
        ]
        return m


CORES = {
    "sim-tiny": CONFIGS["sim-tiny"],
    "sim-small": CONFIGS["sim-small"],
    "one lane": dataclasses.replace(CONFIGS["sim-tiny"], lanes=1),
    "odd": dataclasses.replace(CONFIGS["sim-tiny"], lanes=5, history_words=0),
}


@pytest.mark.cocotb
@pytest.mark.parametrize("name", CORES)
def test_attention(name):
    config = CORES[name]
    run_bench(AttentionUnderTest(config=config), test_module=BENCH, config=config)
