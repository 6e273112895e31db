"""The speed of simulation is compared between two texts of one circuit."""

import pytest

from skipstone_sim.benchmarks.simulation import run


@pytest.mark.slow
def test_both_texts_are_the_same_circuit():
    rows = run(["sim-tiny:nano"], 2, progress=lambda line: None)
    found = {row.figure: row.value for row in rows}
    ratio = found["simulated_cycles_per_second_after"] / found["simulated_cycles_per_second_before"]
    assert found["shaping_gain"] == pytest.approx(ratio)
