"""The memory image: one file that holds all a core needs to run one model.

Layout (little endian)::

    magic "SKIPSTON" · u32 format version · u32 header length n · n bytes of JSON · sections

The JSON header names the core configuration (with its 64-bit hash), the model's shape, and each
section's name, word address, byte length in file and SHA-256. Section data follow at the 4096-byte
boundary after the header, each aligned to 4096 bytes. A section without file bytes (length 0) only
reserves memory. Addresses count memory words of the configuration; the device stripes words over
the ports.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import CoreConfig
from .errors import ConfigError, ImageError

__all__ = ["FORMAT_VERSION", "MAGIC", "Image", "ImageWriter", "Section"]

MAGIC = b"SKIPSTON"
FORMAT_VERSION = 2
_ALIGN = 4096
_BUFFER_BYTES = 4 << 20
"""How much of a section is read or written at once."""


@dataclass(frozen=True)
class Section:
    """A named range of memory words, with its initial bytes (zeros follow them)."""

    name: str
    address: int
    words: int
    data: NDArray[np.uint8] = field(repr=False)

    @property
    def end(self) -> int:
        """First word behind the section."""
        return self.address + self.words


@dataclass(frozen=True)
class Image:
    """A compiled model for one core configuration.

    Attributes
    ----------
    config : CoreConfig
    model : dict
        What the runtime must know of the model (shape, vocabulary, limits, tokenizer name).
    sections : dict of str to Section
    """

    config: CoreConfig
    model: dict[str, Any]
    sections: Mapping[str, Section]

    @property
    def words(self) -> int:
        """Memory the image occupies, in words."""
        return max(s.end for s in self.sections.values())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        reserved = {s.name: (s.address, s.words) for s in self.sections.values()}
        sizes = {s.name: int(s.data.size) for s in self.sections.values()}
        with ImageWriter(path, self.config, self.model, reserved, sizes) as writer:
            for s in self.sections.values():
                writer.write(s.name, s.data)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Image:
        """Map the file. Every offset and size is checked before use; `verify` checks the hashes.

        Raises ImageError for anything that is not a whole, consistent image.
        """
        path = Path(path)
        size = path.stat().st_size
        with path.open("rb") as f:
            fixed = f.read(16)
            if len(fixed) < 16 or fixed[:8] != MAGIC:
                raise ImageError(f"{path}: magic must be {MAGIC!r}, not {fixed[:8]!r}")
            version, length = struct.unpack("<II", fixed[8:])
            if version != FORMAT_VERSION:
                raise ImageError(f"{path}: format version must be {FORMAT_VERSION}, not {version}")
            if 16 + length > size:
                raise ImageError(f"{path}: header of {length} bytes exceeds the file ({size})")
            try:
                header = json.loads(f.read(length))
                config = CoreConfig(**header["config"])
                entries, model = header["sections"], dict(header["model"])
                declared = int(header["config_hash"], 16)
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, ConfigError):
                    raise ImageError(f"{path}: {error}") from None
                raise ImageError(f"{path}: malformed header: {error}") from None
        if declared != config.hash64:
            raise ImageError(
                f"{path}: configuration hash is {declared:016x}, "
                f"but its fields give {config.hash64:016x}"
            )
        start = -(-(16 + length) // _ALIGN) * _ALIGN
        sections: dict[str, Section] = {}
        for entry in entries:
            try:
                name, address, words = entry["name"], entry["address"], entry["words"]
                offset, count, digest = entry["offset"], entry["bytes"], entry["sha256"]
                bad = [v for v in (address, words, offset, count) if type(v) is not int or v < 0]
            except (KeyError, TypeError) as error:
                raise ImageError(f"{path}: malformed section entry: {error}") from None
            if bad or name in sections:
                raise ImageError(f"{path}: section {name!r} is duplicated or has bad fields {bad}")
            if count > words * config.word_bytes:
                raise ImageError(
                    f"{path}: section {name!r} has {count} bytes, but room for "
                    f"{words * config.word_bytes}"
                )
            if start + offset + count > size:
                raise ImageError(
                    f"{path}: section {name!r} ends at byte {start + offset + count}, "
                    f"but the file has {size}"
                )
            data: NDArray[np.uint8] = np.zeros(0, np.uint8)
            if count:
                data = np.memmap(path, np.uint8, "r", start + offset, (count,))
            if verify and _file_hash(path, start + offset, count) != digest:
                raise ImageError(f"{path}: section {name!r} is corrupted (SHA-256 differs)")
            sections[name] = Section(name, address, words, data)
        ordered = sorted(sections.values(), key=lambda s: s.address)
        for before, after in itertools.pairwise(ordered):
            if before.end > after.address:
                raise ImageError(f"{path}: sections {before.name!r} and {after.name!r} overlap")
        return cls(config, model, sections)

    def check_config(self, config: CoreConfig) -> None:
        """Raise ImageError, naming both hashes, unless the image was made for `config`."""
        if self.config.hash64 != config.hash64:
            raise ImageError(
                f"the image was compiled for core {self.config.name!r} "
                f"({self.config.hash64:016x}), but the device is {config.name!r} "
                f"({config.hash64:016x})"
            )


def _file_hash(path: Path, offset: int, count: int) -> str:
    """SHA-256 of bytes of a file, without mapping them."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(count, _BUFFER_BYTES)))
    with path.open("rb", buffering=0) as f:
        f.seek(offset)
        while count:
            got = f.readinto(buffer[: min(count, len(buffer))])
            if not got:
                break  # truncated meanwhile: the hash differs
            digest.update(buffer[:got])
            count -= got
    return digest.hexdigest()


