"""From a model's shape and a core to tokens per second, and to what limits them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compiler import plan_image
from ..model import ModelConfig, parameter_count
from ..spec.boards import RESOURCES
from ..spec.errors import RequestError
from ..spec.registers import Mode
from .boards import Target
from .cycles import Decisions, RunCost, RunModel, runs_of, sampled
from .parameters import Calibration, load_calibration

__all__ = ["Estimate", "PhaseEstimate", "estimate", "stored_resources"]

_SAMPLES = 32
"""Positions at which decoding is walked; costs grow smoothly between them."""


@dataclass(frozen=True)
class PhaseEstimate:
    """Prefill or decode.

    Attributes
    ----------
    tokens : int
    cost : RunCost
        Of the whole phase.
    tokens_per_s : float
    bandwidth_efficiency, bandwidth_efficiency_of_peak : float
        Bytes of weights, keys and values ÷ what memory delivers in that time; and ÷ its peak.
    array_utilisation : float
        Products ÷ (multipliers × cycles): rows · columns · lanes of them.
    array_busy : float
        Share of the cycles in which the array takes a word.
    limit : str
        What most of the time goes to.
    shares : dict of str to float
        Shares of the cycles: "words" (memory delivers them), "array" (further passes over a word),
        "outputs" (the array waits for them to leave), and "hand-over" (the rest: waiting between
        instructions, non-linear functions).
    """

    tokens: int
    cost: RunCost
    tokens_per_s: float
    bandwidth_efficiency: float
    bandwidth_efficiency_of_peak: float
    array_utilisation: float
    array_busy: float
    limit: str
    shares: dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """What a model would do on a core.

    Attributes
    ----------
    time_to_first_token_s : float
    bytes_per_token : dict of str to float
        Of decoding: read as "weights", "kv", "other"; and "written".
    kv_bytes, kv_bytes_dense : int
        Keys, values and exponents stored at the end, and without skipping.
    image_bytes : int
        Memory the whole image occupies.
    resources : dict or None
        Of the core, from a stored synthesis result; None if it was not synthesized.
    """

    model: ModelConfig
    target: Target
    skip: float
    prompt: int
    generate: int
    prefill: PhaseEstimate
    decode: PhaseEstimate
    time_to_first_token_s: float
    bytes_per_token: dict[str, float]
    kv_bytes: int
    kv_bytes_dense: int
    image_bytes: int
    resources: dict[str, float] | None
    calibration: Calibration

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second of the whole request, prefill included."""
        cycles = self.prefill.cost.cycles + self.decode.cost.cycles
        return self.generate * self.target.clock_mhz * 1e6 / cycles

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def phase(p: PhaseEstimate) -> dict[str, Any]:
            return {
                "tokens": p.tokens,
                "cycles": p.cost.cycles,
                "tokens_per_s": p.tokens_per_s,
                "bandwidth_efficiency": p.bandwidth_efficiency,
                "bandwidth_efficiency_of_peak": p.bandwidth_efficiency_of_peak,
                "array_utilisation": p.array_utilisation,
                "array_busy": p.array_busy,
                "limit": p.limit,
                "shares": p.shares,
                "cycles_by_instruction": dict(p.cost.spent),
            }

        return {
            "kind": "estimated",
            "model": self.model.name,
            "parameters": parameter_count(self.model),
            "board": self.target.name,
            "core": self.target.core.name,
            "clock_mhz": self.target.clock_mhz,
            "memory_words_per_cycle": self.target.timing.rate(self.target.core),
            "memory_latency_cycles": self.target.timing.latency,
            "skip": self.skip,
            "prompt": self.prompt,
            "generate": self.generate,
            "tokens_per_s": self.tokens_per_s,
            "time_to_first_token_s": self.time_to_first_token_s,
            "prefill": phase(self.prefill),
            "decode": phase(self.decode),
            "bytes_per_token": self.bytes_per_token,
            "kv_bytes": self.kv_bytes,
            "kv_bytes_dense": self.kv_bytes_dense,
            "image_bytes": self.image_bytes,
            "resources": self.resources,
            "worst_error": self.calibration.worst_error,
            "mean_error": self.calibration.mean_error,
            "calibrated_on": list(self.calibration.on),
        }


