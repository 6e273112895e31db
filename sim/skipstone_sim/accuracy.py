"""Accuracy of any engine that can give logits or text: torch, golden, a board.

Pure functions of numpy arrays and callables, so that both sides of a comparison go through the same
code. A *logits function* maps token ids (T,) to logits (T, V), row t predicting token t+1; a
*generate function* maps a prompt to the text that follows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Item",
    "answers_correct",
    "kl_divergence",
    "load_questions",
    "log_probabilities",
    "perplexity",
    "perplexity_from_logits",
    "skip_agreement",
    "skip_rates",
]

Array = NDArray[np.float64]
LogitsFn = Callable[[Sequence[int]], ArrayLike]
GenerateFn = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt that ends where an answer is due, and the only right answer."""

    prompt: str
    answer: str
    kind: str


def load_questions(path: Path | str) -> list[Item]:
    """The items of a model directory's ``questions.json``."""
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    return [Item(prompt=e["prompt"], answer=e["answer"], kind=e["kind"]) for e in entries]


def log_probabilities(logits: ArrayLike) -> Array:
    """Natural log of the softmax over the last axis, in float64: (…, V) → (…, V)."""
    z = np.asarray(logits, dtype=np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def _losses(logits: ArrayLike, tokens: Sequence[int]) -> Array:
    """Negative log likelihood of tokens 1 … T−1 given logits (T, V): (T−1,)."""
    target = np.asarray(tokens, dtype=np.int64)[1:]
    table = log_probabilities(logits)
    if table.shape[0] != len(tokens):
        raise ValueError(f"logits must have {len(tokens)} rows, not {table.shape[0]}")
    return -table[np.arange(target.size), target]


def perplexity_from_logits(pairs: Iterable[tuple[ArrayLike, Sequence[int]]]) -> float:
    """Perplexity over (logits (T, V), tokens (T,)) pairs, all predicted tokens weighing alike."""
    losses = np.concatenate([_losses(logits, tokens) for logits, tokens in pairs])
    return float(np.exp(losses.mean()))


def perplexity(logits_fn: LogitsFn, sequences: Iterable[Sequence[int]]) -> float:
    """Perplexity of an engine over token sequences; the first token of each is given."""
    return perplexity_from_logits((logits_fn(tokens), tokens) for tokens in sequences)


def kl_divergence(p_logits: ArrayLike, q_logits: ArrayLike) -> float:
    """Mean KL(p ‖ q) in nats over all positions of logits (…, V); p is the judge's."""
    p, q = log_probabilities(p_logits), log_probabilities(q_logits)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def answers_correct(generate_fn: GenerateFn, questions: Iterable[Item]) -> float:
    """Fraction of items whose generated text, up to the first newline, is exactly the answer."""
    right = [
        generate_fn(item.prompt).split("\n", 1)[0].strip() == item.answer for item in questions
    ]
    if not right:
        raise ValueError("questions must hold at least one item, not none")
    return sum(right) / len(right)


def skip_agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Fraction of equal decisions in two arrays of the same shape, e.g. (T, L, 2) of bool."""
    left, right = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if left.shape != right.shape:
        raise ValueError(f"decisions must have the same shape, not {left.shape} and {right.shape}")
    return float((left == right).mean())


def skip_rates(skips: ArrayLike) -> tuple[float, float]:
    """Mean share of skipped attention and of skipped MLP executions of decisions (…, L, 2)."""
    rates = np.asarray(skips, dtype=np.float64).reshape(-1, 2).mean(axis=0)
    return float(rates[0]), float(rates[1])
