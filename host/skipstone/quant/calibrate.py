"""Running the model while it is being quantized, to see what each matrix is given.

A float32 forward pass of the folded model over calibration text, layer by layer. Each matrix is
rounded when its inputs are known, and the pass goes on with the rounded one, so later matrices
see the errors of earlier ones. Skipping is respected: only tokens that execute a module count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..model import ModelConfig, rope_table
from ..spec.errors import CheckpointError
from ..spec.formats import ROUTER_BITS, BlockFloat
from ..spec.layout import RouterRecord
from .fold import FoldedLayer

__all__ = ["Calibration", "Dequantizable", "calibration_sequences", "second_moments"]

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


class Dequantizable(Protocol):
    """A rounded matrix that knows its real value."""

    def dequantize(self) -> Float32:
        """The real matrix (out, in)."""
        ...


class Embedding(Protocol):
    """An embedding table, or what can be asked for its rows."""

    def __getitem__(self, tokens: NDArray[np.int64], /) -> NDArray[np.float16]:
        """Rows of `tokens`."""
        ...


Rounded = TypeVar("Rounded", bound=Dequantizable)


def second_moments(inputs: Float32) -> NDArray[np.float64]:
    """Σ x·xᵀ over the rows of `inputs` (n, in)."""
    x = inputs.astype(np.float64)
    return x.T @ x


def calibration_sequences(
    text: str, tokenizer_path: Path | None, config: ModelConfig, *, tokens: int = 8192
) -> list[list[int]]:
    """Token sequences of the documents of `text`, which empty lines part, up to `tokens` in all.

    Raises CheckpointError if there is no tokenizer, or no text.
    """
    if tokenizer_path is None:
        raise CheckpointError("calibration needs the model's tokenizer.json")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    sequences: list[list[int]] = []
    left = tokens
    for document in text.split("\n\n"):
        if document.strip() and left > 0:
            ids = tokenizer.encode(document + "\n").ids[: min(left, config.max_positions)]
            sequences.append(ids)
            left -= len(ids)
    if not sequences:
        raise CheckpointError("the calibration text is empty")
    if max(map(max, sequences)) >= config.vocab:
        raise CheckpointError(
            f"the tokenizer gives token {max(map(max, sequences))}, the model has {config.vocab}"
        )
    return sequences


def _rotate(y: Float32, cos: Float32, sin: Float32) -> Float32:
    """Rotate neighbouring pairs of `y` (n, heads, hd) by angles (n, hd/2)."""
    a, b = y[..., 0::2], y[..., 1::2]
    c, s = cos[:, None], sin[:, None]
    return np.stack([a * c - b * s, a * s + b * c], axis=-1).reshape(y.shape)


def _attend(q: Float32, k: Float32, v: Float32) -> Float32:
    """Causal base-2 attention of one sequence: q (t, heads, hd), k and v (t, kv_heads, hd)."""
    t, heads, hd = q.shape
    ratio = heads // k.shape[1]
    grouped = q.reshape(t, -1, ratio, hd).transpose(1, 2, 0, 3)  # (kv, ratio, t, hd)
    scores = grouped @ k.transpose(1, 2, 0)[:, None]  # (kv, ratio, t, t)
    scores = np.where(np.tri(t, dtype=np.bool_), scores, -np.inf)
    p = np.exp2(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    mixed = p @ v.transpose(1, 0, 2)[:, None]  # (kv, ratio, t, hd)
    return mixed.transpose(2, 0, 1, 3).reshape(t, heads * hd)


def _executes(x: Float32, router: RouterRecord | None, group: int) -> tuple[Bool, Bool]:
    """Which tokens execute attention and which the MLP."""
    if router is None:
        everyone = np.ones(len(x), np.bool_)
        return everyone, everyone
    w = BlockFloat(ROUTER_BITS, group).dequantize(router.mantissa, router.exponent)
    execute = x.astype(np.float64) @ w.T + router.bias <= 0
    return execute[:, 0], execute[:, 1]


class Calibration:
    """The residual stream of the calibration text, moved through the model layer by layer.

    Parameters
    ----------
    config : ModelConfig
    group : int
        Elements that share a router exponent.
    embedding
        Gives the FP16 rows (n, hidden) of an array of n token ids when indexed by it.
    sequences : token ids

    Attributes
    ----------
    x : float32 array (tokens, hidden)
    """

    def __init__(
        self,
        config: ModelConfig,
        group: int,
        embedding: Embedding,
        sequences: Sequence[Sequence[int]],
    ):
        self.config, self.group = config, group
        tokens = np.concatenate([np.asarray(s, np.int64) for s in sequences])
        ends = np.cumsum([len(s) for s in sequences])
        self._spans = [slice(e - len(s), e) for e, s in zip(ends, sequences, strict=True)]
        position = np.concatenate([np.arange(len(s)) for s in sequences])
        cos, sin = rope_table(config, int(position.max()) + 1)
        self._cos = cos[position].astype(np.float32)
        self._sin = sin[position].astype(np.float32)
        kv = (len(tokens), config.kv_heads, config.head_dim)
        self._k, self._v = np.zeros(kv, np.float32), np.zeros(kv, np.float32)
        self.x = embedding[tokens].astype(np.float32)

    def normalised(self) -> Float32:
        """The stream over its root mean square."""
        mean = np.mean(np.square(self.x), axis=1, keepdims=True)
        return self.x / np.sqrt(mean + np.float32(self.config.rms_eps))

    def layer(
        self,
        index: int,
        folded: FoldedLayer,
        router: RouterRecord | None,
        round_matrix: Callable[[Float32, Float32], Rounded],
    ) -> dict[str, Rounded]:
        """Pass the stream through layer `index`; returns the rounded matrices by name.

        `round_matrix` gets a matrix (out, in) and its inputs (n, in), and gives what is used in its
        place.
        """
        c = self.config
        run_attention, run_mlp = _executes(self.x, router, self.group)
        everyone = np.ones(len(self.x), np.bool_)
        stores = everyone if index == 0 or c.kv_rule == "kv_recompute" else run_attention

        done: dict[str, Rounded] = {}

        def apply(name: str, inputs: Float32) -> Float32:
            done[name] = round_matrix(folded.matrix(name).whole(), inputs)
            return inputs @ done[name].dequantize().T

        def heads(y: Float32) -> Float32:
            return y.reshape(len(y), -1, c.head_dim)

        x = self.normalised()
        q = np.zeros((len(x), c.heads, c.head_dim), np.float32)
        q[run_attention] = heads(apply("q", x[run_attention]))
        q = _rotate(q, self._cos, self._sin)
        k = heads(apply("k", x[stores]))
        self._k[stores] = _rotate(k, self._cos[stores], self._sin[stores])
        self._v[stores] = heads(apply("v", x[stores]))
        mixed = np.concatenate([_attend(q[s], self._k[s], self._v[s]) for s in self._spans])
        self.x[run_attention] += apply("o", mixed[run_attention])

        x = self.normalised()
        pairs = apply("gate_up", x[run_mlp])
        t, u = pairs[:, 0::2], pairs[:, 1::2]
        with np.errstate(over="ignore"):  # exp2 of a large -t: the sigmoid is 0
            hidden = t * u / (1 + np.exp2(-t))
        self.x[run_mlp] += apply("down", hidden)
        return done
