"""Synthesis by unit: each is mapped to the device by itself, once, and its result is kept.

Units are kept whole: nothing is optimized across their ports, so a figure belongs to one unit, and
the sum is a little more than a vendor's flow will need.
"""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from skipstone.cache import cached, content_key
from skipstone.spec.boards import Family
from skipstone.spec.errors import ToolError

from . import primitives, timing
from .hierarchy import Unit
from .primitives import primitive
from .timing import Timing, analyze
from .tools import YOSYS, run_yosys

__all__ = ["UnitResult", "mapping_script", "synthesize", "synthesize_unit", "uses_of"]

Progress = Callable[[str, int, int], None]

# Yosys' default mapper, abc9, fails on some units; abc is what it was before.
_XILINX = """\
synth_xilinx -family {family}{options}{flatten} -noiopad -noclkbuf -top {top} -run begin:map_luts
opt_expr -mux_undef -noclkinv
abc -luts 2:2,3,6:5,10,20
clean
xilinx_srl -fixed -minlen 3
techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6
xilinx_dffopt
opt_lut_ins -tech xilinx
clean"""
_SCRIPTS = {
    Family.ULTRASCALE_PLUS: _XILINX.replace("{options}", " -uram"),
    Family.SERIES_7: _XILINX.replace("{options}", ""),
    Family.ECP5: "synth_ecp5 -noabc9 -top {top}",
}
_NETLIST = "netlist.json.gz"
_RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """A unit on a device.

    Attributes
    ----------
    name
    uses
        By resource, without the units placed in it: "lut" (with "lutram", its part used as
        memory), "ff", "carry" (bits), "dsp", "bram", "uram".
    cells
        Primitives by kind.
    placed
        How often each black box of its text is placed.
    timing
    seconds
        How long Yosys took.
    """

    name: str
    uses: Mapping[str, float]
    cells: Mapping[str, int]
    placed: Mapping[str, int]
    timing: Timing
    seconds: float


def mapping_script(family: Family, top: str, *, flatten: bool = True) -> str:
    """Yosys' commands from what was read to cells of the device.

    `flatten` dissolves the hierarchy on AMD devices; black boxes stay.
    """
    return _SCRIPTS[family].format(
        family=family.value, top=top, flatten=" -flatten" if flatten else ""
    )


def _script(unit: Unit, family: Family) -> str:
    """Black boxes stay, everything else is flattened into the unit."""
    return "\n".join(
        (
            "read_verilog -sv unit.v",
            f"hierarchy -check -top {unit.top}",
            mapping_script(family, unit.top),
            "check -assert -noinit",
            "blackbox =A:whitebox",
            "write_json -noscopeinfo netlist.json",
            "",
        )
    )


def _netlist(unit: Unit, family: Family) -> tuple[dict[str, Any], float]:
    """The unit's module in Yosys' JSON, and the seconds that making it took."""
    script = _script(unit, family)

    def build(folder: Path) -> None:
        (folder / "unit.v").write_text(unit.text, encoding="utf-8")
        began = time.monotonic()
        try:
            run_yosys(script, folder)
        except ToolError as error:
            raise ToolError(f"unit {unit.name}: {error}") from None
        seconds = time.monotonic() - began
        raw = folder / "netlist.json"
        with raw.open(encoding="utf-8") as f:
            module = json.load(f)["modules"][unit.top]
        raw.unlink()
        document = json.dumps({"seconds": seconds, "module": module}).encode()
        (folder / _NETLIST).write_bytes(gzip.compress(document, compresslevel=3, mtime=0))

    key = content_key(unit.text, script, YOSYS.version())
    entry = cached("netlists", key, build)
    document = json.loads(gzip.decompress((entry / _NETLIST).read_bytes()))
    return document["module"], document["seconds"]


