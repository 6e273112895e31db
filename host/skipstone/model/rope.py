"""Rotary position tables (Su et al., arXiv 2104.09864), in float64.

``linear`` divides all frequencies by the factor (Chen et al., arXiv 2306.15595); ``llama3`` divides
the long waves, keeps the short ones and blends between them (Llama 3.1).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig

__all__ = ["rope_frequencies", "rope_table"]

Float64 = NDArray[np.float64]


def rope_frequencies(config: ModelConfig) -> Float64:
    """Angle per position of each rotated pair (head_dim / 2,)."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    freq = config.rope_theta**-exponents
    scaling = config.rope_scaling
    match scaling.kind:
        case "default":
            return freq
        case "linear":
            return freq / scaling.factor
        case "llama3":
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            turns = scaling.original_max_positions * freq / (2 * math.pi)
            keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
            return keep * freq + (1 - keep) * freq / scaling.factor
    raise ValueError(f"rope scaling must be default, linear or llama3, not {scaling.kind!r}")


def rope_table(config: ModelConfig, positions: int) -> tuple[Float64, Float64]:
    """Cosines and sines (positions, head_dim / 2)."""
    angle = np.arange(positions)[:, None] * rope_frequencies(config)
    return np.cos(angle), np.sin(angle)
