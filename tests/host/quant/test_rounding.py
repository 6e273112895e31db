"""Rounding to int4: the format's limits, and that GPTQ is worth its trouble."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skipstone.quant import quantize_gptq, quantize_rtn
from skipstone.spec.errors import CheckpointError
from skipstone.spec.formats import fp16_parts


def check_format(q):
    assert q.weights.dtype == np.int8
    assert q.scales.dtype == np.float16
    assert q.weights.min() >= -8
    assert q.weights.max() <= 7
    assert np.isfinite(q.scales).all()
    assert not np.signbit(q.scales).any()
    mantissa, exponent = fp16_parts(q.scales)
    np.testing.assert_array_equal(np.ldexp(mantissa.astype(float), exponent), q.scales)


def naive_rtn(weight, group):
    """One element at a time, as the docstring says."""
    out = np.zeros(weight.shape)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], group):
            block = weight[row, start : start + group]
            scale = float(np.float16(np.abs(block).max() / np.float32(7)))
            for i, x in enumerate(block):
                out[row, start + i] = min(
                    7, max(-8, round(float(np.float32(x) / np.float32(scale))))
                )
    return out


@pytest.mark.parametrize("group", [32, 64])
def test_rtn_is_the_plain_rule(group):
    weight = np.random.default_rng(3).standard_normal((17, 192)).astype(np.float32)
    q = quantize_rtn(weight, group)
    check_format(q)
    assert q.group == group
    np.testing.assert_array_equal(q.weights, naive_rtn(weight, group))
    assert np.abs(q.dequantize() - weight).max() <= 0.51 * q.scales.max()


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, (2, 64), elements=st.floats(-4e5, 4e5, width=32)),
    st.booleans(),
)
def test_any_weights_keep_the_format(weight, clip_search):
    check_format(quantize_rtn(weight, clip_search=clip_search))


def test_edges():
    zeros = quantize_rtn(np.zeros((3, 64), np.float32))
    assert not zeros.weights.any()
    assert not zeros.scales.any()
    tiny = quantize_rtn(np.full((1, 32), 1e-9, np.float32))
    assert tiny.scales[0, 0] == np.float16(2.0**-24)
    assert not tiny.weights.any()
    with pytest.raises(CheckpointError, match=r"magnitude 458[0-9]{3} needs a scale beyond FP16's"):
        quantize_rtn(np.full((1, 32), 458_600, np.float32))
    with pytest.raises(ValueError, match=r"inputs must be a multiple of group \(32\), not 40"):
        quantize_rtn(np.zeros((1, 40), np.float32))


def test_clip_search_never_loses():
    weight = np.random.default_rng(4).standard_t(3, (40, 128)).astype(np.float32)
    plain, searched = quantize_rtn(weight), quantize_rtn(weight, clip_search=True)
    check_format(searched)

    def errors(q):
        return np.square(q.dequantize() - weight).reshape(40, 4, 32).sum(axis=2)

    assert (errors(searched) <= errors(plain) * (1 + 1e-6)).all()
    assert errors(searched).sum() < 0.95 * errors(plain).sum()
    assert searched.weights.min() == -8


def correlated_inputs(n, k, seed):
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((k // 4, k)) + 0.3 * rng.standard_normal((1, k))
    return rng.standard_normal((n, k // 4)) @ mix + 0.1 * rng.standard_normal((n, k))


def test_gptq_beats_rounding_on_what_matters():
    x = correlated_inputs(600, 128, 5)
    weight = np.random.default_rng(6).standard_normal((48, 128)).astype(np.float32)
    nearest = quantize_rtn(weight)
    tuned = quantize_gptq(weight, x.T @ x)
    check_format(tuned)

    def loss(q):
        return np.square(x @ (q.dequantize() - weight).T).sum()

    assert loss(tuned) < 0.5 * loss(nearest)


def naive_gptq(weight, hessian, group, damping):
    """Without blocks: the optimal update of Frantar et al., eq. 2, with explicit inverses."""
    w = weight.astype(np.float64).copy()
    h = hessian + damping * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    out = np.zeros(w.shape)
    for i in range(w.shape[1]):
        if i % group == 0:
            scale = np.float16(np.abs(w[:, i : i + group]).max(axis=1) / 7).astype(float)
        inverse = np.linalg.inv(h[i:, i:])
        out[:, i] = np.clip(np.rint(w[:, i] / scale), -8, 7)
        error = w[:, i] - out[:, i] * scale
        w[:, i:] -= np.outer(error, inverse[0]) / inverse[0, 0]
    return out


@pytest.mark.parametrize("block", [32, 64, 96])
def test_gptq_is_the_optimal_update(block):
    x = correlated_inputs(400, 96, 7)
    weight = np.random.default_rng(8).standard_normal((12, 96)).astype(np.float32)
    tuned = quantize_gptq(weight, x.T @ x, damping=0.02, block=block)
    np.testing.assert_array_equal(tuned.weights, naive_gptq(weight, x.T @ x, 32, 0.02))


def test_gptq_without_correlation_is_rounding():
    weight = np.random.default_rng(9).standard_normal((8, 64)).astype(np.float32)
    for hessian in (np.eye(64), np.zeros((64, 64))):
        tuned, nearest = quantize_gptq(weight, hessian), quantize_rtn(weight)
        np.testing.assert_array_equal(tuned.weights, nearest.weights)
        np.testing.assert_array_equal(tuned.scales, nearest.scales)


def test_gptq_with_dead_inputs_and_zero_groups():
    x = correlated_inputs(300, 96, 10)
    x[:, 5] = 0
    x[:, 64:] = 0
    weight = np.random.default_rng(11).standard_normal((4, 96)).astype(np.float32)
    weight[:, 64:] = 0
    tuned = quantize_gptq(weight, x.T @ x)
    check_format(tuned)
    assert not tuned.weights[:, 64:].any()


def test_gptq_checks_shapes():
    weight = np.zeros((4, 64), np.float32)
    with pytest.raises(ValueError, match=r"hessian must be \(64, 64\), not \(32, 32\)"):
        quantize_gptq(weight, np.eye(32))
    with pytest.raises(ValueError, match="multiple of group"):
        quantize_gptq(weight[:, :40], np.eye(40))
