"""What skipping pays: cycles, KV words and weights of the simulated gateware under random maps.

Every decision map is drawn at random, attention and MLP independently for each token and layer (so
attended layers are not consecutive), and given by the host; a share p of each module's token-layers
skips. K and V of layer 0 are stored even by tokens that skip its attention. Figures are counters
of RTL runs over what the maps make necessary (`bound`), never estimates.

Besides shipped models there are two synthetic layer stacks for wide cores: `stack`, so large that
what an instruction costs besides its words vanishes, and `kv`, with small matrices, for long
contexts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.build import build_image
from skipstone.compiler import compile_model
from skipstone.devices import Device
from skipstone.model import ModelConfig
from skipstone.runtime import DecisionMap, Engine
from skipstone.spec.config import CoreConfig, named_config
from skipstone.spec.image import Image
from skipstone.spec.records import MODULES
from skipstone.spec.registers import COUNTERS
from skipstone_sim.random_model import random_model
from skipstone_sim.rtl import RtlDevice

from .bound import SequenceBound
from .rows import Row

__all__ = [
    "SUBJECTS",
    "decode_rows",
    "kv_rows",
    "prefill_rows",
    "random_decisions",
    "run",
]

SHARES = (0.0, 0.1, 0.25, 0.4, 0.6)
"""Shares of token-layers that skip, for the cost of decoding."""
SHARE = 0.25
"""The share at which KV traffic and prefill are measured."""
SUBJECTS = ("sim-tiny:nano", "sim-small:stories", "sim-large:stack", "sim-large:kv")

_STACKS = {
    "stack": ModelConfig(
        name="layer stack", hidden=1024, layers=8, heads=16, kv_heads=4, head_dim=64, ffn=2816,
        vocab=512, max_positions=1024,
    ),
    "kv": ModelConfig(
        name="layer stack with small matrices", hidden=256, layers=8, heads=16, kv_heads=4,
        head_dim=64, ffn=256, vocab=512, max_positions=1024,
    ),
}  # fmt: skip
_KV_TOKENS = 4
"""Tokens decoded at each context."""
_PATTERN = 0xA5
"""What unwritten KV memory is filled with."""


def random_decisions(
    tokens: int, layers: int, share: float, rng: np.random.Generator
) -> DecisionMap:
    """A map in which exactly the nearest number to `share` of each module's token-layers skip."""
    total = tokens * layers
    execute = np.ones((len(MODULES), total), np.bool_)
    execute[:, : round(share * total)] = False
    return np.ascontiguousarray(rng.permuted(execute, axis=1).T).reshape(tokens, layers, -1)


@dataclass
class _Sequence:
    """A random text that passes through an engine under a random map."""

    engine: Engine
    tokens: list[int]
    decisions: DecisionMap

    @classmethod
    def draw(cls, device: Device, image: Image, count: int, share: float) -> _Sequence:
        engine = Engine(device, image)
        rng = np.random.default_rng(7)
        tokens = rng.integers(0, engine.vocabulary, count).tolist()
        return cls(engine, tokens, random_decisions(count, engine.layers, share, rng))

    def extend(self, count: int) -> Counter[str]:
        """Pass the next `count` tokens, as one prompt."""
        at = self.engine.length
        part = slice(at, at + count)
        result = self.engine.forward(self.tokens[part], at, decisions=self.decisions[part])
        return Counter(result.counters)

    def decode(self, count: int) -> Counter[str]:
        """Pass the next `count` tokens one by one."""
        total: Counter[str] = Counter()
        for _ in range(count):
            total.update(self.extend(1))
        return total


Rows = Callable[..., Row]


def _rows_of(image: Image, context: str) -> Rows:
    subject = f"{image.model['name']} on {image.config.name}, {context}"

    def row(figure: str, value: float, unit: str = "", aim: str = "") -> Row:
        return Row(figure=figure, value=value, unit=unit, kind="rtl", subject=subject, aim=aim)

    return row


def _percent(share: float) -> str:
    return f"p{round(100 * share)}"


def decode_rows(device: Device, image: Image, prompt: int, tokens: int) -> list[Row]:
    """Cycles of decoding at each share over what the dense cycles promise, and where they go."""
    row = _rows_of(image, f"context {prompt + 1} to {prompt + tokens}")
    out: list[Row] = []
    dense = dense_words = 0
    for share in SHARES:
        sequence = _Sequence.draw(device, image, prompt + tokens, share)
        sequence.decisions[prompt:] = random_decisions(
            tokens, sequence.engine.layers, share, np.random.default_rng(8)
        )
        sequence.extend(prompt)
        counters = sequence.decode(tokens)
        cycles = counters["cycles"]
        bound = SequenceBound(image, sequence.decisions)
        words = sum(bound.weights(range(n, n + 1)) for n in range(prompt, prompt + tokens))
        dense, dense_words = dense or cycles, dense_words or words
        executed = float(sequence.decisions[prompt:].mean())
        out.append(
            row(f"skip_cost_{_percent(share)}", cycles / (executed * dense), aim="at most 1.03")
        )
        out.append(
            row(
                f"skip_cost_needed_{_percent(share)}", cycles / dense / (words / dense_words),
                "the head, and K and V of layer 0, are needed for every token",
            )
        )  # fmt: skip
        if share in (0.0, SHARE):
            out += _bubbles(row, _percent(share), counters, tokens)
    return out