class ImageWriter:
    """Writes an image file section by section, so that no section need be in memory.

    A context manager: on leaving it the file appears under its name, complete, or, after an error,
    not at all.

    Parameters
    ----------
    path
    config, model
        As of `Image`.
    sections
        (address, words) by name.
    sizes
        Bytes in file by name; what is not given is only reserved.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: CoreConfig,
        model: Mapping[str, Any],
        sections: Mapping[str, tuple[int, int]],
        sizes: Mapping[str, int],
    ):
        self._path = Path(path)
        self._head = {
            "config": json.loads(config.to_json()),
            "config_hash": f"{config.hash64:016x}",
            "model": dict(model),
        }
        self._entries: dict[str, dict[str, Any]] = {}
        offset = 0
        for name, (address, words) in sections.items():
            size = int(sizes.get(name, 0))
            if size > words * config.word_bytes:
                raise ValueError(f"section {name!r} has {size} bytes, but {words} words of room")
            self._entries[name] = {
                "name": name,
                "address": address,
                "words": words,
                "offset": offset,
                "bytes": size,
                "sha256": "0" * 64,
            }
            offset += -(-size // _ALIGN) * _ALIGN
        self._size = offset
        self._written = dict.fromkeys(self._entries, 0)
        self._hashes = {name: hashlib.sha256() for name in self._entries}

    def _header(self) -> bytes:
        document = self._head | {"sections": list(self._entries.values())}
        text = json.dumps(document, sort_keys=True).encode()
        return MAGIC + struct.pack("<II", FORMAT_VERSION, len(text)) + text

    def __enter__(self) -> ImageWriter:
        # Hashes are known at the end, but their length is known now.
        self._start = -(-len(self._header()) // _ALIGN) * _ALIGN
        self._file = tempfile.NamedTemporaryFile(
            dir=self._path.parent, prefix=self._path.name, delete=False
        )
        return self

    def write(self, section: str, data: NDArray[np.uint8]) -> None:
        """Append bytes to a section. Raises ValueError beyond its size."""
        entry = self._entries[section]
        raw = memoryview(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
        if self._written[section] + len(raw) > entry["bytes"]:
            raise ValueError(f"section {section!r} has {entry['bytes']} bytes")
        self._file.seek(self._start + entry["offset"] + self._written[section])
        for at in range(0, len(raw), _BUFFER_BYTES):
            piece = raw[at : at + _BUFFER_BYTES]
            self._hashes[section].update(piece)
            self._file.write(piece)
        self._written[section] += len(raw)

    def _finish(self) -> None:
        for name, entry in self._entries.items():
            if self._written[name] != entry["bytes"]:
                raise ValueError(
                    f"section {name!r} must have {entry['bytes']} bytes, not {self._written[name]}"
                )
            entry["sha256"] = self._hashes[name].hexdigest()
        self._file.seek(0)
        self._file.write(self._header())
        self._file.truncate(self._start + self._size)
        self._file.close()
        os.chmod(self._file.name, 0o644)
        os.replace(self._file.name, self._path)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):  # it has its name
                os.unlink(self._file.name)
