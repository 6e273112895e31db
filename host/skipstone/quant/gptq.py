"""GPTQ (Frantar et al., arXiv 2210.17323, Algorithm 1): rounding that makes good its own errors.

Columns are rounded in order; each one's error is spread over the columns still to come, as the
inverse of the inputs' second moments H = Σ x·xᵀ says. The inverse is needed only through its
Cholesky factor (Step 3), and updates beyond a block of columns are applied once a block (Step 2).
Scales of a group are chosen when its first column is reached, from the weights as updated by then.
float64 throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .rtn import group_scales, round_to_int4
from .types import QuantizedLinear

__all__ = ["quantize_gptq"]

Float64 = NDArray[np.float64]


def _inverse_factor(hessian: Float64, damping: float) -> Float64:
    """Upper Cholesky factor of the inverse of the damped Hessian."""
    h = hessian + damping * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    # Reversing H on both sides makes its lower factor L into an upper one R with H = R·Rᵀ, so that
    # U = R⁻¹ is upper and H⁻¹ = Uᵀ·U: one factorisation, and no explicit inverse of H.
    lower = np.linalg.cholesky(h[::-1, ::-1])
    return np.linalg.inv(lower)[::-1, ::-1]


def quantize_gptq(
    weight: NDArray[np.float32],
    hessian: NDArray[np.floating],
    group: int = 32,
    *,
    damping: float = 0.01,
    block: int = 128,
    clip_search: bool = False,
) -> QuantizedLinear:
    """Round `weight` (out, in) for inputs of second moments `hessian` (in, in).

    Parameters
    ----------
    damping
        Share of the mean diagonal added to the diagonal.
    block
        Columns between updates of all the rest; rounded up to whole groups.

    Raises ValueError on shapes that do not match, CheckpointError if a scale overflows.
    """
    out, inputs = weight.shape
    if inputs % group:
        raise ValueError(f"inputs must be a multiple of group ({group}), not {inputs}")
    if hessian.shape != (inputs, inputs):
        raise ValueError(f"hessian must be {(inputs, inputs)}, not {hessian.shape}")
    w = weight.astype(np.float64)
    h = hessian.astype(np.float64)
    # An input that never occurred says nothing about its weights: round them as they are.
    dead = np.diag(h) <= 0
    h[dead, dead] = 1.0
    u = _inverse_factor(h, damping)

    block = -(-block // group) * group
    weights = np.empty((out, inputs), np.int8)
    scales = np.empty((out, inputs // group), np.float16)
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        errors = np.empty((out, end - start))
        for i in range(start, end):
            if i % group == 0:
                scale = group_scales(w[:, i : i + group], clip_search=clip_search)
                scales[:, i // group] = scale
                s = scale.astype(np.float64)
            q = round_to_int4(w[:, i], s)
            weights[:, i] = q
            error = (w[:, i] - q * s) / u[i, i]
            w[:, i:end] -= np.outer(error, u[i, i:end])
            errors[:, i - start] = error
        w[:, end:] -= errors @ u[start:end, end:]
    return QuantizedLinear(weights, scales)
