"""Puts the commands together, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer

from .. import __version__
from ..spec.errors import SkipstoneError, ToolError
from .bench import bench_command
from .checkpoint import checkpoint_command
from .compile import compile_command
from .devices import devices
from .disasm import disasm
from .doctor import doctor
from .estimate import estimate_command
from .generate import generate
from .inspect import inspect

__all__ = ["build_app", "main"]

_COMMANDS: dict[str, Callable[..., Any]] = {
    "generate": generate,
    "compile": compile_command,
    "estimate": estimate_command,
    "bench": bench_command,
    "checkpoint": checkpoint_command,
    "inspect": inspect,
    "disasm": disasm,
    "devices": devices,
    "doctor": doctor,
}


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"skipstone {__version__}")
        raise typer.Exit()


def _unavailable(entry: EntryPoint, error: ImportError) -> Callable[..., None]:
    """A command that says why it cannot be had."""

    def command(context: typer.Context) -> None:
        raise ToolError(
            f"the command {entry.name!r} needs the module {error.name!r}: "
            "pip install 'skipstone[rtl,torch,build]'"
        )

    command.__doc__ = f"(not available: the module {error.name!r} is missing)"
    return command


def build_app() -> typer.Typer:
    """All commands: ours, then those of other packages."""
    app = typer.Typer(
        name="skipstone",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=_show_version, is_eager=True, help="Show the version."
            ),
        ] = False,
    ) -> None:
        """An open FPGA overlay processor for language models that skip what they can."""

    for name, function in _COMMANDS.items():
        app.command(name)(function)
    for entry in sorted(entry_points(group="skipstone.commands")):
        try:
            app.command(entry.name)(entry.load())
        except ImportError as error:
            lenient = {"ignore_unknown_options": True, "allow_extra_args": True}
            app.command(entry.name, context_settings=lenient)(_unavailable(entry, error))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 for an error, 2 for wrong usage."""
    try:
        build_app()(args=None if arguments is None else list(arguments), prog_name="skipstone")
    except SkipstoneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
