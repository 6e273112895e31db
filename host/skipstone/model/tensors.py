"""safetensors files, checked before a byte of them is believed.

Layout: u64 header length · JSON header · data. The header maps names to dtype, shape and data
offsets. Everything in it is validated here (sizes, ranges, duplicated names, overlaps, holes);
tensors are then read one at a time and widened to float32, bfloat16 (which numpy lacks) included.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import CheckpointError

__all__ = ["FLOAT_DTYPES", "Tensor", "TensorFile", "check_finite", "read_json", "widen"]

FLOAT_DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
"""Element types we read, and their bytes."""

_ITEM_BYTES = FLOAT_DTYPES | {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "U16": 2,
    "I16": 2,
    "U32": 4,
    "I32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_HEADER_LIMIT = 100_000_000
"""Longest header the format allows."""


def read_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object in which no key occurs twice. Raises CheckpointError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise CheckpointError(f"{where}: the name {key!r} occurs twice")
            found[key] = value
        return found

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: must be a JSON object, not {type(value).__name__}")
    return value


def widen(raw: bytes | NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """Little-endian elements of `dtype` (a key of FLOAT_DTYPES) as float32."""
    if dtype == "F32":
        return np.frombuffer(raw, "<f4").astype(np.float32)
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: bytes `start` to `end` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class TensorFile:
    """One safetensors file.

    Raises CheckpointError if the header is not exactly what the format allows for this file.

    Attributes
    ----------
    path : Path
    tensors : dict of str to Tensor
    metadata : dict of str to str
    """

    def __init__(self, path: Path):
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        try:
            size = path.stat().st_size
            with path.open("rb") as f:
                fixed = f.read(8)
                if len(fixed) < 8:
                    raise self._error(f"truncated: {size} bytes hold no header")
                (length,) = struct.unpack("<Q", fixed)
                if length > min(size - 8, _HEADER_LIMIT):
                    raise self._error(f"truncated: the header has {length} bytes, the file {size}")
                header = read_json(f.read(length), str(path))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        self.metadata = self._metadata(header.pop("__metadata__", {}))
        data_bytes = size - 8 - length
        for name, entry in header.items():
            self.tensors[name] = self._entry(name, entry, 8 + length, data_bytes)
        self._check_cover(8 + length, size)

    def _error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {text}")

    def _metadata(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self._error("__metadata__ must map names to text")
        return value

    def _entry(self, name: str, entry: Any, base: int, data_bytes: int) -> Tensor:
        def is_size(v: Any) -> bool:
            return type(v) is int and v >= 0

        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise self._error(f"tensor {name!r}: needs exactly dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            raise self._error(f"tensor {name!r}: unknown dtype {dtype!r}")
        if not isinstance(shape, list) or not all(map(is_size, shape)):
            raise self._error(f"tensor {name!r}: shape must be a list of sizes, not {shape!r}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_size, offsets)):
            raise self._error(f"tensor {name!r}: data_offsets must be two sizes, not {offsets!r}")
        start, end = offsets
        if not start <= end <= data_bytes:
            raise self._error(
                f"tensor {name!r}: bytes {start} to {end} are out of range, "
                f"the file holds {data_bytes} bytes of data (truncated?)"
            )
        expected = math.prod(shape) * _ITEM_BYTES[dtype]
        if end - start != expected:
            raise self._error(
                f"tensor {name!r}: {dtype} of shape {shape} needs {expected} bytes, "
                f"data_offsets give {end - start}"
            )
        return Tensor(name, dtype, tuple(shape), base + start, base + end)

    def _check_cover(self, base: int, size: int) -> None:
        """Tensors lie back to back and fill the file."""
        at, before = base, None
        for t in sorted(self.tensors.values(), key=lambda t: (t.start, t.end)):
            if t.start < at and t.start != t.end:
                raise self._error(f"tensors {before!r} and {t.name!r} overlap")
            if t.start > at:
                raise self._error(f"bytes {at - base} to {t.start - base} belong to no tensor")
            at, before = max(at, t.end), t.name
        if at != size:
            raise self._error(f"{size - at} bytes after the last tensor belong to no tensor")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """The tensor as float32, or its rows `start` to `stop` (first axis).

        Raises CheckpointError if it is not of a floating dtype we read, or holds NaN or infinity.
        """
        t = self.tensors[name]
        if t.dtype not in FLOAT_DTYPES:
            allowed = ", ".join(FLOAT_DTYPES)
            raise self._error(f"tensor {name!r}: dtype must be one of {allowed}, not {t.dtype}")
        if not t.shape:
            start, stop = 0, None
        rows = range(t.shape[0] if t.shape else 1)[start:stop]
        shape = (len(rows), *t.shape[1:]) if t.shape else ()
        row_bytes = math.prod(t.shape[1:]) * FLOAT_DTYPES[t.dtype]
        count = len(rows) * row_bytes
        raw = np.fromfile(self.path, np.uint8, count=count, offset=t.start + rows.start * row_bytes)
        if raw.size != count:
            raise self._error(f"tensor {name!r}: the file was truncated while it was in use")
        value = widen(raw, t.dtype).reshape(shape)
        check_finite(value, f"{self.path}: tensor {name!r}", first_row=rows.start)
        return value


def check_finite(value: NDArray[np.float32], what: str, *, first_row: int = 0) -> None:
    """Raise CheckpointError naming the first element that is NaN or infinite.

    `first_row` is added to the row that is named.
    """
    finite = np.isfinite(value)
    if not finite.all():
        index = np.unravel_index(int(np.argmin(finite)), value.shape)
        place = ", ".join(str(int(i) + first_row * (n == 0)) for n, i in enumerate(index))
        raise CheckpointError(f"{what}: element [{place}] is {value[index]}, not a finite number")