def stored_resources(target: Target, folder: Path | None = None) -> dict[str, float] | None:
    """Sums over the units of ``bitstreams/BOARD/baseline.json`` of a source tree, which synthesis
    wrote; None if there is none for this core."""
    root = folder or Path(__file__).resolve().parents[3] / "bitstreams"
    try:
        path = root / target.name / "baseline.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["core"] != target.core.name:
            return None
        units = document["units"].values()
        total = {name: sum(float(unit.get(name, 0)) for unit in units) for name in RESOURCES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {name: value for name, value in total.items() if value}


def _phase(tokens: int, cost: RunCost, target: Target) -> PhaseEstimate:
    core, memory, rate = target.core, target.memory, target.timing.rate(target.core)
    moved = cost.words["weights"] + cost.words["kv"]
    read = moved + cost.words["other"]
    seconds = cost.cycles / (target.clock_mhz * 1e6)
    deliverable = min(1.0, moved / rate / cost.cycles)
    of_peak = moved / cost.cycles
    if memory is not None:
        of_peak = moved * core.word_bytes / seconds / (memory.peak_gb_s * 1e9)
    words = min(1.0, read / rate / cost.cycles)
    array = min(max(0.0, cost.array_busy / cost.cycles - words), 1 - words)
    outputs = min(cost.output_stalls / cost.cycles, 1 - words - array)
    rest = 1 - words - array - outputs
    shares = {"words": words, "array": array, "outputs": outputs, "hand-over": rest}
    names = {
        "words": "memory bandwidth" if rate < 1 else "the port width, one word per cycle",
        "array": "passes of the array",
        "outputs": "the epilogue, one pair of outputs per cycle",
        "hand-over": "hand-over between instructions",
    }
    return PhaseEstimate(
        tokens=tokens,
        cost=cost,
        tokens_per_s=tokens / seconds,
        bandwidth_efficiency=deliverable,
        bandwidth_efficiency_of_peak=of_peak,
        array_utilisation=cost.products / (core.rows * core.columns * core.lanes * cost.cycles),
        array_busy=cost.array_busy / cost.cycles,
        limit=names[max(shares, key=lambda name: shares[name])],
        shares=shares,
    )


def estimate(
    model: ModelConfig,
    target: Target,
    *,
    skip: float = 0.25,
    prompt: int = 128,
    generate: int = 1024,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> Estimate:
    """Estimate a request: prefill of `prompt` tokens, then `generate` tokens one by one, each a run
    with its logits written, as the engine decodes when it samples. The host's time is not counted.

    Parameters
    ----------
    skip
        Share of the attention and of the MLP executions that every token skips.

    Raises ConfigError if the model does not fit the core, RequestError for a bad request.
    """
    for what, value in (("prompt", prompt), ("generate", generate)):
        if value < 1:
            raise RequestError(f"{what} must be at least 1, not {value}")
    total = prompt + generate
    if total > model.max_positions:
        raise RequestError(
            f"{prompt} + {generate} tokens exceed the model's context of {model.max_positions}"
        )
    known = calibration or load_calibration()
    core = target.core
    plan = plan_image(model, core, -(-total // 64) * 64)
    decisions = Decisions.random(total, model.layers, skip, seed)
    runs = RunModel(plan.program(), core, decisions, known.parameters, target.timing)

    prefill, decode = RunCost(), RunCost()
    for position, count in runs_of(prompt, core.max_chunk):
        last = position + count == prompt
        prefill.add(runs.run(position, count, mode=int(Mode.LOGITS if last else Mode.NO_OUTPUT)))
    for position, times in sampled(prompt, generate, _SAMPLES):
        decode.add(runs.run(position, 1, mode=int(Mode.LOGITS)), times)

    stored = int(runs.stored.sum())
    kv_bytes = 2 * model.kv_heads * (model.head_dim + 1)
    words: Counter[str] = decode.words
    return Estimate(
        model=model,
        target=target,
        skip=skip,
        prompt=prompt,
        generate=generate,
        prefill=_phase(prompt, prefill, target),
        decode=_phase(generate, decode, target),
        time_to_first_token_s=prefill.cycles / (target.clock_mhz * 1e6),
        bytes_per_token={
            name: words[name] * core.word_bytes / generate
            for name in ("weights", "kv", "other", "written")
        },
        kv_bytes=stored * kv_bytes,
        kv_bytes_dense=total * model.layers * kv_bytes,
        image_bytes=plan.words * core.word_bytes,
        resources=stored_resources(target),
        calibration=known,
    )
