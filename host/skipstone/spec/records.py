"""Token records: how a chunk enters the core and what the core reports of each token.

Both kinds have 32 bytes and lie packed in memory words, never across two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FORCE",
    "INPUT_RECORD",
    "MODULES",
    "OUTPUT_RECORD",
    "RECORD_BYTES",
    "decisions_of",
    "force_decisions",
]

MODULES = ("attention", "mlp")
"""What a token executes or skips in each layer: the last axis of a decision map, and the fields of
a record."""

RECORD_BYTES = 32

FORCE = 1
"""Flag of an input record: its maps replace the routers' decisions."""

INPUT_RECORD = np.dtype(
    [
        ("token", "<u4"),
        ("flags", "<u4"),
        ("attention", "<u8"),  # bit l: execute attention in layer l
        ("mlp", "<u8"),  # bit l: execute the MLP in layer l
        ("reserved", "<u8"),
    ]
)
"""Entry i of the input region: token i of the chunk."""

OUTPUT_RECORD = np.dtype(
    [
        ("token", "<u4"),
        ("next_token", "<u4"),  # argmax if logits of this token were computed, else 0
        ("attention", "<u8"),  # bit l: executed attention in layer l
        ("mlp", "<u8"),  # bit l: executed the MLP in layer l
        ("position", "<u4"),
        ("reserved", "<u4"),
    ]
)
"""Entry p of the record region: the token at sequence position p."""


def decisions_of(records: NDArray[np.void], layers: int) -> NDArray[np.bool_]:
    """The decision map of `records`: bool (tokens, layers, modules), true where one executes."""
    words = np.stack([records[name] for name in MODULES], axis=-1)
    return (words[:, None] >> np.arange(layers, dtype=np.uint64)[:, None] & np.uint64(1)) != 0


def force_decisions(records: NDArray[np.void], decisions: NDArray[np.bool_]) -> None:
    """Replace the routers' decisions on the tokens of input `records` by a decision map."""
    bits = np.uint64(1) << np.arange(decisions.shape[1], dtype=np.uint64)
    records["flags"] |= FORCE
    for n, name in enumerate(MODULES):
        records[name] = np.where(decisions[..., n], bits, np.uint64(0)).sum(1, np.uint64)


assert INPUT_RECORD.itemsize == OUTPUT_RECORD.itemsize == RECORD_BYTES
