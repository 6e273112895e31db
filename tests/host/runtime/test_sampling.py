"""Sampling against distributions worked out by hand."""

import numpy as np
import pytest

from skipstone.runtime import Sampler
from skipstone.spec.errors import RequestError

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2]))


def test_greedy():
    assert Sampler().greedy
    assert Sampler(temperature=2.0, top_k=1).greedy
    assert Sampler()(LOGITS) == 1
    assert Sampler()(np.array([3.0, 5.0, 5.0])) == 1
    np.testing.assert_array_equal(Sampler().probabilities(LOGITS), [0, 1, 0, 0, 0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.4, 0.05, 0.25, 0.2]),
        ({"top_k": 2}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ({"top_k": 99}, [0.1, 0.4, 0.05, 0.25, 0.2]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.6}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        ({"top_p": 0.9}, [0.1 / 0.95, 0.4 / 0.95, 0, 0.25 / 0.95, 0.2 / 0.95]),
        ({"top_k": 3, "top_p": 0.7}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
    ],
)
def test_distributions(settings, expected):
    p = Sampler(temperature=1.0, **settings).probabilities(LOGITS)
    np.testing.assert_allclose(p, expected, atol=1e-12)


def test_temperature():
    p = Sampler(temperature=0.5).probabilities(LOGITS)
    squares = np.array([0.1, 0.4, 0.05, 0.25, 0.2]) ** 2
    np.testing.assert_allclose(p, squares / squares.sum())
    far = Sampler(temperature=1e-6).probabilities(np.array([1e4, -1e30, 9e3]))
    np.testing.assert_array_equal(far, [1, 0, 0])


def test_draws_follow_the_distribution_and_the_seed():
    sampler = Sampler(temperature=1.0, seed=7)
    draws = [sampler(LOGITS) for _ in range(4000)]
    share = np.bincount(draws, minlength=5) / 4000
    np.testing.assert_allclose(share, np.exp(LOGITS), atol=0.03)
    again = Sampler(temperature=1.0, seed=7)
    assert [again(LOGITS) for _ in range(100)] == draws[:100]
    other = Sampler(temperature=1.0, seed=8)
    assert [other(LOGITS) for _ in range(100)] != draws[:100]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more, not -0.1"),
        ({"temperature": float("nan")}, "temperature must be 0 or more, not nan"),
        ({"top_k": -1}, "top_k must be 0 or more, not -1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(RequestError, match=message):
        Sampler(**settings)
