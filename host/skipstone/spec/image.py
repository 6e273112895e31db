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

import hashlib
import itertools
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import CoreConfig
from .errors import ConfigError, ImageError

__all__ = ["FORMAT_VERSION", "MAGIC", "Image", "Section"]

MAGIC = b"SKIPSTON"
FORMAT_VERSION = 1
_ALIGN = 4096


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
        path = Path(path)
        entries: list[dict[str, Any]] = []
        offset = 0
        for s in self.sections.values():
            entries.append(
                {
                    "name": s.name,
                    "address": s.address,
                    "words": s.words,
                    "offset": offset,
                    "bytes": int(s.data.size),
                    "sha256": hashlib.sha256(s.data.tobytes()).hexdigest(),
                }
            )
            offset += -(-int(s.data.size) // _ALIGN) * _ALIGN
        header = json.dumps(
            {
                "config": json.loads(self.config.to_json()),
                "config_hash": f"{self.config.hash64:016x}",
                "model": self.model,
                "sections": entries,
            },
            sort_keys=True,
        ).encode()
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as f:
            try:
                f.write(MAGIC + struct.pack("<II", FORMAT_VERSION, len(header)) + header)
                start = -(-f.tell() // _ALIGN) * _ALIGN
                for entry, s in zip(entries, self.sections.values(), strict=True):
                    f.seek(start + entry["offset"])
                    f.write(s.data.tobytes())
                f.truncate(start + offset)
                f.close()
                os.chmod(f.name, 0o644)
                os.replace(f.name, path)
            except BaseException:
                f.close()
                os.unlink(f.name)
                raise

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
            if verify and hashlib.sha256(data.tobytes()).hexdigest() != digest:
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
