"""Public models by the values of their ``config.json``: what estimates and synthetic checkpoints
are made for.

Shapes only; no weights come with them.
"""

from __future__ import annotations

from ..spec.errors import CheckpointError
from .config import ModelConfig, RopeScaling

__all__ = ["SHAPES", "named_shape", "parameter_count"]

SHAPES = {
    s.name: s
    for s in (
        # meta-llama/Llama-2-7b-hf
        ModelConfig(
            name="llama-2-7b", hidden=4096, layers=32, heads=32, kv_heads=32, head_dim=128,
            ffn=11008, vocab=32000, max_positions=4096, rms_eps=1e-5, bos=1, eos=(2,),
        ),
        # meta-llama/Llama-2-13b-hf
        ModelConfig(
            name="llama-2-13b", hidden=5120, layers=40, heads=40, kv_heads=40, head_dim=128,
            ffn=13824, vocab=32000, max_positions=4096, rms_eps=1e-5, bos=1, eos=(2,),
        ),
        # meta-llama/Meta-Llama-3-8B
        ModelConfig(
            name="llama-3-8b", hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128,
            ffn=14336, vocab=128256, max_positions=8192, rope_theta=500000.0, rms_eps=1e-5,
            bos=128000, eos=(128001,),
        ),
        # meta-llama/Llama-3.2-1B
        ModelConfig(
            name="llama-3.2-1b", hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64,
            ffn=8192, vocab=128256, max_positions=131072, rope_theta=500000.0,
            rope_scaling=RopeScaling(
                kind="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_positions=8192,
            ),
            rms_eps=1e-5, tied=True, bos=128000, eos=(128001,),
        ),
        # TinyLlama/TinyLlama_v1.1
        ModelConfig(
            name="tinyllama-1.1b", hidden=2048, layers=22, heads=32, kv_heads=4, head_dim=64,
            ffn=5632, vocab=32000, max_positions=2048, rms_eps=1e-5, bos=1, eos=(2,),
        ),
    )
}  # fmt: skip
"""Shapes by name."""


def named_shape(name: str) -> ModelConfig:
    """The shape called `name`. Raises CheckpointError listing the known ones."""
    try:
        return SHAPES[name]
    except KeyError:
        raise CheckpointError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}") from None


def parameter_count(shape: ModelConfig) -> int:
    """Parameters of the model without routers; a tied head counts once."""
    d, query, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = 2 * d * (query + kv) + 3 * d * shape.ffn + 2 * d
    return shape.vocab * d * (1 if shape.tied else 2) + shape.layers * layer + d
