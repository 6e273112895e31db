"""One way to ask golden and torch for logits and decisions, and a pool of processes that asks.

A `Variant` says everything that a result depends on, so a worker process can build its engine from
it alone. Torch is judge twice: with the checkpoint's own weights, and with the quantized ones.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from skipstone.build import build_image, calibration_text
from skipstone.model import Checkpoint, KvRule, load_checkpoint, resolve_model
from skipstone.model.checkpoint import expected_shapes
from skipstone.quant import dequantized_checkpoint, dequantized_routers, quantize_model
from skipstone.runtime import Engine
from skipstone.spec.config import CONFIGS
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.reference import Reference

__all__ = ["Answer", "Engines", "Routing", "Variant"]

CORE = CONFIGS["sim-small"]
"""Golden's results depend on the core's group alone."""

Routing = Literal["dense", "kv_recompute", "kv_reuse"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An engine with a model.

    Attributes
    ----------
    engine
        "golden", "torch" (the checkpoint's weights) or "torch-quantized" (golden's weights).
    method
        How golden's weights were rounded.
    """

    model: str
    engine: Literal["golden", "torch", "torch-quantized"]
    routing: Routing
    method: Literal["rtn", "gptq"] = "rtn"

    def checkpoint(self) -> Checkpoint:
        """The model as it was trained, dense or under the routing's rule."""
        dense = self.routing == "dense"
        rule: KvRule = "kv_recompute" if self.routing == "kv_recompute" else "kv_reuse"
        return load_checkpoint(
            resolve_model(self.model), routers="none" if dense else None, kv_rule=rule
        )


@dataclass(frozen=True)
class Answer:
    """Of one sequence: float32 logits (T, V), and decisions (T, L, 2), true where skipped."""

    logits: NDArray[np.float32]
    skips: NDArray[np.bool_]


Ask = Callable[[Sequence[int]], Answer]


def _golden(variant: Variant) -> Ask:
    checkpoint = variant.checkpoint()
    image = build_image(
        variant.model,
        CORE,
        routers="none" if checkpoint.routers is None else None,
        kv_rule=checkpoint.config.kv_rule,
        method=variant.method,
    )
    engine = Engine(GoldenDevice(CORE), image)

    def ask(tokens: Sequence[int]) -> Answer:
        result = engine.forward(tokens, all_logits=True)
        return Answer(result.logits, ~result.decisions)

    return ask


def _torch(variant: Variant) -> Ask:
    checkpoint = variant.checkpoint()
    config = checkpoint.config
    routers: dict[str, NDArray[np.float32]] | None = None
    if variant.engine == "torch":
        weights = {name: checkpoint.tensor(name) for name in expected_shapes(config)}
        if checkpoint.routers is not None:
            routers = {
                f"model.layers.{n}.router_{module}.weight_predictor.{part}": getattr(
                    getattr(layer, module), part
                )
                for n, layer in enumerate(checkpoint.routers)
                for module in ("attention", "mlp")
                for part in ("weight", "bias")
            }
    else:
        text = calibration_text(checkpoint) if variant.method == "gptq" else None
        quantized = quantize_model(checkpoint, variant.method, CORE.group, calibration_text=text)
        weights, routers = dequantized_checkpoint(quantized), dequantized_routers(quantized)
        config = dataclasses.replace(config, tied=False)

    def tensors(arrays: dict[str, NDArray[np.float32]]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.array(a, np.float32)) for name, a in arrays.items()}

    reference = Reference(
        config.to_hf(),
        tensors(weights),
        None if routers is None else tensors(routers),
        kv_rule=config.kv_rule,
    )

    @torch.no_grad()
    def ask(tokens: Sequence[int]) -> Answer:
        output = reference.forward(torch.tensor([list(tokens)]))
        return Answer(output.logits[0].numpy(), output.skips[0].numpy())

    return ask


@lru_cache(maxsize=8)
def _open(variant: Variant) -> Ask:
    return (_golden if variant.engine == "golden" else _torch)(variant)


def _ask(variant: Variant, tokens: Sequence[int], tail: int | None) -> Answer:
    answer = _open(variant)(tokens)
    rows = slice(None) if tail is None else slice(len(tokens) - tail, None)
    return Answer(answer.logits[rows].copy(), answer.skips)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


class Engines:
    """Asks engines; golden, which is slow, in `jobs` processes beside one another.

    A context manager; the pool lives as long as it does.
    """

    def __init__(self, jobs: int = 1):
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            self._pool = ProcessPoolExecutor(
                jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_use_one_thread
            )

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def ask(
        self,
        variant: Variant,
        sequences: Sequence[Sequence[int]],
        tails: Sequence[int] | None = None,
    ) -> Iterator[Answer]:
        """An answer to each sequence, in order; `tails` keeps only the last rows of the logits."""
        n = len(sequences)
        keep: Sequence[int | None] = [None] * n if tails is None else tails
        if self._pool is None or variant.engine != "golden":
            return map(_ask, [variant] * n, sequences, keep)
        return self._pool.map(_ask, [variant] * n, sequences, keep)
