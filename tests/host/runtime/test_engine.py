"""The engine on a device that knows only bigrams."""

import dataclasses

import numpy as np
import pytest

from skipstone.runtime import Engine, Sampler
from skipstone.spec.errors import DeviceError, ImageError, RequestError


class Letters:
    """A tokenizer: ids are letters."""

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(ord("a") + i - 2) for i in ids if i >= 2)


@pytest.fixture
def engine(device, image):
    return Engine(device, image, Letters())


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 11])
def test_prefill_in_chunks(engine, fake, length):
    tokens = list(range(3, 3 + length))
    result = engine.forward(tokens)
    chunks = [r.chunk_tokens for r in engine.device.runs]
    assert sum(chunks) == length
    assert max(chunks) <= 4
    assert len(chunks) == -(-length // 4)
    assert engine.device.history == tokens
    assert engine.length == length
    assert list(result.records["token"]) == tokens
    assert list(result.records["position"]) == list(range(length))
    assert result.logits.shape == (1, fake.vocabulary)
    assert result.next_token == result.logits[0].argmax() == fake.successor(tokens[-1])
    assert result.counters["cycles"] == 100 * length
    assert result.counters["errors"] == 2  # since power-up: not a sum
    for n, token in enumerate(tokens):
        row = result.records[n]
        assert (row["attention"], row["mlp"]) == fake.maps(token, n)


def test_all_logits(engine, fake):
    tokens = [5, 9, 2, 20, 3, 7]
    result = engine.forward(tokens, all_logits=True)
    assert result.logits.shape == (6, fake.vocabulary)
    assert list(result.logits.argmax(axis=1)) == [fake.successor(t) for t in tokens]


def executed(records, fake):
    """(tokens, layers, modules) from the records, bit by bit."""
    return [
        [[int(r[name]) >> n & 1 == 1 for name in ("attention", "mlp")] for n in range(fake.layers)]
        for r in records
    ]


def test_decisions_are_reported(engine, fake):
    result = engine.forward([4, 5, 6, 7, 8])
    assert result.decisions.tolist() == executed(result.records, fake)
    generation = engine.generate([9, 4, 5, 6, 2], 4, steps_per_run=2)
    list(generation)
    tokens = [9, 4, 5, 6, 2, *generation.tokens[:-1]]
    maps = np.array([fake.maps(t, n) for n, t in enumerate(tokens)])
    expected = maps[:, None, :] >> np.arange(fake.layers)[:, None] & 1
    assert (generation.statistics.decisions == expected).all()


def test_decisions_for_each_token(engine, fake):
    wanted = np.random.default_rng(0).random((9, fake.layers, 2)) < 0.5
    assert (engine.forward(range(2, 11), decisions=wanted).decisions == wanted).all()
    assert (engine.forward([3, 4], 7, decisions=wanted[:2]).decisions == wanted[:2]).all()
    generation = engine.generate([9, 4, 5, 6, 2], 5, decisions=wanted)
    list(generation)
    assert (generation.statistics.decisions == wanted).all()


@pytest.mark.parametrize("value", [True, False])
def test_the_same_decision_for_all(engine, value):
    assert (engine.forward(range(2, 11), decisions=value).decisions == value).all()
    mask = np.array([[value, True], [False, value], [True, False]])
    generation = engine.generate([9, 4, 5], 5, decisions=mask)
    list(generation)
    assert (generation.statistics.decisions == mask).all()


@pytest.mark.parametrize("bad", [[True], np.ones((2, 3, 2)), np.ones((4, 3, 2), bool), [[[True]]]])
def test_decisions_of_a_wrong_shape(engine, bad):
    message = r"bools of shape \(\), \(3, 2\) or \(2, 3, 2\), not \w+ of"
    with pytest.raises(RequestError, match=message):
        engine.forward([3, 4], decisions=bad)
    with pytest.raises(RequestError, match=message):
        engine.generate([3], 2, decisions=bad)
    with pytest.raises(RequestError, match=r"steps_per_run must be 1 .*, not 4"):
        engine.generate([3], 2, decisions=True, steps_per_run=4)
    assert not engine.device.runs


def test_a_sequence_grows_and_is_cut(engine):
    engine.forward([2, 3, 4, 5, 6])
    engine.forward([7, 8], 5)
    assert engine.device.history == [2, 3, 4, 5, 6, 7, 8]
    engine.forward([9], 3)
    assert engine.device.history == [2, 3, 4, 9]
    assert engine.length == 4
    with pytest.raises(RequestError, match="between 0 and the sequence's length 4, not 5"):
        engine.forward([2], 5)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "the prompt is empty"),
        ([3, 30], "token 1 has id 30; ids are 0 to 29"),
        ([-1], "token 0 has id -1; ids are 0 to 29"),
        ([2] * 49, "49 tokens .* of 48|has 49 tokens, the context holds 48"),
    ],
)
def test_requests_that_cannot_be_served(engine, tokens, message):
    for request in (engine.forward, lambda t: engine.generate(t, 3)):
        with pytest.raises(RequestError, match=message):
            request(tokens)
    assert not engine.device.runs
    assert engine.forward([3]).next_token == 4


def test_bad_limits(engine):
    with pytest.raises(RequestError, match="max_tokens must be at least 1, not 0"):
        engine.generate([3], 0)
    with pytest.raises(RequestError, match="steps_per_run must be at least 1, not 0"):
        engine.generate([3], 1, steps_per_run=0)