def _bubbles(row: Rows, share: str, counters: Counter[str], tokens: int) -> Iterable[Row]:
    """Cycles per token in which the array has no word, by cause; causes may overlap."""
    stalls = [name for name in COUNTERS if name.startswith("stall_")]
    idle = counters["cycles"] - counters["array_busy"]
    yield row(f"bubbles_{share}", idle / tokens, "cycles per token")
    for name in stalls:
        yield row(f"bubbles_{share}_{name[6:]}", counters[name] / tokens, "cycles per token")
    rest = idle - sum(counters[name] for name in stalls)
    unit = "cycles per token; negative where causes overlap"
    yield row(f"bubbles_{share}_other", rest / tokens, unit)


def kv_rows(device: Device, image: Image, contexts: Sequence[int]) -> list[Row]:
    """KV words read and stored against the fewest, and KV words served per cycle."""
    out: list[Row] = []
    sequence = _Sequence.draw(device, image, contexts[-1], SHARE)
    # The same decisions at every context: cycles then differ by the context alone.
    engine = sequence.engine
    again = random_decisions(_KV_TOKENS, engine.layers, SHARE, np.random.default_rng(9))
    for context in contexts:
        sequence.decisions[context - _KV_TOKENS : context] = again
    section = image.sections["kv"]
    blank = np.full(section.words * image.config.word_bytes, _PATTERN, np.uint8)
    device.write(section.address, blank)
    before: Counter[str] | None = None
    for context in contexts:
        row = _rows_of(image, f"context {context}, {_percent(SHARE)}")
        sequence.extend(context - _KV_TOKENS - engine.length)
        counters = sequence.decode(_KV_TOKENS)
        bound = SequenceBound(image, sequence.decisions[:context])
        space = engine.kv_space()
        last = range(context - _KV_TOKENS, context)
        out += [
            row(
                "kv_bytes_over_minimum",
                counters["words_kv"] / sum(bound.kv_new(n) for n in last),
                aim="1: fresh and gaps only",
            ),
            row(
                "kv_bytes_over_minimum_of_buffer",
                counters["words_kv"] / sum(bound.kv_new(n, bound.positions) for n in last),
                aim="1: and positions beyond the buffer",
            ),
            row(
                "kv_bytes_over_all_versions",
                counters["words_kv"] / sum(bound.kv(n) for n in last),
                aim="below 1: the buffer serves the rest",
            ),
            row(
                "kv_storage_over_minimum",
                _written(device.read(section.address, blank.size), image) / space.stored,
                aim="1",
            ),
            row("kv_storage_over_dense", space.stored / space.dense),
        ]
        if "history_hits" in counters:
            out += [
                row(name, counters[name] / _KV_TOKENS, "words per token")
                for name in ("history_hits", "history_gaps", "history_fresh")
            ]
        if before is not None:
            more = counters - before
            served = more["words_kv"] + more["history_hits"]
            out.append(
                row(
                    "kv_effective_bandwidth", served / more["cycles"],
                    "words, hits counted, for each cycle that the longer context costs",
                    aim="above 1 (published: 1.015)",
                )
            )  # fmt: skip
        before = counters
    return out


def _written(raw: NDArray[np.uint8], image: Image) -> int:
    """Words that no longer hold the pattern."""
    return int((raw.reshape(-1, image.config.word_bytes) != _PATTERN).any(axis=1).sum())


def prefill_rows(device: Device, image: Image, tokens: int = 64) -> list[Row]:
    """Use of the array, and weights read against those of the modules that some token needs."""
    chunk = image.config.max_chunk
    where = f"{tokens} tokens in chunks of {min(chunk, tokens)}, {_percent(SHARE)}"
    row = _rows_of(image, where)
    sequence = _Sequence.draw(device, image, tokens, SHARE)
    counters = sequence.extend(tokens)
    bound = SequenceBound(image, sequence.decisions)
    needed = sum(
        bound.weights(range(at, min(at + chunk, tokens)), output=at + chunk >= tokens)
        for at in range(0, tokens, chunk)
    )
    return [
        row("prefill_array_busy", 100 * counters["array_busy"] / counters["cycles"], "%"),
        row("prefill_cycles_per_token", counters["cycles"] / tokens, "cycles"),
        row("prefill_weight_bytes_over_needed", counters["words_weights"] / needed, aim="1"),
    ]


def _image(core: CoreConfig, model: str) -> Image:
    if model not in _STACKS:
        return build_image(model, core)
    return compile_model(random_model(_STACKS[model], group=core.group, branch=0.1), core)


def run(
    subjects: Sequence[str],
    prompt: int,
    tokens: int,
    context: int,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measure each CORE:MODEL; KV figures at contexts of 64, 128, … up to `context` tokens."""
    out: list[Row] = []
    for subject in subjects:
        core_name, _, model = subject.partition(":")
        image = _image(named_config(core_name), model)
        device = RtlDevice(image.config, progress=progress)
        say = progress or (lambda line: None)
        try:
            if model != "kv":
                say(f"{subject}: decoding")
                out += decode_rows(device, image, prompt, tokens)
                say(f"{subject}: prefill")
                out += prefill_rows(device, image)
            if model != "stack":
                longest = min(Engine(device, image).context, context)
                contexts = [n for n in (64 << k for k in range(16)) if n <= longest]
                say(f"{subject}: context up to {contexts[-1]}")
                out += kv_rows(device, image, contexts)
        finally:
            device.close()
    return out
