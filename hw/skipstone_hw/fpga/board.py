"""A board's build: a folder that appears when everything in it is finished.

``skipstone_core.v`` with ``manifest.json``, the resource report, and the files for the vendor's
tools.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skipstone_hw
from skipstone import spec
from skipstone.cache import cached, content_key
from skipstone.spec.boards import Board, Family, Memory
from skipstone.spec.errors import ConfigError, ImageError, RequestError
from skipstone.spec.registers import VERSION

from .. import emit
from .hierarchy import cut
from .interface import interface_hash, module_ports
from .report import Report, make_report, picture, require_fit, write_json
from .synthesis import Progress, synthesize
from .tools import YOSYS
from .vitis import vitis_files
from .vivado import vivado_files
from .wrapper import RESET_SOURCE, WRAPPER, wrapper

__all__ = [
    "Emission",
    "build_board",
    "check_manifest",
    "emit_core",
    "load_manifest",
    "report_board",
    "source_hash",
    "vendor_files",
]

_VERILOG, _MANIFEST = f"{emit.TOP}.v", "manifest.json"


def source_hash() -> str:
    """SHA-256 over every source that the Verilog is made from: names and contents."""
    digest = hashlib.sha256()
    for package in (spec, skipstone_hw):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Emission:
    """A core's Verilog, and the manifest that says what made it."""

    text: str
    manifest: dict[str, Any]


def emit_core(board: Board) -> Emission:
    """The core of a board; emitted once for the same sources."""
    config = board.config

    def build(folder: Path) -> None:
        (folder / _VERILOG).write_text(emit.emit_verilog(config), encoding="utf-8")

    versions = emit.manifest(config, "")["versions"]
    key = content_key(config.to_json(), source_hash(), json.dumps(versions, sort_keys=True))
    text = (cached("verilog", key, build) / _VERILOG).read_text(encoding="utf-8")
    manifest = {
        "board": board.name,
        "part": board.part,
        **emit.manifest(config, text),
        "interface_version": VERSION,
        "interface_hash": interface_hash(config),
        "source_hash": source_hash(),
    }
    return Emission(text, manifest)


def check_manifest(manifest: dict[str, Any], board: Board) -> None:
    """Raises ImageError, with both hashes, unless a build has the interface that this host has."""
    mine, theirs = interface_hash(board.config), str(manifest.get("interface_hash"))
    if mine != theirs:
        raise ImageError(
            f"the build's interface hash is {theirs}, that of this host for board "
            f"{board.name!r} is {mine}: build it again, or install the host it was built with"
        )


def vendor_files(board: Board, text: str) -> dict[str, str]:
    """Files for the vendor's tools by path, with the Verilog they need beside the core's."""
    if board.family is not Family.ULTRASCALE_PLUS:
        return {}
    kernel = board.memory is Memory.HBM
    folder = "vitis" if kernel else "vivado"
    files = vitis_files(board) if kernel else vivado_files(board)
    return {
        RESET_SOURCE.name: RESET_SOURCE.read_text(encoding="utf-8"),
        f"{WRAPPER}.v": wrapper(module_ports(text, emit.TOP)),
        **{f"{folder}/{name}": content for name, content in files.items()},
    }


def report_board(board: Board, *, jobs: int = 1, progress: Progress | None = None) -> Report:
    """Synthesize a board's core by units. Raises ToolError if Yosys is missing or fails."""
    if progress:
        progress(f"Verilog of {board.name}", 0, 1)
    top = cut(emit_core(board).text, emit.TOP)
    results = synthesize(top, board.family, jobs=jobs, progress=progress)
    return make_report(board, top, results, YOSYS.version())


def _fill(
    folder: Path, board: Board, synthesis: bool, jobs: int, progress: Progress | None
) -> Report | None:
    emission = emit_core(board)
    (folder / _VERILOG).write_text(emission.text, encoding="utf-8")
    for name, content in vendor_files(board, emission.text).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    report = None
    manifest = dict(emission.manifest)
    if synthesis:
        manifest["versions"] = {**manifest["versions"], "yosys": YOSYS.version()}
        report = report_board(board, jobs=jobs, progress=progress)
        write_json(report, folder / "resources.json")
        picture(report, board, folder / "resources.png")
        require_fit(report, board)
    (folder / _MANIFEST).write_text(
        json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return report


def build_board(
    board: Board,
    output: Path,
    *,
    synthesis: bool = True,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report | None:
    """Build a board into the folder `output`, which is replaced if a build made it.

    Without `synthesis`, nothing is reported and None is returned. Raises RequestError if `output`
    holds something else, ConfigError if the core does not fit, ToolError if Yosys is missing or
    fails; `output` is then as it was.
    """
    if (
        output.exists()
        and not (output / _MANIFEST).is_file()
        and (not output.is_dir() or any(output.iterdir()))
    ):
        raise RequestError(f"output must be a new folder or an earlier build, not {str(output)!r}")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent)
    )
    try:
        report = _fill(partial, board, synthesis, jobs, progress)
        partial.chmod(0o755)
        if output.exists():
            shutil.rmtree(output)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return report


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a build. Raises ConfigError if there is none or it cannot be read."""
    path = folder / _MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} must be a build's manifest: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold an object, not {document!r}")
    return document
