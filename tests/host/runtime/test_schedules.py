"""Schedules by themselves, and through the engine on a device whose routers are made up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.runtime import Engine, First, Given, SkipDecode
from skipstone.spec.errors import RequestError
from skipstone.spec.records import INPUT_RECORD, OUTPUT_RECORD, decisions_of, force_decisions


@given(st.integers(1, 64), st.integers(1, 5), st.randoms(use_true_random=False))
def test_maps_pass_through_records(layers, tokens, random):
    wanted = np.array([random.random() < 0.5 for _ in range(tokens * layers * 2)])
    wanted = wanted.reshape(tokens, layers, 2)
    inputs, outputs = np.zeros(tokens, INPUT_RECORD), np.zeros(tokens, OUTPUT_RECORD)
    force_decisions(inputs, wanted)
    assert (inputs["flags"] == 1).all()
    for name in ("attention", "mlp"):
        outputs[name] = inputs[name]
    assert (decisions_of(outputs, layers) == wanted).all()


def test_given_starts_where_the_tokens_do():
    wanted = np.random.default_rng(1).random((5, 3, 2)) < 0.5
    schedule = Given(wanted, 3, range(10, 15))
    assert (schedule.decide(range(12, 15)) == wanted[2:]).all()


@given(st.data())
def test_skip_decode_never_misses_what_was_left_out(data):
    """Every layer that a token executes, all tokens before it executed."""
    layers = data.draw(st.integers(1, 12))
    most = data.draw(st.integers(1, layers))
    least = data.draw(st.integers(0, most))
    warm_up = data.draw(st.integers(0, least))
    begin = data.draw(st.integers(0, 10))
    end = data.draw(st.integers(begin + 1, 30))
    schedule = SkipDecode(layers, begin=begin, end=end, least=least, most=most, warm_up=warm_up)
    maps = schedule.decide(range(35))
    assert maps.shape == (35, layers, 2)
    assert (maps[..., 0] == maps[..., 1]).all()
    assert not (maps[1:] & ~maps[:-1]).any()
    assert maps[:, :warm_up].all()
    budgets = maps[..., 0].sum(axis=1)
    assert budgets.tolist() == [schedule.budget(p) for p in range(35)]
    assert budgets[0] == most
    assert budgets[-1] == least


def test_skip_decode_in_steps():
    schedule = SkipDecode(6, begin=2, end=10, least=2)
    assert [schedule.budget(p) for p in (0, 2, 3, 4, 6, 8, 9, 10, 20)] == [
        6,
        6,
        6,
        5,
        4,
        3,
        3,
        2,
        2,
    ]
    assert schedule.decide(range(6, 7))[0, :, 0].tolist() == [True, False, False, True, True, True]


def test_skip_decode_on_a_device(device, image, fake):
    engine = Engine(device, image)
    schedule = SkipDecode(fake.layers, begin=5, end=10, least=1)
    generation = engine.generate([9, 4, 5, 6, 2], 8, decisions=schedule)
    list(generation)
    layers = generation.statistics.decisions[..., 0].sum(axis=1)
    assert layers.tolist() == [3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 1, 1]


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_first_keeps_what_the_prompt_used(device, image, fake, keep):
    engine = Engine(device, image)
    prompt = [9, 4, 5, 6, 2, 12]
    generation = engine.generate(prompt, 7, decisions=First(len(prompt), keep=keep))
    list(generation)
    free = np.array([fake.maps(t, n) for n, t in enumerate(prompt)])
    free = free[:, None, :] >> np.arange(fake.layers)[:, None] & 1
    decisions = generation.statistics.decisions
    assert (decisions[:6] == free).all()
    assert (decisions[6:] == (free.mean(axis=0) >= keep)).all()


def test_first_serves_one_prompt_after_another(device, image):
    engine = Engine(device, image)
    schedule = First(2)
    for prompt in ([2, 9], [17, 4]):
        engine.forward(prompt, decisions=schedule)
        wanted = engine.forward(prompt).decisions.mean(axis=0) >= 0.5
        assert (engine.forward([5], 2, decisions=schedule).decisions == wanted).all()


def test_bad_schedules():
    with pytest.raises(RequestError, match=r"warm_up ≤ least ≤ .* not 3, 2, 4, 4"):
        SkipDecode(4, begin=0, end=1, least=2, warm_up=3)
    with pytest.raises(RequestError, match="begin < end must hold, not 4, 4"):
        SkipDecode(4, begin=4, end=4, least=2)
    with pytest.raises(RequestError, match="at least one token, not 0"):
        First(0)
    with pytest.raises(RequestError, match="keep must be between 0 and 1, not 2"):
        First(3, keep=2)
    with pytest.raises(RequestError, match="position 3 comes before the prompt"):
        First(3).decide(range(3, 4))
