"""The drawing of maps, and the figures of nano in RTL."""

import numpy as np
import pytest

from skipstone_sim.benchmarks.skipping import SHARES, random_decisions, run


@pytest.mark.parametrize("share", SHARES)
def test_random_decisions_skip_as_asked(share):
    decisions = random_decisions(20, 6, share, np.random.default_rng(0))
    assert decisions.shape == (20, 6, 2)
    assert (~decisions).sum(axis=(0, 1)).tolist() == [round(share * 120)] * 2
    if share:
        assert (decisions[..., 0] != decisions[..., 1]).any()


@pytest.mark.rtl
def test_skipping_of_nano():
    rows = run(["sim-tiny:nano"], prompt=4, tokens=2, context=128)
    value = {(r.figure, r.subject.partition("context ")[2]): r.value for r in rows}
    figure = {name: v for (name, _), v in value.items()}
    assert figure["skip_cost_p0"] == 1
    for share in (10, 25, 40, 60):
        assert 0.9 < figure[f"skip_cost_p{share}"] < 3
    assert 0 < figure["prefill_array_busy"] <= 100
    assert figure["prefill_weight_bytes_over_needed"] == 1
    for context in (64, 128):
        assert value["kv_storage_over_minimum", f"{context}, p25"] == 1
        assert value["kv_bytes_over_minimum", f"{context}, p25"] >= 1
        assert value["kv_bytes_over_minimum_of_buffer", f"{context}, p25"] == 1
    assert 0 < figure["kv_effective_bandwidth"] < 4
