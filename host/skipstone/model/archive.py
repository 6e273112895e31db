"""Tensors of a ``.pth`` file, without torch and without trusting it.

``torch.save`` writes a zip archive: ``NAME/data.pkl``, a pickle of the object in which each tensor
is a call of ``torch._utils._rebuild_tensor_v2`` on a storage, and ``NAME/data/KEY``, the storages'
raw bytes. A pickle can call anything it can name, so the unpickler below knows exactly five names
and gives its own stand-ins for them; any other is refused, by name, before it is looked up.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import CheckpointError
from .tensors import FLOAT_DTYPES, widen

__all__ = ["read_torch_archive"]

_PICKLE_LIMIT = 16 << 20
"""Bytes of a pickle of tensor names and shapes that we are willing to interpret."""


@dataclass(frozen=True)
class _StorageType:
    """Stands in for a torch storage class."""

    dtype: str


_STORAGES = {
    "FloatStorage": _StorageType("F32"),
    "HalfStorage": _StorageType("F16"),
    "BFloat16Storage": _StorageType("BF16"),
}


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _rebuild(
    storage: Any, offset: Any, shape: Any, stride: Any, *_unused: Any
) -> NDArray[np.float32]:
    """What `torch._utils._rebuild_tensor_v2` does, on a numpy storage."""
    if (
        not isinstance(storage, np.ndarray)
        or not _is_size(offset)
        or not isinstance(shape, tuple)
        or not isinstance(stride, tuple)
        or len(shape) != len(stride)
        or not all(map(_is_size, shape + stride))
    ):
        raise CheckpointError(f"malformed tensor: offset {offset!r}, shape {shape!r}")
    if 0 in shape:
        return np.zeros(shape, np.float32)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if last >= storage.size:
        raise CheckpointError(
            f"a tensor of shape {shape} reaches element {last} of a storage of {storage.size}"
        )
    steps = tuple(4 * s for s in stride)
    view = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
    return view.copy()


class _Unpickler(pickle.Unpickler):
    """Resolves five names and the archive's storages; refuses all else."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(data))
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise CheckpointError(f"refused: it names {module}.{name}, which no plain tensor needs")

    def persistent_load(self, pid: Any) -> NDArray[np.float32]:
        if not (
            isinstance(pid, tuple)
            and len(pid) == 5
            and pid[0] == "storage"
            and isinstance(pid[1], _StorageType)
            and isinstance(pid[2], str)
            and _is_size(pid[4])
        ):
            raise CheckpointError(f"malformed storage reference {pid!r}")
        dtype, key, count = pid[1].dtype, pid[2], pid[4]
        info = self._archive.getinfo(f"{self._prefix}data/{key}")
        expected = count * FLOAT_DTYPES[dtype]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != expected:
            raise CheckpointError(
                f"storage {key!r} has {info.file_size} bytes, {count} elements of {dtype} "
                f"need {expected}"
            )
        return widen(self._archive.read(info), dtype)


def _contents(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise CheckpointError("an entry of the zip archive occurs twice")
    pickles = [n for n in names if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"must hold one data.pkl, not {len(pickles)}")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
        raise CheckpointError("byte order must be little")
    info = archive.getinfo(pickles[0])
    if info.file_size > _PICKLE_LIMIT:
        raise CheckpointError(f"data.pkl has {info.file_size} bytes, more than {_PICKLE_LIMIT}")
    return _Unpickler(archive.read(info), archive, prefix).load()


def _flatten(value: Any) -> dict[str, NDArray[np.float32]]:
    if not isinstance(value, dict):
        raise CheckpointError(f"must hold a dict of tensors, not {type(value).__name__}")
    strangers: Sequence[Any] = [k for k, v in value.items() if not isinstance(v, np.ndarray)]
    if strangers or not all(isinstance(k, str) for k in value):
        raise CheckpointError(f"must hold a dict of tensors; these are not: {strangers}")
    return dict(value)


def read_torch_archive(path: Path) -> dict[str, NDArray[np.float32]]:
    """All tensors of a state dict written by ``torch.save``.

    Raises CheckpointError for anything else, and for any global but the five a plain state dict
    needs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _flatten(_contents(archive))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path}: not an intact archive of torch.save (torch 1.6 or newer): {error}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a broken pickle can raise anything at all
        raise CheckpointError(f"{path}: malformed pickle: {error!r}") from None
