"""Random models of any shape, for cycle counts on cores that no shipped model fills.

Weights are random int4; scales keep every vector near unit size. The residual stream stays close to
the token's embedding, whose elements have variance 1, so a router's product with it is a standard
normal variable and its bias sets how often it skips.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from skipstone.model import ModelConfig
from skipstone.quant import QuantizedLayer, QuantizedLinear, QuantizedModel
from skipstone.spec.formats import ROUTER_BITS, BlockFloat
from skipstone.spec.layout import RouterRecord

__all__ = ["LARGE", "random_model"]

LARGE = ModelConfig(
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

_WEIGHT_DEVIATION = float(np.sqrt((np.arange(-7, 8) ** 2).mean()))
_BRANCH_GAIN = 0.1
"""Size of what a module adds, relative to the stream."""


def _matrix(
    rng: np.random.Generator, outputs: int, inputs: int, group: int, gain: float = 1.0
) -> QuantizedLinear:
    weights = rng.integers(-7, 8, (outputs, inputs), dtype=np.int8)
    scale = gain / (_WEIGHT_DEVIATION * inputs**0.5)
    scales = scale * rng.uniform(0.7, 1.3, (outputs, inputs // group))
    return QuantizedLinear(weights, scales.astype(np.float16))


def _router(rng: np.random.Generator, hidden: int, group: int, skip_rate: float) -> RouterRecord:
    w = (rng.standard_normal((2, hidden)) / hidden**0.5).astype(np.float32)
    mantissa, exponent = BlockFloat(ROUTER_BITS, group).quantize(w)
    bias = np.full(2, NormalDist().inv_cdf(skip_rate), np.float32)
    return RouterRecord(mantissa, exponent, bias)


def random_model(
    config: ModelConfig, *, group: int = 32, skip_rate: float = 0.25, seed: int = 1
) -> QuantizedModel:
    """A model of shape `config` whose routers skip about `skip_rate` of all executions."""
    rng = np.random.default_rng(seed)
    d, f = config.hidden, config.ffn
    query, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def layer() -> QuantizedLayer:
        return QuantizedLayer(
            q=_matrix(rng, query, d, group),
            k=_matrix(rng, kv, d, group),
            v=_matrix(rng, kv, d, group),
            o=_matrix(rng, d, query, group, _BRANCH_GAIN),
            gate_up=_matrix(rng, 2 * f, d, group),
            down=_matrix(rng, d, f, group, _BRANCH_GAIN),
            router=_router(rng, d, group, skip_rate),
        )

    return QuantizedModel(
        config=config,
        group=group,
        embedding=rng.standard_normal((config.vocab, d)).astype(np.float16),
        layers=tuple(layer() for _ in range(config.layers)),
        head=_matrix(rng, config.vocab, d, group),
    )
