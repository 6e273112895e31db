"""Folding: everything constant that the core would otherwise compute goes into the matrices.

* RMSNorm's gain multiplies the columns of the matrix that follows; the core applies 1/rms to that
  matrix' output.
* log2 e / √head_dim multiplies W_q: scores are base-2 and scaled.
* silu(g)·u = (g·log2 e)·sigmoid2(g·log2 e)·(u·ln 2), so W_gate takes log2 e and W_up ln 2.
* Rows of W_q and W_k move inside each head from Hugging Face's half-split rotary order to
  neighbouring pairs: new row 2i is old row i, new row 2i+1 is old row i + head_dim/2.
* Rows of W_gate and W_up alternate, so that each pair leaves the array together.

Folding is done in float64 and rounded to float32 once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model import Checkpoint, LayerRouters
from ..spec.errors import CheckpointError
from ..spec.formats import ROUTER_BITS, BlockFloat
from ..spec.layout import RouterRecord

__all__ = [
    "GATE_FACTOR",
    "UP_FACTOR",
    "FoldedLayer",
    "fold_embedding",
    "fold_head",
    "fold_layer",
    "fold_routers",
    "interleave",
    "pair_rows",
    "query_factor",
    "uninterleave",
    "unpair_rows",
]

Float32 = NDArray[np.float32]
Float = NDArray[np.floating]

GATE_FACTOR = math.log2(math.e)
UP_FACTOR = math.log(2)


def query_factor(head_dim: int) -> float:
    """What W_q is multiplied by."""
    return math.log2(math.e) / math.sqrt(head_dim)


def pair_rows(w: Float, head_dim: int) -> Float:
    """Half-split rotary order to neighbouring pairs, inside each head of `w` (heads·hd, ...)."""
    halves = w.reshape(-1, 2, head_dim // 2, *w.shape[1:])
    return np.swapaxes(halves, 1, 2).reshape(w.shape)


def unpair_rows(w: Float, head_dim: int) -> Float:
    """The inverse of `pair_rows`."""
    pairs = w.reshape(-1, head_dim // 2, 2, *w.shape[1:])
    return np.swapaxes(pairs, 1, 2).reshape(w.shape)


def interleave(gate: Float, up: Float) -> Float:
    """Rows gate₀, up₀, gate₁, up₁, …"""
    return np.stack([gate, up], axis=1).reshape(-1, *gate.shape[1:])


def uninterleave(w: Float) -> tuple[Float, Float]:
    """The inverse of `interleave`."""
    return w[0::2], w[1::2]


@dataclass(frozen=True)
class FoldedLayer:
    """A layer's matrices (out, in) as the core multiplies by them, not yet rounded."""

    q: Float32
    k: Float32
    v: Float32
    o: Float32
    gate_up: Float32
    down: Float32


def _round(w: Float) -> Float32:
    return np.ascontiguousarray(w, dtype=np.float32)


def fold_layer(checkpoint: Checkpoint, layer: int) -> FoldedLayer:
    """The matrices of `layer`."""
    hd = checkpoint.config.head_dim

    def read(name: str) -> NDArray[np.float64]:
        return checkpoint.layer_tensor(layer, name).astype(np.float64)

    before_attention, before_mlp = read("input_layernorm"), read("post_attention_layernorm")
    q = read("self_attn.q_proj") * before_attention * query_factor(hd)
    gate = read("mlp.gate_proj") * before_mlp * GATE_FACTOR
    up = read("mlp.up_proj") * before_mlp * UP_FACTOR
    return FoldedLayer(
        q=_round(pair_rows(q, hd)),
        k=_round(pair_rows(read("self_attn.k_proj") * before_attention, hd)),
        v=_round(read("self_attn.v_proj") * before_attention),
        o=_round(read("self_attn.o_proj")),
        gate_up=_round(interleave(gate, up)),
        down=_round(read("mlp.down_proj")),
    )


def fold_head(checkpoint: Checkpoint) -> Float32:
    """The LM head (vocab, hidden) with the final norm's gain; a tied head is a copy of its own."""
    head = checkpoint.tensor(checkpoint.head_name).astype(np.float64)
    return _round(head * checkpoint.tensor("model.norm.weight"))


def fold_embedding(checkpoint: Checkpoint) -> NDArray[np.float16]:
    """The embedding table in FP16. Raises CheckpointError if a value is beyond its range."""
    table = checkpoint.tensor("model.embed_tokens.weight")
    limit = float(np.finfo(np.float16).max)
    beyond = np.abs(table) > limit
    if beyond.any():
        token, element = np.unravel_index(int(np.argmax(beyond)), table.shape)
        raise CheckpointError(
            f"model.embed_tokens.weight[{int(token)}, {int(element)}] is {table[token, element]}; "
            f"FP16 holds at most {limit:g}"
        )
    return table.astype(np.float16)


def fold_routers(routers: LayerRouters, group: int) -> RouterRecord:
    """Both routers as difference vectors in BFP(16, group): w·x + b > 0 means skip.

    Routers read the residual stream itself, so no gain is folded in. Raises CheckpointError if a
    difference overflows.
    """
    differences = (routers.attention.difference(), routers.mlp.difference())
    vectors = np.stack([w for w, _ in differences])
    biases = np.array([b for _, b in differences], np.float32)
    if not (np.isfinite(vectors).all() and np.isfinite(biases).all()):
        raise CheckpointError("the difference of a router's rows overflows binary32")
    mantissa, exponent = BlockFloat(ROUTER_BITS, group).quantize(vectors)
    return RouterRecord(mantissa, exponent, biases)
