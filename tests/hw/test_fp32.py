# amaranth: UnusedElaboratable=no
"""The binary32 units against `skipstone.spec.fp32`: random bit patterns and named edges."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike, NDArray

from skipstone.spec import fp32, tables
from skipstone_hw.numeric.fp32 import (
    FpAdd,
    FpMultiply,
    FpToFixed,
    IntToFp,
    fp_greater,
    fp_negate,
)
from skipstone_hw.numeric.pipeline import delay
from skipstone_sim.pipeline_bench import run_pipeline

BENCH = Path(__file__).with_name("bench_fp32.py")
ROWS = 20_000

Float = NDArray[np.float32]
Bits = NDArray[np.uint32]


def bits(x: ArrayLike) -> Bits:
    return np.asarray(x, np.float32).view(np.uint32)


def floats(sign: ArrayLike, exponent: ArrayLike, fraction: ArrayLike) -> Float:
    """Numbers from their fields; the exponent field is held to those of finite normal numbers."""
    e = np.clip(exponent, 0, 254)
    raw = np.asarray(sign) << 31 | e << 23 | np.asarray(fraction)
    return fp32.flush(raw.astype(np.uint32).view(np.float32))


def random_fractions(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Fractions with long runs of zeros or ones at the end in a third of the cases each."""
    fraction = rng.integers(0, 1 << 23, count)
    tail = (1 << rng.integers(0, 24, count)) - 1
    style = rng.integers(0, 3, count)
    return np.where(style == 0, fraction, np.where(style == 1, fraction & ~tail, fraction | tail))


def random_floats(rng: np.random.Generator, count: int) -> Float:
    """Every exponent, zero included."""
    return floats(
        rng.integers(0, 2, count), rng.integers(0, 255, count), random_fractions(rng, count)
    )


def exponent_of(x: Float) -> NDArray[np.int64]:
    return (bits(x).astype(np.int64) >> 23) & 0xFF


EDGES = fp32.flush(
    np.array(
        [
            *(0.0, 1.0, -1.0, 1.5, 2.0, 3.0, -3.0),
            *(1 + 2.0**-23, 1 - 2.0**-24, -1 - 2.0**-23, 1 - 2.0**-23),
            *(2.0**-23, 2.0**-24, 2.0**-25, -(2.0**-24), -(2.0**-25), 3 * 2.0**-25),
            *(2.0**24, 2.0**24 + 2, 2.0**25 + 4, -(2.0**24)),
            *(fp32.SMALLEST, -fp32.SMALLEST, fp32.SMALLEST * (1 + 2.0**-23)),
            *(fp32.SMALLEST * 1.5, -fp32.SMALLEST * (2 - 2.0**-23)),
            *(fp32.LARGEST, -fp32.LARGEST, fp32.LARGEST * (1 - 2.0**-24), 2.0**127, -(2.0**103)),
            *(2.0**102, 3 * 2.0**101),
            # Products that round up to the smallest normal number and beyond the largest.
            *(2.0**-63 * (1 + 2.0**-23), 2.0**-63 * (1 - 2.0**-23), 2.0**-63),
            *(2.0**64 * (1 + 2.0**-23), 2.0**64 * (1 - 2.0**-23), 2.0**63),
        ]
    )
)
EDGE_A, EDGE_B = np.array(list(itertools.product(EDGES, EDGES)), np.float32).T


@pytest.mark.cocotb
def test_multiply():
    rng = np.random.default_rng(1)
    a = random_floats(rng, ROWS)
    b = random_floats(rng, ROWS)
    # A third each: any exponent, a product near underflow, a product near overflow.
    near = np.where(rng.random(ROWS) < 0.5, 127 + 1, 2 * 127 + 127) - exponent_of(a)
    close = near + rng.integers(-3, 4, ROWS)
    b = np.where(rng.random(ROWS) < 1 / 3, b, floats(bits(b) >> 31, close, bits(b) & 0x7FFFFF))
    # Ties: factors with few bits.
    short = rng.random(ROWS) < 0.2
    a = np.where(short, (bits(a) & 0xFFFFF000).view(np.float32), a)
    b = np.where(short, (bits(b) & 0xFFFFF800).view(np.float32), b)
    a, b = np.concatenate([EDGE_A, a]), np.concatenate([EDGE_B, b])
    run_pipeline(
        FpMultiply(),
        bench=BENCH,
        inputs={"a": bits(a), "b": bits(b)},
        output="o",
        expected=bits(fp32.mul(a, b)),
    )


@pytest.mark.cocotb
def test_add():
    rng = np.random.default_rng(2)
    a = random_floats(rng, ROWS)
    b = random_floats(rng, ROWS)
    # Half of the summands within reach of each other, some of them almost opposite.
    close = floats(bits(b) >> 31, exponent_of(a) + rng.integers(-28, 29, ROWS), bits(b) & 0x7FFFFF)
    b = np.where(rng.random(ROWS) < 0.6, close, b)
    fraction = np.clip((bits(a) & 0x7FFFFF).astype(np.int64) + rng.integers(-2, 3, ROWS), 0, None)
    opposite = floats(
        1 - (bits(a) >> 31),
        exponent_of(a) + rng.integers(-1, 2, ROWS),
        np.minimum(fraction, 0x7FFFFF),
    )
    b = np.where(rng.random(ROWS) < 0.3, opposite, b)
    a, b = np.concatenate([EDGE_A, a]), np.concatenate([EDGE_B, b])
    run_pipeline(
        FpAdd(),
        bench=BENCH,
        inputs={"a": bits(a), "b": bits(b)},
        output="o",
        expected=bits(fp32.add(a, b)),
    )


