"""Streaming text equals the text decoded at once."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from skipstone.runtime import TextStream

TEXT = "Grüße, 世界! 👩‍👩‍👧 naïve → ok\n"


@pytest.fixture(scope="module")
def bytelevel():
    """Every byte is a token, ids are the bytes' ranks in the byte-level alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module")
def metaspace():
    """Words that carry the space before them, as in SentencePiece."""
    vocabulary = {"▁once": 0, "▁upon": 1, "▁a": 2, "time": 3, ".": 4}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="."))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def test_multi_byte_characters_come_whole(bytelevel):
    ids = bytelevel.encode(TEXT).ids
    stream = TextStream(bytelevel)
    pieces = [stream.add(i) for i in ids]
    assert "".join(pieces) == TEXT
    assert stream.flush() == ""
    assert all("\ufffd" not in p for p in pieces)
    assert "世" in pieces


def test_after_a_prompt(bytelevel):
    ids = bytelevel.encode(TEXT).ids
    for cut in range(1, len(TEXT)):
        before = len(bytelevel.encode(TEXT[:cut]).ids)
        stream = TextStream(bytelevel, ids[:before])
        assert "".join(stream.add(i) for i in ids[before:]) + stream.flush() == TEXT[cut:]


def test_spaces_of_words(metaspace):
    stream = TextStream(metaspace, [0, 1])
    assert [stream.add(i) for i in (2, 3, 4, 1)] == [" a", "time", ".", " upon"]
    alone = TextStream(metaspace)
    assert [alone.add(i) for i in (0, 1)] == ["once", " upon"]


def test_an_unfinished_character(bytelevel):
    ids = bytelevel.encode("a世").ids
    stream = TextStream(bytelevel)
    assert [stream.add(i) for i in ids[:3]] == ["a", "", ""]
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_any_bytes_at_all(bytelevel):
    rng = random.Random(0)
    for _ in range(50):
        ids = [rng.randrange(256) for _ in range(rng.randrange(1, 30))]
        stream = TextStream(bytelevel)
        text = "".join(stream.add(i) for i in ids) + stream.flush()
        assert text == bytelevel.decode(ids)
