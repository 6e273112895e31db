"""The quantized weights as an ordinary Hugging Face model again, for an independent judge.

All folds of `skipstone.quant.fold` are undone on the rounded matrices: gains become 1, factors are
divided out, rows return to their places. The head is its own tensor even where it was tied, so the
config to run it with has ``tie_word_embeddings`` false.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..spec.formats import ROUTER_BITS, BlockFloat
from .fold import GATE_FACTOR, UP_FACTOR, query_factor, uninterleave, unpair_rows
from .types import QuantizedModel

__all__ = ["dequantized_checkpoint", "dequantized_routers"]

Float32 = NDArray[np.float32]


def dequantized_checkpoint(model: QuantizedModel) -> dict[str, Float32]:
    """Float32 tensors by Hugging Face names, ``lm_head.weight`` always among them."""
    c = model.config
    one = np.ones(c.hidden, np.float32)
    out: dict[str, Float32] = {
        "model.embed_tokens.weight": model.embedding.astype(np.float32),
        "model.norm.weight": one,
        "lm_head.weight": model.head.dequantize(),
    }
    for index, layer in enumerate(model.layers):
        gate, up = uninterleave(layer.gate_up.dequantize().astype(np.float64))
        q = unpair_rows(layer.q.dequantize().astype(np.float64), c.head_dim)
        tensors = {
            "input_layernorm": one,
            "self_attn.q_proj": q / query_factor(c.head_dim),
            "self_attn.k_proj": unpair_rows(layer.k.dequantize(), c.head_dim),
            "self_attn.v_proj": layer.v.dequantize(),
            "self_attn.o_proj": layer.o.dequantize(),
            "post_attention_layernorm": one,
            "mlp.gate_proj": gate / GATE_FACTOR,
            "mlp.up_proj": up / UP_FACTOR,
            "mlp.down_proj": layer.down.dequantize(),
        }
        for name, value in tensors.items():
            out[f"model.layers.{index}.{name}.weight"] = np.ascontiguousarray(value, np.float32)
    return out


def dequantized_routers(model: QuantizedModel) -> dict[str, Float32] | None:
    """Routers of the same decisions under their SkipGPT names: class 0 is zero. None if dense."""
    out: dict[str, Float32] = {}
    for index, layer in enumerate(model.layers):
        if layer.router is None:
            return None
        r = layer.router
        w = BlockFloat(ROUTER_BITS, model.group).dequantize(r.mantissa, r.exponent)
        for row, module in enumerate(("attention", "mlp")):
            name = f"model.layers.{index}.router_{module}.weight_predictor."
            out[name + "weight"] = np.stack([np.zeros_like(w[row]), w[row]]).astype(np.float32)
            out[name + "bias"] = np.array([0, r.bias[row]], np.float32)
    return out
