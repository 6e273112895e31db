"""What quantization and skipping cost in accuracy: golden, the bits of the core, against torch.

Golden computes in int4 weights, BFP(12) activations and an 8-bit KV cache. The judge is the torch
reference in float32 with the same routing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from skipstone.model import resolve_model
from skipstone_sim.accuracy import (
    kl_divergence,
    perplexity_from_logits,
    skip_agreement,
    skip_rates,
)

from .data import Question, question_sequences, text_sequences
from .engines import Answer, Engines, Routing, Variant
from .rows import Row

__all__ = ["ROUTINGS", "Accuracy", "QuantizedRow", "quantized_row", "rows"]

ROUTINGS: tuple[Routing, ...] = ("dense", "kv_recompute", "kv_reuse")
Progress = Callable[[str], None]


class Accuracy:
    """Measurements on one model's held-out texts and questions.

    Parameters
    ----------
    model
        A shipped model, or a directory that holds ``eval.json`` and ``questions.json``.
    tokens, questions
        How much is measured on, at most.
    """

    def __init__(
        self,
        model: str,
        engines: Engines,
        *,
        tokens: int,
        questions: int,
        progress: Progress | None = None,
    ):
        self.model, self._engines, self._progress = model, engines, progress
        self._directory = resolve_model(model)
        self._tokens, self._questions = tokens, questions

    @cached_property
    def texts(self) -> list[list[int]]:
        """Token sequences that perplexity is measured on."""
        eos = Variant(model=self.model, engine="torch", routing="dense").checkpoint().config.eos
        return text_sequences(self._directory, self._tokens, eos)

    @cached_property
    def questions(self) -> list[Question]:
        """Questions with their answers."""
        return question_sequences(self._directory, self._questions)

    def variant(self, engine: str, routing: Routing, method: str = "rtn") -> Variant:
        """An engine with this model."""
        return Variant(model=self.model, engine=engine, routing=routing, method=method)  # type: ignore[arg-type]

    def _say(self, what: str, variant: Variant) -> None:
        if self._progress is not None:
            weights = "" if variant.engine == "torch" else f", {variant.method}"
            self._progress(f"{variant.model}: {what}, {variant.engine}, {variant.routing}{weights}")

    def read(self, variant: Variant) -> list[Answer]:
        """Logits and decisions on the texts."""
        self._say("texts", variant)
        return list(self._engines.ask(variant, self.texts))

    def perplexity(self, answers: list[Answer]) -> float:
        """Of the texts."""
        return perplexity_from_logits(
            (a.logits, t) for a, t in zip(answers, self.texts, strict=True)
        )

    def answers_correct(self, variant: Variant) -> float:
        """Share of the questions answered exactly, greedily."""
        self._say("questions", variant)
        asked = self.questions
        answers = self._engines.ask(
            variant, [q.sequence for q in asked], [len(q.answer) for q in asked]
        )
        right = [
            a.logits.argmax(axis=1).tolist() == q.answer
            for a, q in zip(answers, asked, strict=True)
        ]
        return sum(right) / len(right)


def _decisions(answers: list[Answer]) -> np.ndarray:
    return np.concatenate([a.skips for a in answers])


def rows(accuracy: Accuracy) -> list[Row]:
    """All figures of one model, with its own routers."""
    a = accuracy
    judge = {routing: a.read(a.variant("torch", routing)) for routing in ROUTINGS}
    exact = {routing: a.perplexity(answers) for routing, answers in judge.items()}
    golden = a.read(a.variant("golden", "kv_reuse"))
    same_weights = a.read(a.variant("torch-quantized", "kv_reuse"))
    golden_perplexity = a.perplexity(golden)
    calibrated = a.perplexity(a.read(a.variant("golden", "kv_reuse", "gptq")))
    divergence = kl_divergence(
        np.concatenate([r.logits for r in judge["kv_reuse"]]),
        np.concatenate([r.logits for r in golden]),
    )
    attention, mlp = skip_rates(_decisions(golden))

    def share(other: list[Answer]) -> float:
        return 100 * skip_agreement(_decisions(golden), _decisions(other))

    def right(engine: str) -> float:
        return 100 * a.answers_correct(a.variant(engine, "kv_reuse"))

    figures = [
        ("perplexity_ratio", golden_perplexity / exact["kv_reuse"], "", "≤ 1.01"),
        ("skip_agreement", share(same_weights), "%", "≥ 99.9"),
        ("skip_agreement_original_weights", share(judge["kv_reuse"]), "%", "≥ 98"),
        ("routing_cost", exact["kv_reuse"] / exact["dense"], "", ""),
        ("reuse_cost", exact["kv_reuse"] / exact["kv_recompute"], "", ""),
        ("answers_correct_torch", right("torch"), "%", ""),
        ("answers_correct_golden", right("golden"), "%", "torch's, ± 3"),
        ("perplexity_torch_dense", exact["dense"], "", ""),
        ("perplexity_torch_kv_recompute", exact["kv_recompute"], "", ""),
        ("perplexity_torch_kv_reuse", exact["kv_reuse"], "", ""),
        ("perplexity_torch_same_weights", a.perplexity(same_weights), "", ""),
        ("perplexity_golden_rtn", golden_perplexity, "", ""),
        ("perplexity_golden_gptq", calibrated, "", ""),
        ("kl_divergence", divergence, "nats", ""),
        ("attention_skipped", 100 * attention, "%", "about 25"),
        ("mlp_skipped", 100 * mlp, "%", "about 25"),
    ]
    tokens = sum(map(len, a.texts))
    subject = f"{a.model}, {tokens} tokens, {len(a.questions)} questions"
    return [
        Row(figure=name, value=value, unit=unit, kind="emulated", subject=subject, aim=aim)
        for name, value, unit, aim in figures
    ]


@dataclass(frozen=True)
class QuantizedRow:
    """A model on golden, as the documentation lists it."""

    model: str
    routing: Routing
    skip_rate: float
    perplexity: float
    answers_correct: float

    def rows(self) -> list[Row]:
        """The same for the terminal."""
        figures = [
            ("skip_rate", 100 * self.skip_rate, "%"),
            ("perplexity_golden_rtn", self.perplexity, ""),
            ("answers_correct_golden", 100 * self.answers_correct, "%"),
        ]
        subject = f"{self.model}, {self.routing}"
        return [
            Row(figure=name, value=value, unit=unit, kind="emulated", subject=subject)
            for name, value, unit in figures
        ]


def quantized_row(accuracy: Accuracy, routing: Routing) -> QuantizedRow:
    """Measure a model on golden, rounded to nearest."""
    variant = accuracy.variant("golden", routing)
    answers = accuracy.read(variant)
    return QuantizedRow(
        accuracy.model,
        routing,
        float(_decisions(answers).mean()),
        accuracy.perplexity(answers),
        accuracy.answers_correct(variant),
    )
