"""Text from a growing list of tokens, piece by piece.

A token may hold part of a character, and some tokenizers write the space between two words into
either of them. So a piece is the difference between two decodings of the last few tokens, held
back while it ends in an incomplete character.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..spec.errors import CheckpointError, RequestError

__all__ = ["TextStream", "Tokenizer", "encode_prompt", "load_tokenizer"]

_REPLACEMENT = "\ufffd"


class Tokenizer(Protocol):
    """What we need of `tokenizers.Tokenizer`."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        ...


def load_tokenizer(path: Path) -> Any:
    """The `tokenizers.Tokenizer` in ``tokenizer.json``. Raises CheckpointError if it is damaged."""
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    if not path.is_file():
        raise CheckpointError(f"{path}: there is no tokenizer")
    try:
        return HuggingFaceTokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from None


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of `prompt`, with what the tokenizer puts in front. RequestError if it is empty."""
    if not prompt:
        raise RequestError("the prompt is empty: at least one character is needed")
    return list(tokenizer.encode(prompt).ids)


class TextStream:
    """Incremental decoding.

    Parameters
    ----------
    tokenizer : Tokenizer
    context : token ids
        What came before; it decides how the first new token is written, and is not repeated.
    """

    _CONTEXT = 8

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._ids = [int(i) for i in context[-self._CONTEXT :]]
        self._from, self._done = 0, len(self._ids)

    def _pending(self) -> str:
        before = self._tokenizer.decode(self._ids[self._from : self._done])
        after = self._tokenizer.decode(self._ids[self._from :])
        return after[len(before) :]

    def add(self, token: int) -> str:
        """Text that `token` completes; empty while a character is incomplete."""
        self._ids.append(int(token))
        piece = self._pending()
        if not piece or piece.endswith(_REPLACEMENT):
            return ""
        self._from, self._done = self._done, len(self._ids)
        return piece

    def flush(self) -> str:
        """What is left, with a replacement character for what was never completed."""
        piece = self._pending()
        self._from, self._done = self._done, len(self._ids)
        return piece
