"""What a model directory brings to be measured on, as token sequences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstone.runtime.text import load_tokenizer
from skipstone.spec.errors import RequestError
from skipstone_sim.accuracy import load_questions

__all__ = ["Question", "load_texts", "question_sequences", "text_sequences"]


def load_texts(directory: Path) -> list[str]:
    """The held-out texts of ``eval.json``. Raises RequestError if there are none."""
    path = directory / "eval.json"
    try:
        texts: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise RequestError(f"nothing to measure on: {path} is not there") from None
    if not (isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)):
        raise RequestError(f"{path} must be a list of texts")
    return texts


def text_sequences(directory: Path, limit: int, eos: Sequence[int]) -> list[list[int]]:
    """The held-out texts, each ended by EOS, up to `limit` tokens in all."""
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    out: list[list[int]] = []
    left = limit
    for text in load_texts(directory):
        ids = [*tokenizer.encode(text).ids, *eos[:1]][:left]
        if len(ids) > 1:  # something is predicted
            out.append(ids)
        left -= len(ids)
        if left <= 0:
            break
    return out


@dataclass(frozen=True)
class Question:
    """A prompt followed by the right answer, less its last token.

    The model answers exactly right, greedily, if its most likely tokens at the end of the sequence
    are those of `answer`, the newline included: one pass instead of a generation.
    """

    sequence: list[int]
    answer: list[int]


def question_sequences(directory: Path, limit: int) -> list[Question]:
    """The first `limit` items of ``questions.json``."""
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    out = []
    for item in load_questions(directory / "questions.json")[:limit]:
        prompt = tokenizer.encode(item.prompt).ids
        answer = tokenizer.encode(f" {item.answer}\n", add_special_tokens=False).ids
        out.append(Question([*prompt, *answer[:-1]], answer))
    return out
