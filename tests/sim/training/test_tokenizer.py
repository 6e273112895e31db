"""The tokenizer: fixed ids, any text, reproducible."""

import json

import pytest

from skipstone_sim.training.stories import stories
from skipstone_sim.training.tokenizer import BOS, EOS, VOCAB, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(story.text for story in stories("tokenizer test", 300))


def test_fixed_ids(tokenizer):
    assert tokenizer.get_vocab_size() == VOCAB
    assert tokenizer.token_to_id("<|bos|>") == BOS
    assert tokenizer.token_to_id("<|eos|>") == EOS
    assert tokenizer.encode("").ids == [BOS]


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time",
        "",
        "\n\n  two  spaces ",
        "Grüße, 東京 🦙",
        "\x00\x7f tab\t",
        "Answer: Tom\n",
    ],
)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert ids[0] == BOS
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < VOCAB for i in ids)


def test_stories_round_trip_and_fit(tokenizer):
    for story in stories("round trip", 100):
        ids = tokenizer.encode(story.text).ids
        assert tokenizer.decode(ids) == story.text
        assert len(ids) < 511
        assert len(ids) < 0.5 * len(story.text)


def test_a_prompt_tokenizes_as_the_start_of_its_text(tokenizer):
    for story in stories("prefix", 50):
        ids, prompt = tokenizer.encode(story.text).ids, tokenizer.encode(story.prompt(0)).ids
        assert ids[: len(prompt)] == prompt


def test_training_is_reproducible(tokenizer):
    again = train_tokenizer(story.text for story in stories("tokenizer test", 300))
    assert json.loads(again.to_str()) == json.loads(tokenizer.to_str())


def test_too_little_text_is_named():
    with pytest.raises(ValueError, match="must yield 512 tokens, not"):
        train_tokenizer(["too little"])
