"""LINEAR under Verilator, with what it works with: the array and the activation buffer."""

from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CONFIGS, CoreConfig
from skipstone_hw.activations import Activations
from skipstone_hw.array import Array, ArrayMode
from skipstone_hw.layouts import MantissaPairLayout, PairLayout, token_shape
from skipstone_hw.linear import Linear, LinearCommand
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_linear.py")


class LinearTop(wiring.Component):
    """`Linear` as the sequencer sees it; `load` fills the activation buffer."""

    command: stream.Interface
    words: stream.Interface
    o: stream.Interface
    load: stream.Interface
    norm_token: Signal
    norm: Signal
    busy: Signal
    stall_words: Signal
    stall_drain: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "command": In(stream.Signature(LinearCommand(config))),
                "words": In(stream.Signature(config.word_bits)),
                "o": Out(stream.Signature(PairLayout(config))),
                "load": In(stream.Signature(MantissaPairLayout(config))),
                "norm_token": Out(token_shape(config)),
                "norm": In(32),
                "busy": Out(1),
                "stall_words": Out(1),
                "stall_drain": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.linear = linear = Linear(config=self._config)
        m.submodules.array = array = Array(config=self._config)
        m.submodules.activations = activations = Activations(config=self._config)
        for name in ("command", "words", "o"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(linear, name))
        wiring.connect(m, wiring.flipped(self.load), activations.i)
        for mine, theirs in zip(linear.lanes, activations.lanes, strict=True):
            wiring.connect(m, mine, theirs)
        m.d.comb += [
            self.norm_token.eq(linear.norm_token),
            linear.norm.eq(self.norm),
            array.valid.eq(linear.array_valid),
            array.mode.eq(ArrayMode.LINEAR),
            array.lane_enable.eq(linear.array_lanes),
            array.word.eq(linear.array_word),
            array.upper_word.eq(linear.array_word),
            array.rows.eq(linear.array_rows),
            linear.sums.eq(array.sums),
        ]
        for name in ("busy", "stall_words", "stall_drain", "idle"):
            m.d.comb += getattr(self, name).eq(getattr(linear, name))
        return m


@pytest.mark.cocotb
@pytest.mark.parametrize(
    "name", ["sim-tiny", "sim-small", pytest.param("sim-large", marks=pytest.mark.slow)]
)
def test_linear(name):
    config = CONFIGS[name]
    run_bench(LinearTop(config=config), test_module=BENCH, config=config)