def _renamed(timing: Timing, own: Iterable[str], here: Iterable[str]) -> Timing:
    """A unit's timing with the port names of the place where it is used."""
    name = dict(zip(own, here, strict=True))
    return Timing(
        timing.inner,
        {(name[p], i): path for (p, i), path in timing.capture.items()},
        {(name[p], i): path for (p, i), path in timing.launch.items()},
        {((name[a], i), (name[b], o)): n for ((a, i), (b, o)), n in timing.arcs.items()},
    )


def uses_of(cells: Collection[Mapping[str, Any]]) -> dict[str, float]:
    """Resources. On AMD devices a carry chain is fed through a LUT, whether it computes or not."""
    computed = {
        bit for c in cells if c["type"].startswith("LUT") for bit in c["connections"].get("O", ())
    }
    fed = sum(
        isinstance(bit, int) and bit not in computed
        for c in cells
        if c["type"] in ("CARRY4", "CARRY8")
        for bit in c["connections"]["S"]
    )
    total: Counter[str] = Counter(lut=fed) if fed else Counter()
    for cell in cells:
        for resource, count in primitive(cell["type"], cell["parameters"]).uses.items():
            total[resource] += count  # type: ignore[assignment]
    return dict(sorted(total.items()))


def synthesize_unit(
    unit: Unit, family: Family, results: Mapping[str, UnitResult] = MappingProxyType({})
) -> UnitResult:
    """The result of one unit, from the cache if it is there.

    Parameters
    ----------
    results
        Those of its children, by `Unit.key`.

    Raises ToolError if Yosys is missing or fails.
    """
    sources = [Path(str(m.__file__)).read_bytes() for m in (primitives, timing)]
    own = Path(__file__).read_bytes()

    def build(folder: Path) -> None:
        module, seconds = _netlist(unit, family)
        placed = [c for c in module["cells"].values() if c["type"] in unit.children]
        mapped = [c for c in module["cells"].values() if c["type"] not in unit.children]
        timings = {
            kind: _renamed(results[child.key].timing, child.ports, here)
            for kind, (child, here) in unit.children.items()
        }
        document = {
            "uses": uses_of(mapped),
            "cells": dict(sorted(Counter(c["type"] for c in mapped).items())),
            "placed": dict(sorted(Counter(c["type"] for c in placed).items())),
            "timing": analyze(module, timings, unit.instances).to_json(),
            "seconds": round(seconds, 1),
        }
        (folder / _RESULT).write_text(json.dumps(document), encoding="utf-8")

    key = content_key(unit.key, _script(unit, family), YOSYS.version(), own, *sources)
    raw = json.loads((cached("units", key, build) / _RESULT).read_text(encoding="utf-8"))
    return UnitResult(
        name=unit.name,
        uses=raw["uses"],
        cells=raw["cells"],
        placed=raw["placed"],
        timing=Timing.from_json(raw["timing"]),
        seconds=raw["seconds"],
    )


def synthesize(
    top: Unit, family: Family, *, jobs: int = 1, progress: Progress | None = None
) -> dict[str, UnitResult]:
    """Results of every unit under `top`, by name; "glue" is what lies between them.

    A unit that is placed several times counts as often. Raises ToolError if Yosys is missing or
    fails.
    """
    units = list(top.walk())
    results: dict[str, UnitResult] = {}
    waiting = {unit.key: unit for unit in units}
    done = 0
    YOSYS.command()
    pool = ThreadPoolExecutor(jobs)
    try:
        while waiting:
            ready = [
                u
                for u in waiting.values()
                if all(child.key in results for child, _ in u.children.values())
            ]
            futures = {u.key: pool.submit(synthesize_unit, u, family, results) for u in ready}
            for unit in ready:
                if progress:
                    progress(f"synthesis of {unit.name}", done, len(units))
                results[unit.key] = futures[unit.key].result()
                del waiting[unit.key]
                done += 1
    finally:
        pool.shutdown(cancel_futures=True)
    return {unit.name: results[unit.key] for unit in units}
