"""Cycles per decoded token, counted by the simulated gateware, against the fewest possible.

A prompt is prefilled, then tokens pass one by one: each a run of its own with its logits written,
as the engine decodes with sampling, on text that is given so that nothing depends on what the model
says. A second figure lets the device decode greedily on its own, one run for all tokens.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from skipstone.build import build_image
from skipstone.compiler import compile_model
from skipstone.devices import Device
from skipstone.model import ModelConfig, resolve_model
from skipstone.runtime import DecisionMap, Engine
from skipstone.runtime.mailbox import Mailbox
from skipstone.runtime.text import load_tokenizer
from skipstone.spec.config import CoreConfig, named_config
from skipstone.spec.image import Image
from skipstone.spec.records import decisions_of
from skipstone_sim.random_model import random_model
from skipstone_sim.rtl import RtlDevice

from .bound import SequenceBound
from .data import load_texts
from .rows import Row

__all__ = ["SUBJECTS", "DecodeCost", "Workload", "measure", "rows", "run", "workload"]

RANDOM_MODEL = "random"
SUBJECTS = ("sim-small:stories", "sim-large:random")
"""Cores and models that are measured if none are named."""

_LARGE = ModelConfig(
    name="random-46m",
    hidden=1024,
    layers=4,
    heads=16,
    kv_heads=4,
    head_dim=64,
    ffn=2816,
    vocab=512,
    max_positions=1024,
)
"""A Llama of the proportions of the 1 B class that fills the core sim-large."""

_STALLS = ("stall_memory", "stall_epilogue", "stall_barrier", "stall_kv_write")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An image and the tokens that pass through it."""

    image: Image
    prompt: Sequence[int]
    tokens: Sequence[int]


@dataclass
class DecodeCost:
    """Sums over decoded tokens.

    Attributes
    ----------
    bound_weights, bound_kv : int
        Words (see `bound`).
    attention_skipped, mlp_skipped : int
        Token-layers.
    """

    tokens: int = 0
    layers: int = 0
    wall_s: float = 0.0
    bound_weights: int = 0
    bound_kv: int = 0
    attention_skipped: int = 0
    mlp_skipped: int = 0
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def cycles_over_bound(self) -> float:
        """Cycles for each word that had to be read."""
        return self.counters["cycles"] / (self.bound_weights + self.bound_kv)

    def add(
        self,
        image: Image,
        decisions: DecisionMap,
        count: int,
        wall_s: float,
        counters: dict[str, int],
    ) -> None:
        """Count the last `count` tokens of a sequence's `decisions`, which one run decoded."""
        self.tokens += count
        self.wall_s += wall_s
        self.counters.update(counters)
        bound = SequenceBound(image, decisions)
        for token in range(len(decisions) - count, len(decisions)):
            self.bound_weights += bound.weights(range(token, token + 1))
            self.bound_kv += bound.kv(token)
        skipped = ~decisions[-count:]
        self.attention_skipped += int(skipped[..., 0].sum())
        self.mlp_skipped += int(skipped[..., 1].sum())


def workload(core: CoreConfig, model: str, prompt: int, count: int) -> Workload:
    """`count` tokens behind `prompt` others: of a model's held-out text, or random."""
    if model == RANDOM_MODEL:
        image = compile_model(random_model(_LARGE, group=core.group, skip=0.25, branch=0.1), core)
        rng = np.random.default_rng(2)
        ids = rng.integers(0, _LARGE.vocab, prompt + count).tolist()
    else:
        image = build_image(model, core)
        directory = resolve_model(model)
        tokenizer = load_tokenizer(directory / "tokenizer.json")
        ids = tokenizer.encode("".join(load_texts(directory))).ids[: prompt + count]
    return Workload(image=image, prompt=ids[:prompt], tokens=ids[prompt:])


def measure(device: Device, work: Workload) -> tuple[DecodeCost, DecodeCost]:
    """Decode with a run for each token, and greedily with one run for all."""
    engine = Engine(device, work.image)
    mailbox = Mailbox(device, work.image)
    by_token, alone = DecodeCost(layers=engine.layers), DecodeCost(layers=engine.layers)

    def decisions() -> DecisionMap:
        return decisions_of(mailbox.read_records(0, engine.length), engine.layers)

    engine.forward(work.prompt)
    for token in work.tokens:
        begin = time.perf_counter()
        counters = engine.forward([token], engine.length).counters
        wall_s = time.perf_counter() - begin
        by_token.add(work.image, decisions(), 1, wall_s, counters)

    # The first token comes from the prefill; those that follow, one run decodes.
    count = len(work.tokens)
    generation = engine.generate(work.prompt, count + 1, steps_per_run=count)
    for _ in generation:
        pass
    phase = generation.statistics.decode
    if phase.tokens:
        alone.add(work.image, decisions(), phase.tokens, phase.wall_s, phase.counters)
    return by_token, alone


def rows(cost: DecodeCost, alone: DecodeCost, work: Workload) -> list[Row]:
    """The figures of one core and model."""
    core, n = work.image.config, cost.tokens
    first, last = len(work.prompt) + 1, len(work.prompt) + n
    subject = f"{work.image.model['name']} on {core.name}, context {first} to {last}"
    counters = cost.counters
    cycles = counters["cycles"]
    executions = n * cost.layers

    def row(figure: str, value: float, unit: str = "", aim: str = "") -> Row:
        return Row(figure=figure, value=value, unit=unit, kind="rtl", subject=subject, aim=aim)

    out = [
        row("decode_cycles_over_bound", cost.cycles_over_bound, aim="towards 1"),
        row("cycles_per_token", cycles / n, "cycles"),
        row("bound_per_token", (cost.bound_weights + cost.bound_kv) / n, "words"),
        row("bound_kv_per_token", cost.bound_kv / n, "words"),
        row("array_busy", 100 * counters["array_busy"] / cycles, "%"),
    ]
    out += [row(name, 100 * counters[name] / cycles, "%") for name in _STALLS]
    read = sum(counters[f"words_{kind}"] for kind in ("weights", "kv", "other"))
    out += [
        row("words_read_per_token", read / n, "words"),
        row("attention_skipped", 100 * cost.attention_skipped / executions, "%"),
        row("mlp_skipped", 100 * cost.mlp_skipped / executions, "%"),
        row("tokens_per_simulated_second", n * core.clock_mhz * 1e6 / cycles, "tokens/s"),
        row("simulated_cycles_per_wall_second", cycles / cost.wall_s, "cycles/s"),
    ]
    if alone.tokens:
        out.append(
            row("decode_cycles_over_bound_one_run", alone.cycles_over_bound, aim="towards 1")
        )
    return out


def run(
    subjects: Sequence[str],
    prompt: int,
    tokens: int,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measure each CORE:MODEL, a model being a name, a directory, or "random"."""
    out = []
    for subject in subjects:
        core_name, _, model = subject.partition(":")
        core = named_config(core_name)
        work = workload(core, model or "stories", prompt, tokens)
        device = RtlDevice(core, progress=progress)
        if progress is not None:
            progress(f"decoding {tokens} tokens on {core.name}")
        try:
            out += rows(*measure(device, work), work)
        finally:
            device.close()
    return out
