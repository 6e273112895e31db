"""The cycle model against the gateware, on the smallest core."""

import dataclasses

import numpy as np
import pytest

from skipstone.estimate import Parameters, load_calibration
from skipstone.spec.errors import ConfigError
from skipstone_sim.benchmarks.estimate import GRID, calibrate, errors, fit, measure, run

pytestmark = pytest.mark.rtl


@pytest.fixture(scope="module")
def measured():
    points = [p for p in GRID if p.core == "sim-tiny"]
    return measure([dataclasses.replace(p, prompt=20, decode=3) for p in points])


def test_the_stored_calibration_belongs_to_this_gateware(measured):
    """Cycles of the gateware are exact: if this fails, ``./scripts/bench estimate --write``."""
    error = errors(measured, load_calibration().parameters)
    assert np.abs(error).max() < 0.04


def test_a_fit_finds_its_way_back(measured):
    known = load_calibration().parameters
    lost = dataclasses.replace(known, barrier=known.barrier + 60)
    assert np.abs(errors(measured, lost)).max() > 0.05
    found = fit(measured, lost, rounds=3)
    result = calibrate(measured, found)
    assert result.worst_error < 0.03
    assert result.phases == len(errors(measured, known))
    assert all(getattr(found, f.name) >= 0 for f in dataclasses.fields(Parameters))


def test_a_core_outside_the_grid():
    with pytest.raises(ConfigError, match="the grid has no core 'u280'; it has sim-tiny"):
        run(cores=["u280"])
