"""Choosing the next token from logits.

Temperature, then top-k, then top-p (nucleus sampling: Holtzman et al., arXiv 1904.09751), then one
draw from numpy's generator; with temperature 0 simply the largest logit, which the device
itself reports.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import RequestError

__all__ = ["Sampler"]


class Sampler:
    """A rule for choosing tokens, with its random state.

    Parameters
    ----------
    temperature
        0 for greedy; otherwise logits are divided by it.
    top_k
        Keep the k most likely tokens; 0 keeps all.
    top_p
        Keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all.
    seed
        Of the generator; None for a fresh one.

    Raises RequestError for values out of range.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
    ):
        if not 0 <= temperature < math.inf:
            raise RequestError(f"temperature must be 0 or more, not {temperature}")
        if top_k < 0:
            raise RequestError(f"top_k must be 0 or more, not {top_k}")
        if not 0 < top_p <= 1:
            raise RequestError(f"top_p must be above 0 and at most 1, not {top_p}")
        if seed is not None and seed < 0:
            raise RequestError(f"seed must be 0 or more, not {seed}")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self._random = np.random.default_rng(seed)

    @property
    def greedy(self) -> bool:
        """The largest logit wins: no logits need to be read."""
        return self.temperature == 0 or self.top_k == 1

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """What a token is drawn from, over the vocabulary."""
        z = np.asarray(logits, np.float64)
        p = np.zeros_like(z)
        if self.greedy:
            p[np.argmax(z)] = 1
            return p
        # Most likely first; of equals the lower id, as argmax has it.
        order = np.argsort(-z, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        kept = z[order]
        weight = np.exp((kept - kept[0]) / self.temperature)
        weight /= weight.sum()
        if self.top_p < 1:
            before = np.cumsum(weight) - weight
            inside = before < self.top_p
            weight = np.where(inside, weight, 0)
            weight /= weight.sum()
        p[order] = weight
        return p

    def __call__(self, logits: NDArray[np.floating]) -> int:
        """Draw a token."""
        if self.greedy:
            return int(np.argmax(logits))
        p = self.probabilities(logits)
        return int(self._random.choice(len(p), p=p))
