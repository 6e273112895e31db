"""What the commands print: text on stdout, everything about it on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

__all__ = ["Narrator", "make_table", "output", "stderr_console"]


def output() -> Console:
    """Console on stdout."""
    return Console(highlight=False, soft_wrap=True)


def stderr_console() -> Console:
    """Console on stderr."""
    return Console(stderr=True, highlight=False)


def make_table(*columns: str, title: str | None = None, right: tuple[int, ...] = ()) -> Table:
    """A plain table; `right` are the indices of right-aligned columns."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left")
    return table


class Narrator:
    """Says on stderr what is being prepared: one changing line, with a bar while a step knows how
    far it is, on a terminal; else a line each."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._bar: Progress | None = None
        self._last = ""

    def __enter__(self) -> Narrator:
        if self._console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        """Report a step by name."""
        if self._bar is not None:
            if text != self._last:
                self._bar.reset(self._task, total=None, description=text)
        elif text != self._last:
            self._console.print(text)
        self._last = text

    def step(self, name: str, done: int, total: int) -> None:
        """Report progress within a step: `done` of `total`."""
        self.line(name)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
