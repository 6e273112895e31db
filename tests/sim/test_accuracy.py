"""The accuracy measures against values worked out by hand."""

import math

import numpy as np
import pytest

from skipstone_sim.accuracy import (
    Item,
    answers_correct,
    kl_divergence,
    log_probabilities,
    perplexity,
    skip_agreement,
    skip_rates,
)


def test_uniform_logits_have_the_vocabulary_as_perplexity():
    assert perplexity(lambda ids: np.zeros((len(ids), 7)), [[1, 2, 3], [4, 5]]) == pytest.approx(7)


def test_perplexity_weighs_tokens_not_sequences():
    table = np.log(np.array([[0.5, 0.25, 0.25]]))  # whatever the context
    value = perplexity(lambda ids: table.repeat(len(ids), 0), [[0, 0, 0, 0], [0, 1]])
    assert value == pytest.approx(math.exp((3 * math.log(2) + math.log(4)) / 4))


def test_perplexity_wants_a_row_per_token():
    with pytest.raises(ValueError, match="logits must have 3 rows, not 2"):
        perplexity(lambda ids: np.zeros((2, 5)), [[1, 2, 3]])


def test_log_probabilities_survive_large_logits():
    assert np.exp(log_probabilities([[1e4, 1e4, -1e4]])).tolist() == [[0.5, 0.5, 0.0]]


def test_kl_divergence():
    p, q = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert kl_divergence(np.log(p), np.log(q)) == pytest.approx(expected)
    assert kl_divergence(np.log(p), np.log(p) + 5) == pytest.approx(0)


def test_answers_are_judged_up_to_the_newline():
    items = [Item(prompt=p, answer=a, kind="who_has") for p, a in [("1", "Tom"), ("2", "Mia")]]
    said = {"1": " Tom\nQuestion: Mia", "2": " Mia is"}
    assert answers_correct(said.__getitem__, items) == 0.5
    with pytest.raises(ValueError, match="at least one item"):
        answers_correct(said.__getitem__, [])


def test_skip_agreement_and_rates():
    a = np.zeros((4, 3, 2), dtype=bool)
    b = a.copy()
    b[0, :, 0] = True
    assert skip_agreement(a, b) == pytest.approx(1 - 3 / 24)
    assert skip_rates(b) == (pytest.approx(0.25), 0.0)
    with pytest.raises(ValueError, match="same shape"):
        skip_agreement(a, b[:2])
