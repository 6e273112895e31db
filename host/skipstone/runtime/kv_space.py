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
    """Shape of the stores of an image's model."""
    return KvLayout(int(model["head_dim"]), int(model["kv_heads"]), word_bytes)


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
    word_bytes : int
    reserved : int
        For the layers' stores, when the image was compiled.
    stored : int
        Taken by the K, V and exponents of the sequence.
    dense : int
        What it would take if no token skipped attention.
    """

    word_bytes: int
    reserved: int
    stored: int
    dense: int

    @property
    def reserved_bytes(self) -> int:
        """`reserved`, in bytes."""
        return self.reserved * self.word_bytes

    @property
    def stored_bytes(self) -> int:
        """`stored`, in bytes."""
        return self.stored * self.word_bytes

    @classmethod
    def of(cls, model: dict[str, Any], word_bytes: int, decisions: DecisionMap) -> KvSpace:
        """That of a sequence on an image's model."""
        layout = kv_layout(model, word_bytes)
        tokens, layers, _ = decisions.shape
        ranks = stored_versions(decisions, str(model["kv_rule"])).sum(axis=0)
        return cls(
            word_bytes=word_bytes,
            reserved=sum(layout.words(int(room)) for room in model["kv_room"]),
            stored=sum(layout.stored_words(int(n)) for n in ranks),
            dense=layers * layout.stored_words(tokens),
        )
