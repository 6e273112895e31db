"""What the quantizer makes and the compiler takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..model import ModelConfig
from ..spec.layout import RouterRecord

__all__ = ["MATRICES", "QuantizedLayer", "QuantizedLinear", "QuantizedModel", "QuantizedSource"]

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


class QuantizedSource(Protocol):
    """A model ready for the compiler, given piece by piece: no more than one is needed at once.

    Attributes
    ----------
    config : ModelConfig
    group : int
        Elements that share a scale or a router exponent.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def group(self) -> int: ...

    def embedding_rows(self) -> Iterator[NDArray[np.float16]]:
        """The embedding table (vocab, hidden) in blocks of rows."""
        ...

    def routers(self) -> Iterator[RouterRecord | None]:
        """Of each layer; None if dense."""
        ...

    def matrices(self) -> Iterator[tuple[str, QuantizedLinear]]:
        """ "LAYER.NAME" for each layer and the names MATRICES, then "head"."""
        ...


@dataclass(frozen=True)
class QuantizedModel:
    """A model ready for the compiler, all of it in memory.

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

    def embedding_rows(self) -> Iterator[NDArray[np.float16]]:
        """See `QuantizedSource`, as for what follows."""
        yield self.embedding

    def routers(self) -> Iterator[RouterRecord | None]:
        """Of each layer."""
        return (layer.router for layer in self.layers)

    def matrices(self) -> Iterator[tuple[str, QuantizedLinear]]:
        """In the order of execution."""
        for index, layer in enumerate(self.layers):
            for name in MATRICES:
                yield f"{index}.{name}", getattr(layer, name)
        yield "head", self.head
