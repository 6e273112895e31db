"""How much of the KV store each layer gets.

A token stores K and V where it attends, so a layer that skips needs room for fewer tokens than the
longest sequence has (docs/decisions/0013). How many is known only when a text runs: the compiler is
told what to expect, adds a margin, and the core stops before a store overflows.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model import ModelConfig
from ..spec.errors import ConfigError
from ..spec.layout import KV_BLOCK_TOKENS

__all__ = ["KV_MARGIN", "ExpectedSkip", "kv_rooms"]

ExpectedSkip = float | Sequence[float]
"""Share of the tokens that skip attention: of all layers, or of each."""

KV_MARGIN = 0.1
"""Room beyond what is expected, as a share of it."""


def kv_rooms(shape: ModelConfig, capacity: int, expected_skip: ExpectedSkip = 0.0) -> list[int]:
    """Tokens that each layer's store has room for, in whole blocks and at most `capacity`.

    Where every token stores K and V (layer 0; every layer with `kv_recompute`) that is `capacity`.
    Raises ConfigError for another number of shares than layers, or a share outside 0 to 1.
    """
    if isinstance(expected_skip, (int, float)):
        shares = [float(expected_skip)] * shape.layers
    else:
        shares = [float(share) for share in expected_skip]
    if len(shares) != shape.layers:
        raise ConfigError(
            f"expected skip rates must be one, or one for each of {shape.layers} layers, "
            f"not {len(shares)}"
        )
    for layer, share in enumerate(shares):
        if not 0 <= share <= 1:
            raise ConfigError(
                f"the expected skip rate of layer {layer} must be between 0 and 1, not {share}"
            )
    rooms = []
    for layer, share in enumerate(shares):
        tokens = capacity * (1 - share) * (1 + KV_MARGIN)
        if layer == 0 or shape.kv_rule == "kv_recompute":
            tokens = capacity
        blocks = max(1, -(-round(tokens) // KV_BLOCK_TOKENS))
        rooms.append(min(capacity, blocks * KV_BLOCK_TOKENS))
    return rooms
