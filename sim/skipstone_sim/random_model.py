"""Quantized models of any shape, filled at random: what programs are tested and timed with.

Nothing is trained, so the text they make means nothing; but magnitudes are those of a real
transformer, the residual stream neither dies nor overflows, and routers skip about as often as
asked. Scales and embeddings include zeros and subnormals.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skipstone.model import ModelConfig
from skipstone.quant import QuantizedLayer, QuantizedLinear, QuantizedModel
from skipstone.spec.formats import ROUTER_BITS, BlockFloat
from skipstone.spec.layout import RouterRecord

__all__ = ["random_model", "random_shape"]

_INT4_RMS = 4.6
"""Root mean square of a uniformly drawn int4."""
_SUBNORMAL = np.float16(3e-6)
_RARE = 0.02
"""Share of scales and embeddings that are zero, and of those that are subnormal."""


def random_shape(**fields: object) -> ModelConfig:
    """A small model's shape; `fields` replace those of `ModelConfig`."""
    shape = ModelConfig(
        name="random",
        hidden=64,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=32,
        ffn=96,
        vocab=40,
        max_positions=64,
        rms_eps=1e-5,
    )
    return replace(shape, **fields)  # type: ignore[arg-type]


def random_model(
    shape: ModelConfig,
    *,
    group: int,
    skip: float | None = 0.3,
    branch: float = 1.0,
    seed: int = 0,
) -> QuantizedModel:
    """A model of this shape.

    Parameters
    ----------
    group
        Weights that share a scale: the core's.
    skip
        Share of the tokens that each router skips, roughly; None for a model without routers.
    branch
        Size of what a module adds, relative to the stream; small, the stream stays close to the
        embedding and the skip rates to `skip`.
    """
    rng = np.random.default_rng(seed)

    def linear(outputs: int, inputs: int, gain: float = 1.0) -> QuantizedLinear:
        weights = rng.integers(-8, 8, (outputs, inputs)).astype(np.int8)
        spread = 2.0 ** rng.uniform(-2, 1, (outputs, inputs // group))
        scales = (gain / (_INT4_RMS * np.sqrt(inputs)) * spread).astype(np.float16)
        return QuantizedLinear(weights, _with_rare_values(scales, rng))

    d, query, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layers = tuple(
        QuantizedLayer(
            q=linear(query, d, gain=1.5 / np.sqrt(shape.head_dim)),
            k=linear(kv, d, gain=1.5),
            v=linear(kv, d),
            o=linear(d, query, gain=branch),
            gate_up=linear(2 * shape.ffn, d, gain=1.5),
            down=linear(d, shape.ffn, gain=branch),
            router=None if skip is None else _router(d, group, skip, rng),
        )
        for _ in range(shape.layers)
    )
    embedding = rng.standard_normal((shape.vocab, d)).astype(np.float16)
    return QuantizedModel(
        config=shape,
        group=group,
        embedding=_with_rare_values(embedding, rng),
        layers=layers,
        head=linear(shape.vocab, d, gain=4.0),
    )


def _with_rare_values(x: NDArray[np.float16], rng: np.random.Generator) -> NDArray[np.float16]:
    draw = rng.random(x.shape)
    x = np.where(draw < _RARE, np.float16(0), x)
    return np.where((draw >= _RARE) & (draw < 2 * _RARE), _SUBNORMAL, x)


def _router(hidden: int, group: int, skip: float, rng: np.random.Generator) -> RouterRecord:
    """Products with a residual stream of unit variance are normal, of unit variance; biased."""
    vectors = (rng.standard_normal((2, hidden)) / np.sqrt(hidden)).astype(np.float32)
    thresholds = np.quantile(rng.standard_normal(4096), 1 - skip)
    bias = np.full(2, -thresholds, np.float32)
    mantissa, exponent = BlockFloat(ROUTER_BITS, group).quantize(vectors)
    return RouterRecord(mantissa, exponent, bias)
