"""What the quantizer makes and the compiler takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model import ModelConfig
from ..spec.layout import RouterRecord

__all__ = ["MATRICES", "QuantizedLayer", "QuantizedLinear", "QuantizedModel"]

MATRICES = ("q", "k", "v", "o", "gate_up", "down")
"""A layer's matrices, in the order they are executed."""


@dataclass(frozen=True)
class QuantizedLinear:
    """A matrix as int4 with one FP16 scale per group along the reduction and output row.

    Attributes
    ----------
    weights : int8 array (out, in), values -8 to 7
    scales : float16 array (out, in / group), finite, not negative
    """

    weights: NDArray[np.int8]
    scales: NDArray[np.float16]

    @property
    def group(self) -> int:
        """Weights that share a scale."""
        return self.weights.shape[1] // self.scales.shape[1]

    def dequantize(self) -> NDArray[np.float32]:
        """The real matrix (out, in); exact, int4 times FP16 fits float32."""
        scales = np.repeat(self.scales.astype(np.float32), self.group, axis=1)
        return self.weights.astype(np.float32) * scales


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's matrices with all constants folded in (see `fold`); `router` is None if dense."""

    q: QuantizedLinear
    k: QuantizedLinear
    v: QuantizedLinear
    o: QuantizedLinear
    gate_up: QuantizedLinear
    down: QuantizedLinear
    router: RouterRecord | None


@dataclass(frozen=True)
class QuantizedModel:
    """A model ready for the compiler.

    Attributes
    ----------
    config : ModelConfig
    group : int
        Elements that share a scale or a router exponent.
    embedding : float16 array (vocab, hidden)
    layers : tuple of QuantizedLayer
    head : QuantizedLinear
        The LM head with the final norm's gain folded in.
    """

    config: ModelConfig
    group: int
    embedding: NDArray[np.float16]
    layers: tuple[QuantizedLayer, ...]
    head: QuantizedLinear
