"""The layer benchmark, scaled down: a narrow shape on the smallest core."""

import pytest

from skipstone.model import ModelConfig
from skipstone.spec.config import CONFIGS
from skipstone_sim.benchmarks.layer import run
from skipstone_sim.dram import DRAMS

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
    # Nibbles of all matrices; a scale word for two groups of every eight columns; K and V: a word
    # for every token and KV head, and an exponent word for every 16.
    weights = 128 * (2 * 128 + 2 * 64 + 3 * 256)
    scales = (128 + 2 * 64 + 128 + 2 * 256) // 8 * (4 // 2) + 128 // 8 * (8 // 2)
    assert value["decode_layer_bound"] == weights // 64 + scales + 2 * (2 * 20 + 2)
    share = value["decode_layer_bound"] / value["decode_layer_cycles"]
    deliverable = 1.0 if memory == "ideal" else DRAMS[memory].deliverable(CORE)
    assert value["decode_bandwidth_efficiency"] == pytest.approx(100 * share / deliverable)
    assert 20 < value["decode_bandwidth_efficiency"] < 100
    assert 0 < value["nonlinear_share"] < 60
    products = 8 * weights / (CORE.rows * CORE.columns * CORE.lanes)
    assert value["prefill_utilisation"] == pytest.approx(
        100 * products / value["prefill_layer_cycles"]
    )
    assert 20 < value["prefill_utilisation"] < 100
