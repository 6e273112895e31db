"""Each elementwise operation of the HLS sources against the specification, on both types."""

import ctypes

import numpy as np
import pytest

from skipstone.spec import fp32, tables
from skipstone.spec.config import CONFIGS
from skipstone.spec.formats import SCORE_FRACTION_BITS, BlockFloat, fp16_parts
from skipstone_sim import arithmetic
from skipstone_sim.hls.build import Kind, build_library

pytestmark = pytest.mark.xdist_group("hls")

MUL, ADD, FROM_INT, RECIPROCAL, RSQRT, SIGMOID2, SWIGLU, EXP2 = range(8)
SOFT_MUL, SOFT_ADD, SOFT_FROM_INT, TO_FIXED = range(8, 12)
SOFT_TO_FIXED, SCORE, PROBABILITY, FROM_FP16 = range(12, 16)


@pytest.fixture(scope="module", params=[Kind.AP_INT, Kind.NATIVE], ids=["ap_int", "native"])
def library(request):
    return build_library(CONFIGS["sim-tiny"], request.param)


def call(library, operation, a, b=0):
    a, b = (np.ascontiguousarray(x, np.int64) for x in np.broadcast_arrays(a, b))
    out = np.zeros_like(a)
    pointers = (ctypes.c_void_p(x.ctypes.data) for x in (a, b, out))
    library.skipstone_operation(operation, *pointers, a.size)
    return out


def bits(x):
    return np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.int64)


def floats(seed, n=20_000, positive=False):
    """Normal numbers of all sizes, and the edges of the format."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 2**32, n).astype(np.uint32)
    near = rng.integers(0x3F000000, 0x41000000, n).astype(np.uint32)  # about 1
    edges = np.array([0, 0x00800000, 0x00800001, 0x00FFFFFF, 0x7F7FFFFF, 0x3F800000], np.uint32)
    raw = np.concatenate([raw, near, near | 0x80000000, np.repeat(edges, 64), edges | 0x80000000])
    x = raw.view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) >= np.float32(fp32.SMALLEST)) | (raw == 0)]
    x = np.abs(x) if positive else x
    return rng.permutation(x)


@pytest.mark.parametrize("operation", [MUL, SOFT_MUL])
def test_mul(library, operation):
    a, b = floats(1), floats(1)[::-1]
    assert (call(library, operation, bits(a), bits(b)) == bits(fp32.mul(a, b))).all()


def test_products_near_the_smallest_number(library):
    """What rounds up to it is kept; what lies below is zero."""
    rng = np.random.default_rng(3)
    a = np.float32(1) + rng.integers(0, 2**23, 50_000).astype(np.float32) * np.float32(2**-23)
    b = (np.float32(2**-126) / a).astype(np.float32) * np.float32(2)
    b = np.float32(0.5) * b.astype(np.float32)
    b = np.where(np.abs(b) < np.float32(fp32.SMALLEST), np.float32(fp32.SMALLEST), b)
    small = np.float32(2**-30)
    for x, y in ((a, b), (a * small, (b.astype(np.float64) * 2**30).astype(np.float32))):
        for operation in (MUL, SOFT_MUL):
            assert (call(library, operation, bits(x), bits(y)) == bits(fp32.mul(x, y))).all()


@pytest.mark.parametrize("operation", [ADD, SOFT_ADD])
def test_add(library, operation):
    a, b = floats(2), floats(2)[::-1]
    scale = np.exp2(np.random.default_rng(4).integers(-30, 30, a.size)).astype(np.float32)
    near = fp32.mul(a, scale)  # of like size: cancellation and every alignment
    for x, y in ((a, b), (a, near), (a, -a), (a, -near)):
        y = y + np.float32(0)
        assert (call(library, operation, bits(x), bits(y)) == bits(fp32.add(x, y))).all()


@pytest.mark.parametrize("operation", [FROM_INT, SOFT_FROM_INT])
def test_from_int(library, operation):
    rng = np.random.default_rng(5)
    mantissa = rng.integers(-(2**52), 2**52, 30_000) >> rng.integers(0, 53, 30_000)
    exponent = rng.integers(-200, 140, 30_000)
    expected = bits(fp32.from_int(mantissa, exponent))
    assert (call(library, operation, mantissa, exponent) == expected).all()


@pytest.mark.parametrize("operation", [TO_FIXED, SOFT_TO_FIXED])
def test_to_fixed(library, operation):
    x = floats(6)
    expected = fp32.to_fixed(x, fraction_bits=16, limit=tables.EXP2_LIMIT)
    assert (call(library, operation, bits(x)) == expected).all()


@pytest.mark.parametrize(
    ("operation", "function"), [(RECIPROCAL, tables.reciprocal), (RSQRT, tables.rsqrt)]
)
def test_tables_of_positive_numbers(library, operation, function):
    x = floats(7, positive=True)
    assert (call(library, operation, bits(x)) == bits(function(x))).all()


def test_exp2(library):
    rng = np.random.default_rng(8)
    x = rng.integers(-tables.EXP2_LIMIT, tables.EXP2_LIMIT + 1, 30_000)
    assert (call(library, EXP2, x) == bits(tables.exp2_fixed(x))).all()


def test_sigmoid_and_swiglu(library):
    t, u = floats(9), floats(9)[::-1]
    assert (call(library, SIGMOID2, bits(t)) == bits(tables.sigmoid2(t))).all()
    pairs = np.stack([t, u], axis=1).reshape(1, -1)
    assert (call(library, SWIGLU, bits(t), bits(u)) == bits(arithmetic.swiglu(pairs)[0])).all()


def test_scores(library):
    """Against Python's integers."""
    rng = np.random.default_rng(10)
    dot = rng.integers(-(2**26), 2**26, 20_000) >> rng.integers(0, 27, 20_000)
    exponent = rng.integers(-100, 60, 20_000)

    def score(d, e):
        up = e + SCORE_FRACTION_BITS
        exact = d << up if up >= 0 else d >> -up
        return min(max(exact, -(2**31)), 2**31 - 1)

    expected = [score(d, e) for d, e in zip(dot.tolist(), exponent.tolist(), strict=True)]
    assert call(library, SCORE, dot, exponent).tolist() == expected


