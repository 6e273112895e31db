"""The quantizer's driver: fold, round and collect, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..model import Checkpoint
from ..spec.errors import ConfigError, RequestError
from ..spec.layout import RouterRecord
from .calibrate import Calibration, calibration_sequences, second_moments
from .fold import fold_embedding, fold_head, fold_layer, fold_routers
from .gptq import quantize_gptq
from .rtn import quantize_rtn
from .types import MATRICES, QuantizedLayer, QuantizedLinear, QuantizedModel

__all__ = ["METHODS", "Method", "quantize_model"]

Method = Literal["rtn", "gptq"]
METHODS: tuple[Method, ...] = ("rtn", "gptq")

Float32 = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and of how much."""


def quantize_model(
    checkpoint: Checkpoint,
    method: Method = "rtn",
    group: int = 32,
    calibration_text: str | None = None,
    progress: Progress | None = None,
    *,
    clip_search: bool = False,
    calibration_tokens: int = 8192,
) -> QuantizedModel:
    """`checkpoint` with all matrices in int4.

    Parameters
    ----------
    method
        "rtn" rounds to the nearest; "gptq" needs `calibration_text`, documents parted by empty
        lines, of which it takes up to `calibration_tokens` tokens.
    clip_search
        Choose scales by least squared error instead of the largest magnitude.

    Raises CheckpointError for weights that are not finite or beyond FP16, ConfigError if the group
    does not divide the model's dimensions, RequestError without the text that GPTQ needs.
    """
    config = checkpoint.config
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    for what, size in (("hidden_size", config.hidden), ("intermediate_size", config.ffn)):
        if size % group:
            raise ConfigError(f"group must divide {what} ({size}), not {group}")
    embedding = fold_embedding(checkpoint)
    calibration = None
    if method == "gptq":
        if not calibration_text:
            raise RequestError("method 'gptq' needs calibration_text")
        sequences = calibration_sequences(
            calibration_text, checkpoint.tokenizer_path, config, tokens=calibration_tokens
        )
        calibration = Calibration(config, group, embedding, sequences)

    def nearest(weight: Float32) -> QuantizedLinear:
        return quantize_rtn(weight, group, clip_search=clip_search)

    def calibrated(weight: Float32, inputs: Float32) -> QuantizedLinear:
        return quantize_gptq(weight, second_moments(inputs), group, clip_search=clip_search)

    def layer(index: int) -> QuantizedLayer:
        if progress is not None:
            progress("quantize", index, config.layers + 1)
        folded = fold_layer(checkpoint, index)
        router: RouterRecord | None = None
        if checkpoint.routers is not None:
            router = fold_routers(checkpoint.routers[index], group)
        if calibration is None:
            matrices = {name: nearest(getattr(folded, name)) for name in MATRICES}
        else:
            matrices = calibration.layer(index, folded, router, calibrated)
        return QuantizedLayer(**matrices, router=router)

    layers = tuple(layer(index) for index in range(config.layers))
    if progress is not None:
        progress("quantize", config.layers, config.layers + 1)
    head = fold_head(checkpoint)
    return QuantizedModel(
        config=config,
        group=group,
        embedding=embedding,
        layers=layers,
        head=nearest(head) if calibration is None else calibrated(head, calibration.normalised()),
    )
