"""Skipstone: an FPGA overlay processor for language models that compute only what each token needs.

Importing this package loads nothing else; its parts are `spec`, `model`, `quant`, `compiler`,
`runtime`, `devices`, `board` and `cli`, and `LLM` is all of them in one object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .llm import LLM

__all__ = ["LLM", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `LLM` when it is first asked for."""
    if name == "LLM":
        from .llm import LLM

        return LLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
