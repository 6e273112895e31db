"""How near golden's numbers are to torch's on the same quantized weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.quant import QuantizedModel, dequantized_checkpoint, dequantized_routers
from skipstone.spec.errors import ToolError

from .accuracy import kl_divergence, skip_agreement

__all__ = ["Accuracy", "judge"]


@dataclass(frozen=True)
class Accuracy:
    """A device's logits and decisions against torch's, over all tokens of a sequence.

    Attributes
    ----------
    logits_max_abs_error : float
    kl : float
        Mean KL(torch ‖ device) of the next token's distribution, in nats.
    top1_agreement, skip_agreement : float
        Shares of equal likeliest tokens, and of equal router decisions.
    """

    logits_max_abs_error: float
    kl: float
    top1_agreement: float
    skip_agreement: float

    def to_json(self) -> dict[str, float]:
        """JSON values."""
        return dataclasses.asdict(self)


def _skips(records: NDArray[np.void], layers: int) -> NDArray[np.bool_]:
    """Decisions (T, L, 2) of output records: true where a module was skipped."""
    layer = np.arange(layers, dtype=np.uint64)
    maps = [records[name][:, None] >> layer for name in ("attention", "mlp")]
    return np.stack([m & np.uint64(1) for m in maps], axis=-1) == 0


def judge(
    model: QuantizedModel,
    tokens: Sequence[int],
    logits: NDArray[np.float32],
    records: NDArray[np.void],
) -> Accuracy:
    """Hold `logits` (T, V) and `records` (T,) of `tokens` against torch in float32.

    Raises ToolError if torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise ToolError(
            "torch is missing, accuracy cannot be judged: pip install 'skipstone[torch]'"
        ) from None
    from .reference import Reference

    routers = dequantized_routers(model)
    reference = Reference(
        model.config.to_hf() | {"tie_word_embeddings": False},  # the head has its own rounding
        {n: torch.from_numpy(v) for n, v in dequantized_checkpoint(model).items()},
        None if routers is None else {n: torch.from_numpy(v) for n, v in routers.items()},
        kv_rule=model.config.kv_rule,
    )
    with torch.no_grad():
        output = reference.forward(torch.tensor([list(tokens)]))
    expected = output.logits[0].numpy()
    return Accuracy(
        logits_max_abs_error=float(np.abs(expected - logits).max()),
        kl=kl_divergence(expected, logits),
        top1_agreement=float((expected.argmax(axis=1) == logits.argmax(axis=1)).mean()),
        skip_agreement=skip_agreement(
            output.skips[0].numpy(), _skips(records, model.config.layers)
        ),
    )
