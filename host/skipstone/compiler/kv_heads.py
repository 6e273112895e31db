"""KV heads for cores that have fewer lanes than a KV head has query heads.

The query heads of a KV head are served side by side, one in each lane. Where a core has fewer
lanes, every KV head is made several times, each for as many of the query heads as there are lanes:
the rows of K and V are repeated, and so are K and V in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model import ModelConfig
from ..quant import QuantizedLinear, QuantizedSource
from ..spec.config import CoreConfig
from ..spec.layout import RouterRecord

__all__ = ["RepeatedKvHeads", "with_served_heads"]


def with_served_heads(shape: ModelConfig, config: CoreConfig) -> ModelConfig:
    """`shape` with the fewest KV heads whose query heads find a lane each on core `config`."""
    together = shape.heads // shape.kv_heads
    served = max(n for n in range(1, together + 1) if together % n == 0 and n <= config.lanes)
    return replace(shape, kv_heads=shape.heads // served)


class RepeatedKvHeads:
    """`source` with the rows of K and V repeated, head by head, up to `kv_heads` heads."""

    def __init__(self, source: QuantizedSource, kv_heads: int):
        self._source = source
        self._times = kv_heads // source.config.kv_heads
        self.config, self.group = replace(source.config, kv_heads=kv_heads), source.group

    def embedding_rows(self) -> Iterator[NDArray[np.float16]]:
        """As the source's."""
        return self._source.embedding_rows()

    def routers(self) -> Iterator[RouterRecord | None]:
        """As the source's."""
        return self._source.routers()

    def matrices(self) -> Iterator[tuple[str, QuantizedLinear]]:
        """The source's, those of K and V taller."""
        for name, matrix in self._source.matrices():
            if name.endswith((".k", ".v")):
                matrix = QuantizedLinear(
                    self._repeated(matrix.weights), self._repeated(matrix.scales)
                )
            yield name, matrix

    def _repeated(self, rows: NDArray[Any]) -> NDArray[Any]:
        heads = rows.reshape(-1, self.config.head_dim, rows.shape[1])
        return np.repeat(heads, self._times, axis=0).reshape(-1, rows.shape[1])
