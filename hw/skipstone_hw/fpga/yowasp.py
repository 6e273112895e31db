"""Where programs of the YoWASP wheels keep their machine code.

These programs are WebAssembly. When one first runs, its wheel translates it and keeps the result in
a file that is written in place; another process that maps the file meanwhile, or has mapped what is
written once more, dies of it. So the translation is an entry of our cache, complete before anyone
uses it, and never written again.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from skipstone.cache import cached, content_key
from skipstone.spec.errors import ToolError

__all__ = ["program_command", "program_environment"]


def program_command(module: str, function: str) -> tuple[str, ...]:
    """How the command line of the program begins that `function` of the wheel's `module` runs."""
    return (
        sys.executable,
        "-c",
        f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))",
    )


def program_environment(module: str, function: str) -> dict[str, str]:
    """The environment in which it runs; translated once per machine.

    Raises ToolError if it does not run.
    """

    def build(folder: Path) -> None:
        done = subprocess.run(
            [*program_command(module, function), "--version"],
            env={**os.environ, "YOWASP_CACHE_DIR": str(folder)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        if not any(path.is_file() for path in folder.rglob("*")):
            raise ToolError(f"{function} of {module} does not run:\n{done.stdout[-2000:]}")

    versions = [importlib.metadata.version(name) for name in (module, "wasmtime")]
    folder = cached("yowasp", content_key(module, function, *versions), build)
    return {**os.environ, "YOWASP_CACHE_DIR": str(folder)}
