"""The table of the shipped models on golden in ``docs/models.md``, between its two marks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from skipstone.spec.errors import RequestError

from .accuracy import QuantizedRow

__all__ = ["DOCUMENT", "replace_block", "table"]

DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"
_BEGIN, _END = "<!-- quantized -->", "<!-- /quantized -->"


def table(measured: Iterable[QuantizedRow]) -> str:
    """Markdown."""
    lines = ["| model | routing | KV rule | perplexity | answers |", "|---|---|---|---|---|"]
    for r in measured:
        dense = r.routing == "dense"
        routing = "dense" if dense else f"{100 * r.skip_rate:.1f} %"
        rule = "–" if dense else f"`{r.routing}`"
        lines.append(
            f"| `{r.model}` | {routing} | {rule} | {r.perplexity:.4f} "
            f"| {100 * r.answers_correct:.1f} % |"
        )
    return "\n".join(lines)


def replace_block(document: str, content: str) -> str:
    """`document` with `content` between its marks. Raises RequestError if it has none."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise RequestError(f"{DOCUMENT.name} must hold {_BEGIN} and {_END}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
