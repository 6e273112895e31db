"""The table units against `skipstone.spec.tables`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skipstone.spec import fp32, tables
from skipstone_hw.numeric.tables import Exp2, Reciprocal, Rsqrt, TableLookup
from skipstone_sim.pipeline_bench import run_pipeline

BENCH = Path(__file__).with_name("bench_fp32.py")
ROWS = 20_000


def positive_floats(rng: np.random.Generator, count: int):
    """Zero, every exponent with the ends of the fraction's range, then random numbers."""
    ends = [exponent << 23 | f for exponent in range(1, 255) for f in (0, 1, 127, 128, 0x7FFFFF)]
    random = rng.integers(1 << 23, 255 << 23, count)
    raw = np.concatenate([[0], ends, random]).astype(np.uint32)
    return raw, raw.view(np.float32)


@pytest.mark.cocotb
@pytest.mark.parametrize(
    "table", [tables.EXP2, tables.RECIPROCAL, tables.RSQRT], ids=lambda t: t.name
)
def test_lookup(table):
    """Every fraction of every piece."""
    fraction = np.tile(np.arange(1 << tables.INPUT_BITS), table.pieces)
    piece = np.repeat(np.arange(table.pieces), 1 << tables.INPUT_BITS)
    inputs = {"fraction": fraction} | ({"piece": piece} if table.pieces > 1 else {})
    run_pipeline(
        TableLookup(table=table),
        bench=BENCH,
        inputs=inputs,
        output="y",
        expected=table(fraction, piece),
    )


@pytest.mark.cocotb
def test_exp2():
    limit = tables.EXP2_LIMIT
    whole = np.arange(-126, 127) << 16
    edges = np.concatenate([whole, whole[1:] - 1, whole[:-1] + 1, [limit - 1, -limit + 1]])
    x = np.concatenate([edges, np.random.default_rng(6).integers(-limit, limit + 1, ROWS)])
    run_pipeline(
        Exp2(),
        bench=BENCH,
        inputs={"x": x},
        output="o",
        expected=tables.exp2_fixed(x).view(np.uint32),
    )


@pytest.mark.cocotb
def test_reciprocal():
    raw, x = positive_floats(np.random.default_rng(7), ROWS)
    expected = tables.reciprocal(x)
    assert expected[0] == np.float32(fp32.LARGEST)
    assert (expected == 0).any()
    run_pipeline(
        Reciprocal(),
        bench=BENCH,
        inputs={"x": raw},
        output="o",
        expected=expected.view(np.uint32),
    )


@pytest.mark.cocotb
def test_rsqrt():
    raw, x = positive_floats(np.random.default_rng(8), ROWS)
    expected = tables.rsqrt(x)
    assert expected[0] == np.float32(fp32.LARGEST)
    run_pipeline(
        Rsqrt(),
        bench=BENCH,
        inputs={"x": raw},
        output="o",
        expected=expected.view(np.uint32),
    )
