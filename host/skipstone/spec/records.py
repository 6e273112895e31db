"""Token records: how a chunk enters the core and what the core reports of each token.

Both kinds have 32 bytes and lie packed in memory words, never across two.
"""

from __future__ import annotations

import numpy as np

__all__ = ["FORCE", "INPUT_RECORD", "OUTPUT_RECORD", "RECORD_BYTES"]

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

assert INPUT_RECORD.itemsize == OUTPUT_RECORD.itemsize == RECORD_BYTES
