"""What a sequence takes of the packed KV store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec.layout import KvLayout
from ..spec.records import MODULES
from .schedules import DecisionMap

__all__ = ["KvSpace", "kv_layout", "stored_versions"]


def kv_layout(model: dict[str, Any], word_bytes: int) -> KvLayout:
    """The store of an image's model, addresses relative to its section."""
    capacity, head_dim, heads = (int(model[n]) for n in ("kv_capacity", "head_dim", "kv_heads"))
    return KvLayout(0, capacity, head_dim, heads, word_bytes)


def stored_versions(decisions: DecisionMap, kv_rule: str) -> NDArray[np.bool_]:
    """(tokens, layers): where each token has K and V of its own.

    With `kv_reuse` in layer 0 and wherever it attends, with `kv_recompute` everywhere.
    """
    stored = decisions[..., MODULES.index("attention")].copy()
    stored[:, 0 if kv_rule == "kv_reuse" else slice(None)] = True
    return stored


@dataclass(frozen=True)
class KvSpace:
    """Words of memory.

    Attributes
    ----------
    allocated : int
        Reserved when the image was compiled.
    stored : int
        Taken by the K, V and exponents of the sequence.
    dense : int
        What it would take if no token skipped attention.
    """

    allocated: int
    stored: int
    dense: int

    @classmethod
    def of(cls, model: dict[str, Any], word_bytes: int, decisions: DecisionMap) -> KvSpace:
        """That of a sequence on an image's model."""
        layout = kv_layout(model, word_bytes)
        tokens, layers, _ = decisions.shape
        ranks = stored_versions(decisions, str(model["kv_rule"])).sum(axis=0)
        return cls(
            allocated=layout.words(layers),
            stored=sum(layout.stored_words(int(n)) for n in ranks),
            dense=layers * layout.stored_words(tokens),
        )