def test_probabilities(library):
    below = -np.random.default_rng(11).integers(0, 2**24, 20_000)
    below[:3] = [0, -1, -(2**32)]
    mantissa = (tables.EXP2(below & 0xFFFF) + (1 << 16)) << 5
    expected = mantissa >> np.minimum(-(below >> 16), 63)
    assert (call(library, PROBABILITY, below) == expected).all()


def test_every_half(library):
    raw = np.arange(1 << 16, dtype=np.uint16)
    raw = raw[(raw & 0x7C00) != 0x7C00]
    mantissa, exponent = fp16_parts((raw & 0x7FFF).view(np.float16))
    signed = np.where(raw >> 15, -mantissa, mantissa)
    assert (call(library, FROM_FP16, raw) == bits(fp32.from_int(signed, exponent))).all()


@pytest.mark.parametrize(("size", "group"), [(12, 32), (12, 64), (12, 128), (8, 32), (8, 128)])
def test_block_floating_point(library, size, group):
    rng = np.random.default_rng(size + group)
    x = rng.standard_normal(group * 400).astype(np.float32)
    x *= np.exp2(rng.integers(-20, 20, x.size)).astype(np.float32)
    x[: 4 * group] = 0
    x[4 * group : 8 * group] = np.float32(fp32.SMALLEST)
    x[8 * group] = np.float32(fp32.LARGEST)
    full = 1 - 2.0 ** -np.arange(1, 24)  # rounding carries, or just not
    x[9 * group : 9 * group + full.size] = full
    mantissa, exponent = np.zeros(x.size, np.int32), np.zeros(x.size // group, np.int32)
    raw = bits(x).astype(np.uint32)
    pointers = [ctypes.c_void_p(v.ctypes.data) for v in (raw, mantissa, exponent)]
    library.skipstone_quantize(size, group, pointers[0], x.size, *pointers[1:])
    expected = BlockFloat(size, group).quantize(x)
    assert (mantissa == expected[0]).all()
    assert (exponent == expected[1]).all()
