"""The quantizer's driver: fold, round and hand on, matrix by matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..model import Checkpoint, ModelConfig
from ..spec.errors import ConfigError, RequestError
from ..spec.layout import RouterRecord
from .calibrate import Calibration, calibration_sequences, second_moments
from .fold import (
    BLOCK_ROWS,
    FoldedMatrix,
    fold_embedding,
    fold_head,
    fold_layer,
    fold_routers,
)
from .gptq import quantize_gptq
from .rtn import quantize_rtn
from .types import MATRICES, QuantizedLayer, QuantizedLinear, QuantizedModel

__all__ = ["METHODS", "Method", "Quantizer", "quantize_model"]

Method = Literal["rtn", "gptq"]
METHODS: tuple[Method, ...] = ("rtn", "gptq")

Float32 = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and of how much."""


class _EmbeddingRows:
    """Rows of a checkpoint's embedding table, read when asked for."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint

    def __getitem__(self, tokens: NDArray[np.int64]) -> NDArray[np.float16]:
        ids, place = np.unique(tokens, return_inverse=True)
        rows = [fold_embedding(self._checkpoint, int(i), int(i) + 1) for i in ids]
        return np.concatenate(rows)[place]


class Quantizer:
    """`checkpoint` with all matrices in int4, made one by one as they are asked for.

    Memory holds one rounded matrix and a block of rows; with "gptq" one layer's rounded matrices,
    one matrix' second moments, and the calibration text's residual stream.

    Parameters
    ----------
    method
        "rtn" rounds to the nearest; "gptq" needs `calibration_text`, documents parted by empty
        lines, of which it takes up to `calibration_tokens` tokens.
    clip_search
        Choose scales by least squared error instead of the largest magnitude.

    Raises, here or while it is iterated, CheckpointError for weights that are not finite or beyond
    FP16; ConfigError if the group does not divide the model's dimensions, RequestError without the
    text that GPTQ needs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        method: Method = "rtn",
        group: int = 32,
        calibration_text: str | None = None,
        *,
        clip_search: bool = False,
        calibration_tokens: int = 8192,
    ):
        config = checkpoint.config
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
        for what, size in (("hidden_size", config.hidden), ("intermediate_size", config.ffn)):
            if size % group:
                raise ConfigError(f"group must divide {what} ({size}), not {group}")
        self._checkpoint, self._group, self._clip_search = checkpoint, group, clip_search
        self._sequences = None
        if method == "gptq":
            if not calibration_text:
                raise RequestError("method 'gptq' needs calibration_text")
            self._sequences = calibration_sequences(
                calibration_text, checkpoint.tokenizer_path, config, tokens=calibration_tokens
            )

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self._checkpoint.config

    @property
    def group(self) -> int:
        """Elements that share a scale or a router exponent."""
        return self._group

    def embedding_rows(self) -> Iterator[NDArray[np.float16]]:
        """The embedding table in blocks of rows."""
        for start in range(0, self.config.vocab, BLOCK_ROWS):
            yield fold_embedding(self._checkpoint, start, start + BLOCK_ROWS)

    def routers(self) -> Iterator[RouterRecord | None]:
        """Of each layer; None if dense."""
        for index in range(self.config.layers):
            yield self._router(index)

    def _router(self, layer: int) -> RouterRecord | None:
        routers = self._checkpoint.routers
        return None if routers is None else fold_routers(routers[layer], self._group)

    def _nearest(self, matrix: FoldedMatrix) -> QuantizedLinear:
        out, inputs = matrix.shape
        weights = np.empty((out, inputs), np.int8)
        scales = np.empty((out, inputs // self._group), np.float16)
        for start in range(0, out, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            folded = matrix.rows(start, start + BLOCK_ROWS)
            rounded = quantize_rtn(folded, self._group, clip_search=self._clip_search)
            weights[rows], scales[rows] = rounded.weights, rounded.scales
        return QuantizedLinear(weights, scales)

    def _calibrated(self, weight: Float32, inputs: Float32) -> QuantizedLinear:
        moments = second_moments(inputs)
        return quantize_gptq(weight, moments, self._group, clip_search=self._clip_search)

    def matrices(self) -> Iterator[tuple[str, QuantizedLinear]]:
        """ "LAYER.NAME" for each layer and the names MATRICES, then "head"."""
        layers = range(self.config.layers)
        if self._sequences is None:
            for index in layers:
                folded = fold_layer(self._checkpoint, index)
                for name in MATRICES:
                    yield f"{index}.{name}", self._nearest(folded.matrix(name))
            yield "head", self._nearest(fold_head(self._checkpoint))
            return
        rows = _EmbeddingRows(self._checkpoint)
        calibration = Calibration(self.config, self._group, rows, self._sequences)
        for index in layers:
            folded = fold_layer(self._checkpoint, index)
            router = self._router(index)
            rounded = calibration.layer(index, folded, router, self._calibrated)
            for name in MATRICES:
                yield f"{index}.{name}", rounded.pop(name)
        head = fold_head(self._checkpoint).whole()
        yield "head", self._calibrated(head, calibration.normalised())


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
    """All that `Quantizer` gives of `checkpoint`, in memory; parameters and errors are the same."""
    source = Quantizer(
        checkpoint,
        method,
        group,
        calibration_text,
        clip_search=clip_search,
        calibration_tokens=calibration_tokens,
    )
    embedding = np.concatenate(list(source.embedding_rows()))
    total = len(MATRICES) * checkpoint.config.layers + 1
    found: dict[str, QuantizedLinear] = {}
    for name, matrix in source.matrices():
        if progress is not None:
            progress("quantize", len(found), total)
        found[name] = matrix
    layers = tuple(
        QuantizedLayer(**{name: found[f"{index}.{name}"] for name in MATRICES}, router=router)
        for index, router in enumerate(source.routers())
    )
    return QuantizedModel(
        config=checkpoint.config,
        group=group,
        embedding=embedding,
        layers=layers,
        head=found["head"],
    )
