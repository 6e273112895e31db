"""Folding: everything constant that the core would otherwise compute goes into the matrices.

* RMSNorm's gain multiplies the columns of the matrix that follows; the core applies 1/rms to that
  matrix' output.
* log2 e / √head_dim multiplies W_q: scores are base-2 and scaled.
* silu(g)·u = (g·log2 e)·sigmoid2(g·log2 e)·(u·ln 2), so W_gate takes log2 e and W_up ln 2.
* Rows of W_q and W_k move inside each head from Hugging Face's half-split rotary order to
  neighbouring pairs: new row 2i is old row i, new row 2i+1 is old row i + head_dim/2.
* Rows of W_gate and W_up alternate, so that each pair leaves the array together.

Folding is done in float64 and rounded to float32 once. It is done on ranges of output rows, read
from the checkpoint one after the other, so that a matrix never exists in float64 as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..model import Checkpoint, LayerRouters
from ..spec.errors import CheckpointError
from ..spec.formats import ROUTER_BITS, BlockFloat
from ..spec.layout import RouterRecord

__all__ = [
    "BLOCK_ROWS",
    "GATE_FACTOR",
    "UP_FACTOR",
    "FoldedLayer",
    "FoldedMatrix",
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


class FoldedMatrix:
    """A matrix (out, in) as the core multiplies by it, not yet rounded; computed when asked for.

    Parameters
    ----------
    shape : (out, in)
    fold
        Gives the rows from one place to another; both are multiples of `STEP`.
    """

    STEP = 128
    """Rows that belong together, at most: a head, or a gate and its up."""

    def __init__(self, shape: tuple[int, int], fold: Callable[[int, int], Float]):
        self.shape, self._fold = shape, fold

    def rows(self, start: int, stop: int) -> Float32:
        """Rows `start` to `stop`; `start` must be a multiple of STEP, `stop` too, or the end."""
        return np.ascontiguousarray(self._fold(start, min(stop, self.shape[0])), np.float32)

    def whole(self) -> Float32:
        """All rows."""
        out = np.empty(self.shape, np.float32)
        for start in range(0, len(out), BLOCK_ROWS):
            out[start : start + BLOCK_ROWS] = self.rows(start, start + BLOCK_ROWS)
        return out


BLOCK_ROWS = 1024
"""Rows folded at once, a multiple of `FoldedMatrix.STEP`: bounds memory."""


class FoldedLayer:
    """A layer's matrices (out, in); each is folded when, and every time, it is asked for."""

    def __init__(self, checkpoint: Checkpoint, layer: int):
        self._checkpoint, self._layer = checkpoint, layer

    def matrix(self, name: str) -> FoldedMatrix:
        """Of one of the names q, k, v, o, gate_up, down."""
        c = self._checkpoint.config
        query, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim

        def read(tensor: str, start: int, stop: int) -> NDArray[np.float64]:
            raw = self._checkpoint.layer_tensor(self._layer, tensor, start, stop)
            return raw.astype(np.float64)

        def gain(norm: str) -> NDArray[np.float64]:
            return self._checkpoint.layer_tensor(self._layer, norm).astype(np.float64)

        match name:
            case "q":
                before = gain("input_layernorm")
                return FoldedMatrix((query, c.hidden), lambda a, b: pair_rows(
                    read("self_attn.q_proj", a, b) * before * query_factor(c.head_dim), c.head_dim
                ))  # fmt: skip
            case "k":
                before = gain("input_layernorm")
                return FoldedMatrix((kv, c.hidden), lambda a, b: pair_rows(
                    read("self_attn.k_proj", a, b) * before, c.head_dim
                ))  # fmt: skip
            case "v":
                before = gain("input_layernorm")
                return FoldedMatrix(
                    (kv, c.hidden), lambda a, b: read("self_attn.v_proj", a, b) * before
                )
            case "o":
                return FoldedMatrix((c.hidden, query), lambda a, b: read("self_attn.o_proj", a, b))
            case "gate_up":
                before = gain("post_attention_layernorm")
                return FoldedMatrix((2 * c.ffn, c.hidden), lambda a, b: interleave(
                    read("mlp.gate_proj", a // 2, b // 2) * before * GATE_FACTOR,
                    read("mlp.up_proj", a // 2, b // 2) * before * UP_FACTOR,
                ))  # fmt: skip
            case "down":
                return FoldedMatrix((c.hidden, c.ffn), lambda a, b: read("mlp.down_proj", a, b))
        raise ValueError(f"no matrix {name!r} in a layer")


def fold_layer(checkpoint: Checkpoint, layer: int) -> FoldedLayer:
    """The matrices of `layer`."""
    return FoldedLayer(checkpoint, layer)


def fold_head(checkpoint: Checkpoint) -> FoldedMatrix:
    """The LM head (vocab, hidden) with the final norm's gain; a tied head is a copy of its own."""
    gain = checkpoint.tensor("model.norm.weight")

    def fold(start: int, stop: int) -> Float:
        return checkpoint.tensor(checkpoint.head_name, start, stop).astype(np.float64) * gain

    return FoldedMatrix((checkpoint.config.vocab, checkpoint.config.hidden), fold)


def fold_embedding(
    checkpoint: Checkpoint, start: int = 0, stop: int | None = None
) -> NDArray[np.float16]:
    """Rows `start` to `stop` of the embedding table in FP16.

    Raises CheckpointError if a value is beyond its range.
    """
    table = checkpoint.tensor("model.embed_tokens.weight", start, stop)
    limit = float(np.finfo(np.float16).max)
    if table.size and max(float(table.max()), -float(table.min())) > limit:
        index = int(np.argmax(np.abs(table) > limit))
        token, element = np.unravel_index(index, table.shape)
        raise CheckpointError(
            f"model.embed_tokens.weight[{start + int(token)}, {int(element)}] is "
            f"{table[token, element]}; FP16 holds at most {limit:g}"
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
