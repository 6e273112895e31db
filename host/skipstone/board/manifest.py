"""What a bitstream is: a JSON file beside it that ties it to a core configuration.

``skipstone.json`` holds the configuration, its hash, the version of the instruction set and the
SHA-256 of the bitstream. It is checked before anything is downloaded; the registers of the loaded
core are checked against it afterwards, and every image against both.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..spec import registers
from ..spec.config import CoreConfig
from ..spec.errors import BitstreamError, ConfigError
from .design import VLNV

__all__ = ["Manifest"]

_FORMAT = 1


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The identity of a bitstream.

    Attributes
    ----------
    bitstream : Path
    config : CoreConfig
    board : str
    sha256 : str
        Of the bitstream.
    """

    bitstream: Path
    config: CoreConfig
    board: str
    sha256: str

    @classmethod
    def write(cls, bitstream: str | os.PathLike[str], config: CoreConfig, board: str) -> Manifest:
        """Write the manifest of this bitstream, whole or not at all."""
        path = Path(bitstream)
        manifest = cls(path, config, board, _sha256(path))
        document = {
            "format": _FORMAT,
            "board": board,
            "bitstream": path.name,
            "sha256": manifest.sha256,
            "config": json.loads(config.to_json()),
            "config_hash": f"{config.hash64:016x}",
            "version": registers.VERSION,
            "vlnv": VLNV,
        }
        target = path.with_suffix(".json")
        partial = target.with_name(target.name + ".partial")
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.replace(target)
        return manifest

    @classmethod
    def read(cls, bitstream: str | os.PathLike[str]) -> Manifest:
        """The manifest beside this bitstream, which is hashed.

        Raises BitstreamError if either is missing, damaged, or not for the other, or if the
        bitstream was made for another version of this package.
        """
        path = Path(bitstream)
        source = path.with_suffix(".json")
        for needed in (path, source):
            if not needed.is_file():
                raise BitstreamError(f"{needed} is not there")
        try:
            document = json.loads(source.read_text(encoding="utf-8"))
            config = CoreConfig(**document["config"])
            declared, version = int(document["config_hash"], 16), document["version"]
            sha256, board = str(document["sha256"]), str(document["board"])
        except ConfigError as error:
            raise BitstreamError(f"{source}: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise BitstreamError(f"{source}: malformed manifest: {error}") from None
        if document.get("format") != _FORMAT:
            raise BitstreamError(f"{source}: format must be {_FORMAT}, not {document['format']!r}")
        if declared != config.hash64:
            raise BitstreamError(
                f"{source}: configuration hash is {declared:016x}, "
                f"but its fields give {config.hash64:016x}"
            )
        if version != registers.VERSION:
            raise BitstreamError(
                f"{source}: the bitstream has version {version}, "
                f"this package is for version {registers.VERSION}"
            )
        found = _sha256(path)
        if found != sha256:
            raise BitstreamError(f"{path}: SHA-256 is {found}, but its manifest says {sha256}")
        return cls(path, config, board, sha256)
