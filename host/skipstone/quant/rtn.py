"""Rounding to nearest: int4 with one FP16 scale per group.

By default the scale is the group's largest magnitude over 7, the rule that quantization-aware
training assumed. With `clip_search` each group takes, of a few smaller scales, the one of least
squared error; among them the largest magnitude over 8, which uses the value -8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import CheckpointError
from .types import QuantizedLinear

__all__ = ["group_scales", "quantize_rtn", "round_to_int4"]

_SCALE_MIN, _SCALE_MAX = 2.0**-24, 65504.0
_CLIP_DIVISORS = (7.0, 7.25, 7.5, 7.75, 8.0, 8.5, 9.0, 9.5, 10.0)
"""Scales tried, as divisors of the group's largest magnitude."""

_BLOCK_ROWS = 1024
"""Rows handled at once, to bound memory."""


def _to_fp16(scale: NDArray[np.floating]) -> NDArray[np.float16]:
    """Nearest FP16 scale; one that would vanish takes the smallest subnormal, zero stays zero."""
    if scale.size and scale.max() > _SCALE_MAX:
        raise CheckpointError(
            f"a weight of magnitude {float(scale.max()) * 7:g} needs a scale beyond FP16's "
            f"{_SCALE_MAX:g}"
        )
    raised = np.where(scale > 0, np.maximum(scale, _SCALE_MIN), 0)
    return raised.astype(np.float16)


def round_to_int4(x: NDArray[np.floating], scale: NDArray[np.floating]) -> NDArray[np.floating]:
    """x / scale to the nearest integer (ties to even) in -8 to 7; 0 where the scale is 0."""
    safe = np.where(scale > 0, scale, np.inf)
    return np.clip(np.rint(x / safe), -8, 7)


def group_scales(groups: NDArray[np.floating], *, clip_search: bool) -> NDArray[np.float16]:
    """Scales (...) of groups of weights (..., group)."""
    largest = np.abs(groups).max(axis=-1)
    best = _to_fp16(largest / 7)
    if not clip_search:
        return best

    def error(scale: NDArray[np.float16]) -> NDArray[np.floating]:
        s = scale.astype(groups.dtype)[..., None]
        return np.square(round_to_int4(groups, s) * s - groups).sum(axis=-1)

    least = error(best)
    for divisor in _CLIP_DIVISORS[1:]:
        scale = _to_fp16(largest / divisor)
        e = error(scale)
        better = e < least
        best, least = np.where(better, scale, best), np.where(better, e, least)
    return best


def quantize_rtn(
    weight: NDArray[np.float32], group: int = 32, *, clip_search: bool = False
) -> QuantizedLinear:
    """Round `weight` (out, in).

    Raises ValueError if `in` is not a multiple of `group`, CheckpointError if a scale overflows.
    """
    out, inputs = weight.shape
    if inputs % group:
        raise ValueError(f"inputs must be a multiple of group ({group}), not {inputs}")
    weights = np.empty((out, inputs), np.int8)
    scales = np.empty((out, inputs // group), np.float16)
    for start in range(0, out, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        groups = weight[rows].astype(np.float32).reshape(-1, inputs // group, group)
        scale = group_scales(groups, clip_search=clip_search)
        rounded = round_to_int4(groups, scale.astype(np.float32)[..., None])
        weights[rows] = rounded.astype(np.int8).reshape(-1, inputs)
        scales[rows] = scale
    return QuantizedLinear(weights, scales)