@pytest.mark.cocotb
def test_add_negated_zero():
    """A zero whose sign was flipped by `fp_negate` is still zero, and sums are +0."""
    a = np.array([0x80000000, 0x80000000, 0x80000000, 0x00000000])
    b = np.array([0x80000000, 0x00000000, 0x3F800000, 0x80000000])
    run_pipeline(
        FpAdd(),
        bench=BENCH,
        inputs={"a": a, "b": b},
        output="o",
        expected=[0, 0, 0x3F800000, 0],
    )


@pytest.mark.cocotb
@pytest.mark.parametrize(("width", "exponent_width"), [(48, 12), (20, 8), (26, 10), (2, 2)])
def test_int_to_fp(width, exponent_width):
    rng = np.random.default_rng(3)
    top = 1 << (width - 1)
    lowest = -(1 << (exponent_width - 1))
    mantissa = rng.integers(-top, top, ROWS) >> rng.integers(0, width, ROWS)
    odd = rng.integers(-(1 << 25), 1 << 25, ROWS) | 1  # ties when cut by one bit
    tie = np.clip(odd << rng.integers(0, max(1, width - 26), ROWS), -top, top - 1)
    mantissa = np.where(rng.random(ROWS) < 0.3, tie, mantissa)
    length = np.frexp(np.abs(mantissa).astype(np.float64))[1]
    near = np.where(rng.random(ROWS) < 0.5, -126, 128) - length + rng.integers(-2, 3, ROWS)
    exponent = np.where(rng.random(ROWS) < 0.6, near, rng.integers(lowest, -lowest, ROWS))
    edges = sorted({0, 1, -1, top - 1, -top, 1 - top, top >> 1, -(top >> 1)})
    sizes = sorted({0, lowest, -lowest - 1, -126, -127, 127, 104, -149, -173, 80, 81})
    grid = np.array(list(itertools.product(edges, sizes)), np.int64)
    mantissa = np.concatenate([grid[:, 0], mantissa])
    exponent = np.clip(np.concatenate([grid[:, 1], exponent]), lowest, -lowest - 1)
    run_pipeline(
        IntToFp(bits=width, exponent_bits=exponent_width),
        bench=BENCH,
        inputs={"mantissa": mantissa, "exponent": exponent},
        output="o",
        expected=bits(fp32.from_int(mantissa, exponent)),
    )


@pytest.mark.parametrize("arguments", [{"bits": 1}, {"exponent_bits": 0}])
def test_int_to_fp_refuses(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name} must be at least 2, not {value}"):
        IntToFp(**arguments)


@pytest.mark.cocotb
@pytest.mark.parametrize(
    ("fraction_bits", "limit"), [(16, tables.EXP2_LIMIT), (4, 100), (0, 1), (8, (1 << 30) - 1)]
)
def test_fp_to_fixed(fraction_bits, limit):
    rng = np.random.default_rng(4)
    # Most exponents between the last fraction bit and the limit.
    low = 127 - fraction_bits - 3
    exponent = rng.integers(low, low + limit.bit_length() + 6, ROWS)
    any_exponent = rng.integers(0, 255, ROWS)
    exponent = np.where(rng.random(ROWS) < 0.8, exponent, any_exponent)
    x = floats(rng.integers(0, 2, ROWS), exponent, random_fractions(rng, ROWS))
    unit = 2.0**-fraction_bits
    around = np.array([0, 0.5, 1, 1.5, limit - 1, limit - 0.5, limit, limit + 0.5, limit + 1])
    edges = fp32.flush(np.concatenate([around * unit, -around * unit]))
    x = np.concatenate([edges, np.nextafter(edges, np.float32(9e9)), EDGES, x])
    x = fp32.flush(x)
    run_pipeline(
        FpToFixed(fraction_bits=fraction_bits, limit=limit),
        bench=BENCH,
        inputs={"x": bits(x)},
        output="o",
        expected=fp32.to_fixed(x, fraction_bits=fraction_bits, limit=limit),
    )


def test_fp_to_fixed_refuses():
    with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
        FpToFixed(fraction_bits=4, limit=0)
    with pytest.raises(ValueError, match="fraction_bits must be 0 to 64, not -1"):
        FpToFixed(fraction_bits=-1, limit=4)


class Compare(wiring.Component):
    """`fp_greater` and `fp_negate` in registers: bit 0 is a > b, the others are −a."""

    PIPELINE_CYCLES = 2

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "o": Out(33)})

    def elaborate(self, platform):
        m = Module()
        greater = delay(m, fp_greater(self.a, self.b), 2, name="greater")
        negated = delay(m, fp_negate(self.a), 2, name="negated")
        m.d.comb += self.o.eq(greater | negated << 1)
        return m


@pytest.mark.cocotb
def test_compare_and_negate():
    rng = np.random.default_rng(5)
    a = random_floats(rng, ROWS)
    b = np.where(rng.random(ROWS) < 0.1, a, random_floats(rng, ROWS))
    step = rng.integers(-1, 2, ROWS)
    near = floats(bits(a) >> 31, exponent_of(a), np.clip((bits(a) & 0x7FFFFF) + step, 0, 0x7FFFFF))
    b = np.where(rng.random(ROWS) < 0.3, near, b)
    a, b = np.concatenate([EDGE_A, a]), np.concatenate([EDGE_B, b])
    run_pipeline(
        Compare(),
        bench=BENCH,
        inputs={"a": bits(a), "b": bits(b)},
        output="o",
        expected=(a > b) | bits(-a).astype(np.int64) << 1,
    )


def test_delay_refuses_negative():
    with pytest.raises(ValueError, match="cycles must not be negative, not -1"):
        delay(Module(), Signal(8), -1, name="x")
