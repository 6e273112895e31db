"""What a model directory brings to be measured on: texts, questions, a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skipstone.spec.errors import RequestError

__all__ = ["load_texts"]


def load_texts(directory: Path) -> list[str]:
    """The held-out texts of ``eval.json``. Raises RequestError if there are none."""
    path = directory / "eval.json"
    try:
        texts: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise RequestError(f"nothing to measure on: {path} is not there") from None
    if not (isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts)):
        raise RequestError(f"{path} must be a list of texts")
    return texts