@pytest.mark.parametrize("steps_per_run", [1, 2, 5, 100])
@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_greedy(engine, steps_per_run, max_tokens):
    generation = engine.generate([9, 4, 5, 6, 2], max_tokens, steps_per_run=steps_per_run)
    pieces = list(generation)
    expected = list(range(3, 3 + max_tokens))
    assert [p.token for p in pieces] == generation.tokens == expected
    assert "".join(p.text for p in pieces) == generation.text == "bcdefgh"[:max_tokens]
    assert generation.finish == "max_tokens"
    s = generation.statistics
    assert s.generated == max_tokens
    assert s.prefill.tokens == 5
    assert s.decode.tokens == max_tokens - 1
    assert s.decode.runs == -(-(max_tokens - 1) // steps_per_run)
    assert s.cycles == 100 * (5 + max_tokens - 1)
    assert s.wall_s == s.prefill.wall_s + s.decode.wall_s > 0


def test_skip_shares(engine, fake):
    generation = engine.generate([9, 4, 5, 6, 2], 6, steps_per_run=3)
    list(generation)
    tokens = [9, 4, 5, 6, 2, *generation.tokens[:-1]]
    both = [fake.maps(t, n) for n, t in enumerate(tokens)]
    total = len(tokens) * fake.layers
    for which, share in enumerate(
        (generation.statistics.attention_skipped, generation.statistics.mlp_skipped)
    ):
        done = sum(m[which].bit_count() for m in both)
        assert share == pytest.approx(1 - done / total)


@pytest.mark.parametrize("steps_per_run", [1, 4])
def test_the_end_of_text(engine, steps_per_run):
    generation = engine.generate([26], 40, steps_per_run=steps_per_run)
    assert [p.token for p in generation] == [27, 28, 29]
    assert generation.finish == "eos"


def test_several_ends_of_text(device, fake):
    engine = Engine(device, fake.image(eos=[1, 28]))
    generation = engine.generate([25], 40, steps_per_run=8)
    assert [p.token for p in generation] == [26, 27]
    assert generation.finish == "eos"
    assert generation.text == ""
    single = Engine(device, fake.image(eos=5))
    assert [p.token for p in single.generate([2], 40)] == [3, 4]
    none = Engine(device, fake.image(eos=None))
    assert [p.token for p in none.generate([28], 3)] == [29, 1, 2]


@pytest.mark.parametrize("steps_per_run", [1, 5, 100])
@pytest.mark.parametrize("length", [48, 47, 40])
def test_the_end_of_the_context(engine, length, steps_per_run):
    engine.eos = ()
    generation = engine.generate([2] * length, 100, steps_per_run=steps_per_run)
    tokens = [p.token for p in generation]
    assert len(tokens) == 48 - length + 1
    assert generation.finish == "context"
    assert engine.length == 48


def test_sampling_reads_logits(engine):
    sampler = Sampler(temperature=0.05, seed=1)
    generation = engine.generate([2], 5, sampler)
    assert [p.token for p in generation] == [3, 4, 5, 6, 7]
    hot = engine.generate([2], 12, Sampler(temperature=30.0, seed=1))
    tokens = [p.token for p in hot]
    assert tokens != list(range(3, 3 + len(tokens)))
    again = engine.generate([2], 12, Sampler(temperature=30.0, seed=1))
    assert [p.token for p in again] == tokens


def test_closing_early_keeps_everything(engine):
    generation = engine.generate([2], 20)
    pieces = iter(generation)
    assert [next(pieces).token for _ in range(3)] == [3, 4, 5]
    generation.close()
    assert generation.text == "bcd"
    assert generation.finish == "interrupted"
    assert engine.length == 3
    assert engine.forward([6], engine.length).next_token == 7
    assert [p.token for p in engine.generate([2], 2)] == [3, 4]


def test_ctrl_c_within_a_run(engine, monkeypatch):
    generation = engine.generate([2], 20)
    pieces = iter(generation)
    next(pieces)
    wait = engine.device.wait

    def interrupt(timeout_s=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.device, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
    assert generation.finish == "interrupted"
    assert generation.text == "b"
    assert engine.device.resets == 1
    assert engine.length == 1
    monkeypatch.setattr(engine.device, "wait", wait)
    assert [p.token for p in engine.generate([2], 2)] == [3, 4]


def test_after_an_error_the_device_works_again(engine):
    engine.device.fail_at = 4
    with pytest.raises(DeviceError, match="WATCHDOG"):
        engine.forward([2, 3, 4, 5, 6])
    assert engine.device.resets == 1
    assert engine.length == 4
    engine.device.fail_at = None
    assert engine.forward([6], 4).next_token == 7


def test_an_image_for_another_core(fake, image):
    other = dataclasses.replace(fake.core, name="other")
    with pytest.raises(ImageError, match=r"compiled for core 'fake' .* but the device is 'other'"):
        Engine(fake.device(other), image)


def test_an_image_without_mailbox(device, image):
    sections = {n: s for n, s in image.sections.items() if n != "logits"}
    with pytest.raises(ImageError, match="the image has no section logits"):
        Engine(device, dataclasses.replace(image, sections=sections))


def test_numpy_tokens_are_welcome(engine):
    assert engine.forward(np.array([2, 3, 4, 5, 6])).next_token == 7
