"""The quantizer's rounding inside the training loop, with straight-through gradients.

What the core multiplies by is not the checkpoint's weight but int4 times an FP16 scale per group of
32 along the reduction, after RMSNorm's gain has been folded in. Training on that rounding (forward
rounded, backward as if it were not: Bengio et al., arXiv 1308.3432; quantization in the loop as in
Jacob et al., arXiv 1712.05877) moves the weights to where it does no harm. The result is still an
ordinary float checkpoint: the gains stay separate and nothing is stored rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["GROUP", "fake_quantize", "round_int4"]

GROUP = 32
_NORM_OF = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
    "self_attn.o_proj": None,
    "mlp.down_proj": None,
}


def round_int4(weight: Tensor) -> Tensor:
    """``weight`` (N, K) rounded to int4 with one FP16 scale per 32 along K; straight-through."""
    groups = weight.detach().unflatten(1, (-1, GROUP))  # (N, K/32, 32)
    scale = (groups.abs().amax(dim=2, keepdim=True) / 7).half().float()  # (N, K/32, 1)
    scale = scale.clamp(min=2.0**-24)
    rounded = ((groups / scale).round().clamp(-8, 7) * scale).flatten(1)  # (N, K)
    return weight + (rounded - weight).detach()


def fake_quantize(
    config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of the equivalent untied, gain-free model with every matrix rounded.

    A tied head is split off first, since only the head's copy takes the final norm's gain and is
    multiplied by; the embedding table is looked up, not multiplied, and stays as it is.
    """
    out = dict(weights)
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        for matrix, norm in _NORM_OF.items():
            weight = weights[f"{layer}{matrix}.weight"]  # (N, K)
            if norm:
                weight = weight * weights[f"{layer}{norm}.weight"]
            out[f"{layer}{matrix}.weight"] = round_int4(weight)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"{layer}{norm}.weight"] = torch.ones_like(weights[f"{layer}{norm}.weight"])
    tied = config.get("tie_word_embeddings", False)
    head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]  # (V, D)
    out["lm_head.weight"] = round_int4(head * weights["model.norm.weight"])
    out["model.norm.weight"] = torch.ones_like(weights["model.norm.weight"])
    return {**config, "tie_word_embeddings": False}, out
