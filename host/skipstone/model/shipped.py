"""The models that come with the package, by name; any other name is a directory."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..spec.errors import CheckpointError

__all__ = ["SHIPPED", "resolve_model"]

SHIPPED = ("stories", "nano")
"""Names of the shipped models."""


def resolve_model(name: str) -> Path:
    """Directory of the model `name`: a shipped one, or a path.

    Raises CheckpointError if there is no such directory.
    """
    path = Path(str(files("skipstone"))) / "models" / name if name in SHIPPED else Path(name)
    if not path.is_dir():
        raise CheckpointError(
            f"no model {name!r}: give a Hugging Face directory or one of {', '.join(SHIPPED)}"
        )
    return path
