# amaranth: UnusedElaboratable=no
"""Packed products: the arithmetic over all operands, the gateware over all operands, and limits."""

from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import ConfigError
from skipstone.spec.formats import ACTIVATION_BITS
from skipstone.spec.packing import WEIGHT_BITS, Packing
from skipstone_hw.numeric.pipeline import delay
from skipstone_hw.packing import ArrayMode, ColumnGroup
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_packing.py")
EXACT = [Packing(2, "27x18"), Packing(2, "25x18")]
OVERLAPPING = [Packing(2, "18x18"), Packing(3, "27x18"), Packing(3, "25x18")]
ACTIVATIONS = np.arange(-2048, 2048)
ROWS, LANES = 4, 8
_LANE_BITS = 3


class PackingCheck(wiring.Component):
    """Runs through all activations and all weights of a `ColumnGroup`, in an even and an odd row.

    Only one row at a time has an activation other than zero, so that each column's sum is one
    product; lanes take eight activations at once.

    Members
    -------
    done, wrong : Out(1)
        Stay once they are set.
    nonzero : Out(32)
        Products other than zero that were compared in lane 0.
    """

    done: Signal
    wrong: Signal
    nonzero: Signal

    def __init__(self, *, packing: Packing):
        self._packing = packing
        super().__init__({"done": Out(1), "wrong": Out(1), "nonzero": Out(32)})

    def elaborate(self, platform):
        m = Module()
        columns = self._packing.products
        m.submodules.group = group = ColumnGroup(
            columns=columns, rows=ROWS, lanes=LANES, packing=self._packing
        )
        count = Signal(1 + ACTIVATION_BITS - _LANE_BITS + WEIGHT_BITS * columns + 1)
        odd, upper = count[0], count[1 : 1 + ACTIVATION_BITS - _LANE_BITS]
        weights = count[1 + ACTIVATION_BITS - _LANE_BITS : -1]
        running = ~count[-1]
        with m.If(running):
            m.d.sync += count.eq(count + 1)

        by_column = [weights.word_select(c, WEIGHT_BITS) for c in range(columns)]
        m.d.comb += [
            group.mode.eq(ArrayMode.LINEAR),
            group.enable.eq(running.replicate(LANES)),
            group.nibbles.eq(Cat(weight.replicate(ROWS) for weight in by_column)),
        ]
        late_odd = delay(m, odd, 1, name="odd")
        cycles = ColumnGroup.PIPELINE_CYCLES
        arriving = delay(m, running, cycles, name="arriving", reset=True)
        m.d.sync += self.done.eq(~running & ~arriving)
        for lane in range(LANES):
            x = Signal(signed(ACTIVATION_BITS), name=f"x_{lane}")
            m.d.comb += x.eq(Cat(Const(lane, _LANE_BITS), upper))
            late = delay(m, x, 1, name=f"late_{lane}")
            for row in range(2):
                m.d.comb += group.rows[lane][row].eq(Mux(late_odd == row, late, 0))
            for c, weight in enumerate(by_column):
                plain = Signal(signed(16), name=f"plain_{lane}_{c}")
                m.d.comb += plain.eq(x * weight.as_signed())
                wanted = delay(m, plain, cycles, name=f"wanted_{lane}_{c}")
                with m.If(arriving & (group.sums[lane][c] != wanted)):
                    m.d.sync += self.wrong.eq(1)
                if lane == 0 and c == columns - 1:
                    with m.If(arriving & (wanted != 0)):
                        m.d.sync += self.nonzero.eq(self.nonzero + 1)
        return m


def all_weights(count):
    """(16^count, count): every combination of int4."""
    grids = np.meshgrid(*[np.arange(-8, 8)] * count, indexing="ij")
    return np.stack(grids, axis=-1).reshape(-1, count)


@pytest.mark.parametrize("packing", [*EXACT, *OVERLAPPING], ids=str)
def test_every_combination_of_weights_fits_the_multiplier(packing):
    packed = packing.pack(list(all_weights(packing.products).T))
    wide_bits = int(packing.dsp.partition("x")[0])
    assert packed.min() >= -(1 << (wide_bits - 1))
    assert packed.max() < 1 << (wide_bits - 1)
    assert len(np.unique(packed)) == 16**packing.products


@pytest.mark.parametrize("packing", OVERLAPPING, ids=str)
def test_every_overlapping_product_is_repaired(packing):
    weights = all_weights(packing.products)
    packed = packing.pack(list(weights.T))
    for x in ACTIVATIONS:
        fields = packing.repair(x * packed, [packing.tail(x, w) for w in weights.T[1:]])
        for field, weight in zip(fields, weights.T, strict=True):
            assert np.array_equal(field, x * weight)


@pytest.mark.parametrize("packing", EXACT, ids=str)
def test_every_exact_sum_is_taken_apart(packing):
    """A field's sum may be anything that `most_terms` products add up to."""
    extreme = 2048 * 8 * packing.most_terms
    low = np.arange(-extreme, extreme + 1)
    for high in (-extreme, -extreme + 1, -1, 0, 1, extreme - 1, extreme):
        found = packing.split(low + (high << packing.spacing), 2)
        assert np.array_equal(found[0], low)
        assert np.all(found[1] == high)


def test_single_products():
    packing = Packing(1, "27x18")
    assert (packing.overlap, packing.spacing, packing.most_terms) == (0, 0, None)
    assert packing.pack([-8]) == -8
    assert packing.split(-5, 1) == [-5]


@pytest.mark.cocotb
@pytest.mark.parametrize(
    "packing",
    [
        EXACT[0],
        OVERLAPPING[0],
        *(pytest.param(p, marks=pytest.mark.slow) for p in (EXACT[1], *OVERLAPPING[1:])),
    ],
    ids=str,
)
def test_every_product_of_the_gateware(packing):
    run_bench(
        PackingCheck(packing=packing),
        test_module=BENCH,
        parameters={"products": packing.products},
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"products_per_dsp": 4}, "products_per_dsp must be 1, 2 or 3, not 4"),
        ({"dsp": "9x9"}, "dsp must be one of 27x18, 25x18, 18x18, not '9x9'"),
        (
            {"products_per_dsp": 3, "dsp": "18x18"},
            "3 products in a 18x18 multiplier leave fields 6 bits apart",
        ),
        (
            {"rows": 64, "columns": 8, "ports": 4, "port_bits": 512, "group": 64, "max_hidden": 64,
             "max_ffn": 64, "max_query": 64, "dsp": "25x18"},
            "20 bits apart, which cannot hold the sum of rows / 2 = 32 products",
        ),
    ],
)  # fmt: skip
def test_impossible_packings_are_refused(fields, message):
    from dataclasses import replace

    with pytest.raises(ConfigError, match=message):
        replace(CONFIGS["sim-tiny"], **fields)


def test_impossible_groups_are_refused():
    with pytest.raises(ValueError, match="columns must be 1 to 2, not 3"):
        ColumnGroup(columns=3, rows=8, lanes=1, packing=EXACT[0])
    with pytest.raises(ValueError, match="rows must be fewer than 64"):
        ColumnGroup(columns=2, rows=64, lanes=1, packing=EXACT[1])
