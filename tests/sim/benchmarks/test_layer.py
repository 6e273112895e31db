"""The layer benchmark, scaled down: a narrow shape on the smallest core."""

from dataclasses import replace

import pytest

from skipstone.model import ModelConfig
from skipstone.runtime import Engine
from skipstone.spec.config import CONFIGS
from skipstone_sim.benchmarks.layer import filler, run, stack
from skipstone_sim.dram import DRAMS
from skipstone_sim.rtl import RtlDevice

SHAPE = ModelConfig(
    name="narrow", hidden=128, layers=1, heads=4, kv_heads=2, head_dim=32, ffn=256, vocab=64,
    max_positions=64,
)  # fmt: skip
CORE = CONFIGS["sim-tiny"]


@pytest.mark.rtl
@pytest.mark.parametrize("memory", ["ideal", "hbm2"])
def test_a_layer(memory):
    rows = run(
        [SHAPE], core=CORE.name, contexts=[20], chunks=[8], skips=(0.0,), tokens=1, memory=memory
    )
    value = {row.figure: row.value for row in rows}
    assert value["identical_words"] > 500
    # Nibbles of all matrices; a scale word for two groups of every eight columns; K and V: a word
    # for every token and KV head, and an exponent word for every 16.
    weights = 128 * (2 * 128 + 2 * 64 + 3 * 256)
    scales = (128 + 2 * 64 + 128 + 2 * 256) // 8 * (4 // 2) + 128 // 8 * (8 // 2)
    assert value["decode_layer_bound"] == weights // 64 + scales + 2 * (2 * 20 + 2)
    share = value["decode_layer_bound"] / value["decode_layer_cycles"]
    deliverable = 1.0 if memory == "ideal" else DRAMS[memory].deliverable(CORE)
    assert value["decode_bandwidth_efficiency"] == pytest.approx(100 * share / deliverable)
    assert 20 < value["decode_bandwidth_efficiency"] < 100
    # Behind ideal memory the array is the slower: a V word takes two cycles.
    assert 0 < value["nonlinear_share"] < 100.001 - value["decode_bandwidth_efficiency"]
    products = 8 * weights / (CORE.rows * CORE.columns * CORE.lanes)
    assert value["prefill_utilisation"] == pytest.approx(
        100 * products / value["prefill_layer_cycles"]
    )
    assert 20 < value["prefill_utilisation"] < 100
    assert abs(value["estimate_error"]) < 5  # of the prefill, which comes last


@pytest.mark.rtl
@pytest.mark.parametrize("before", [5, 40])
def test_a_cheap_context_costs_what_a_real_one_costs(before):
    image = stack(SHAPE, 2, CORE, 64)
    device = RtlDevice(CORE)
    counters = []
    for context in (image, filler(image, SHAPE)):
        Engine(device, context).forward([0] * before, decisions=False)
        engine = Engine(device, image)
        engine.length = before
        counters.append([engine.forward([3], before + n, decisions=True).counters for n in (0, 1)])
    device.close()
    assert counters[0] == counters[1]


def test_a_layer_that_is_too_small_for_a_cheap_context():
    shape = replace(SHAPE, hidden=32, ffn=32)
    with pytest.raises(ValueError, match="a layer of narrow is too small"):
        filler(stack(shape, 1, CORE, 64), shape)
