"""Runs a cocotb bench against one Amaranth component, simulated by Verilator.

A bench and its pytest runner are two files. The runner builds the component and names the bench::

    # tests/hw/test_fifo.py
    from pathlib import Path
    import pytest
    from skipstone.spec.config import CONFIGS, SIMULATION_CONFIGS
    from skipstone_sim.bench import run_bench

    BENCH = Path(__file__).with_name("bench_fifo.py")

    @pytest.mark.cocotb
    @pytest.mark.parametrize("name", SIMULATION_CONFIGS)
    def test_fifo(name):
        config = CONFIGS[name]
        run_bench(Fifo(config=config), test_module=BENCH, config=config, parameters={"depth": 4})

The bench holds the coroutines and runs inside the simulator, with `skipstone_sim.bench_tools`::

    # tests/hw/bench_fifo.py
    import cocotb
    from skipstone_sim.bench_tools import (
        StreamDriver, StreamMonitor, bench_config, bench_parameters, begin, random_stall)

    @cocotb.test()
    async def stalled(dut):
        layout = PairLayout(bench_config())
        await begin(dut)                                   # clock, reset
        driver = StreamDriver(dut, "i", shape=layout, stall=random_stall(0.5, seed=1))
        monitor = StreamMonitor(dut, "o", shape=layout, stall=random_stall(0.5, seed=2))
        driver.queue([{"accumulator": [1, -2], "exponent": 3, ...}])
        items = await monitor.take(1)                      # raises after 10,000 silent cycles
        assert items[0]["exponent"] == 3

Ports keep Amaranth's flat names: member path joined by two underscores (``dut.i__valid``,
``dut.o__payload``, ``dut.clk``, ``dut.rst``); a payload with a layout is one bit vector.
Only the ports are visible unless `public="all"`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cocotb_tools.config
import find_libpython
from amaranth.lib import wiring

from skipstone.cache import cached, content_key
from skipstone.spec.config import CoreConfig
from skipstone_hw.emit import emit_component

from .compiled import Flags, compile_units, gather, link, tools_key, verilate

__all__ = ["PARAMETERS_VARIABLE", "BenchFailure", "build_bench", "run_bench"]

PARAMETERS_VARIABLE = "SKIPSTONE_BENCH_PARAMETERS"
"""Environment variable that carries the bench's parameters as JSON."""

_TAIL_LINES = 60
_FLAGS = Flags(optimize=("-O1",), vpi=True)


class BenchFailure(AssertionError):
    """A bench that failed, ended early or held no test; the message ends with the log's tail."""


def build_bench(
    component: wiring.Component | str, *, public: str = "ports", flags: Flags = _FLAGS
) -> Path:
    """The simulator of a component (or of Verilog text with module ``top``), built or cached.

    `public` is "ports" or "all": which signals the bench sees.
    """
    if public not in ("ports", "all"):
        raise ValueError(f'public must be "ports" or "all", not {public!r}')
    if isinstance(component, str):
        text = component
    else:
        text = emit_component(component, port_names=lambda path: "__".join(map(str, path)))
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    libs = cocotb_tools.config.libs_dir

    def build(folder: Path) -> None:
        source, access = folder / "top.v", folder / "access.vlt"
        source.write_text(text)
        modules = '-module "top" ' if public == "ports" else '-module "*" '
        access.write_text(f'`verilator_config\npublic_flat_rw {modules}-var "*"\n')
        verilate(source, top="top", out=folder, flags=flags, options=["-O3", str(access)])
        objects = compile_units([*gather(folder), main], out=folder, flags=flags, include=[folder])
        options = [f"-Wl,-rpath,{libs}", f"-L{libs}", "-lcocotbvpi_verilator", "-ldl"]
        link(objects, folder / "bench", flags=flags, options=options)
        for leftover in (*folder.glob("*.o"), *folder.glob("*.cc")):
            leftover.unlink()

    version = importlib.metadata.version("cocotb")
    key = content_key(text, public, repr(flags), tools_key(), version, str(libs))
    return cached("bench", key, build) / "bench"


def run_bench(
    component: wiring.Component | str,
    *,
    test_module: str | Path,
    testcase: str | Sequence[str] | None = None,
    config: CoreConfig | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 1,
    public: str = "ports",
    timeout_s: float = 600.0,
    env: Mapping[str, str] | None = None,
) -> str:
    """Build a component, run the tests of a bench against it, and return the log.

    Parameters
    ----------
    component
        What to simulate; Verilog text with a module ``top`` is accepted too.
    test_module
        The bench: the path of its file, or a dotted name below the working directory such as
        "tests.hw.bench_fifo". Its folder is on the bench's import path.
    testcase
        Run only the tests with these names.
    config, parameters
        What `bench_config()` and `bench_parameters()` return in the bench; JSON values.
    seed
        Seed of `random` in the bench.
    timeout_s
        Wall-clock limit.

    Raises
    ------
    BenchFailure
        If a test failed, or none ran.
    """
    path = test_module if isinstance(test_module, Path) else Path(*test_module.split("."))
    path = path.with_suffix(".py").absolute()
    if not path.is_file():
        raise ValueError(f"test_module must name a bench's file, not {test_module!r}: no {path}")
    program = build_bench(component, public=public)
    libpython = find_libpython.find_libpython()
    with tempfile.TemporaryDirectory(prefix="skipstone-bench-") as scratch:
        results = Path(scratch) / "results.xml"
        variables = {
            **os.environ,
            "GPI_USERS": f"{libpython};{cocotb_tools.config.pygpi_entry_point()}",
            "PYGPI_PYTHON_BIN": sys.executable,
            "PYTHONPATH": os.pathsep.join([str(path.parent), *filter(None, sys.path)]),
            "COCOTB_TOPLEVEL": "top",
            "COCOTB_TEST_MODULES": path.stem,
            "TOPLEVEL_LANG": "verilog",
            "COCOTB_TRUST_INERTIAL_WRITES": "1",
            "COCOTB_RESULTS_FILE": str(results),
            "COCOTB_RANDOM_SEED": str(seed),
            "NO_COLOR": "1",
            PARAMETERS_VARIABLE: json.dumps(
                {
                    "config": None if config is None else json.loads(config.to_json()),
                    "parameters": dict(parameters or {}),
                    "inputs": _inputs((program.parent / "top.v").read_text()),
                }
            ),
            **(env or {}),
        }
        variables.pop("COCOTB_TEST_FILTER", None)
        if testcase is not None:
            names = [testcase] if isinstance(testcase, str) else list(testcase)
            variables["COCOTB_TEST_FILTER"] = rf"\.({'|'.join(names)})$"
        try:
            done = subprocess.run(
                [program],
                cwd=scratch,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            output = error.stdout or b""
            text = output if isinstance(output, str) else output.decode(errors="replace")
            raise BenchFailure(
                f"{path.name} did not end within {timeout_s:g} s\n{_tail(text)}"
            ) from None
        log = done.stdout
        if not results.is_file():
            raise BenchFailure(
                f"{path.name} ended early with status {done.returncode}\n{_tail(log)}"
            )
        cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    bad = [c.get("name", "?") for c in cases if any(x.tag in ("failure", "error") for x in c)]
    if bad:
        raise BenchFailure(f"{path.name}: {', '.join(bad)} failed\n{_tail(log)}")
    if done.returncode:
        raise BenchFailure(f"{path.name} ended with status {done.returncode}\n{_tail(log)}")
    if not any(all(x.tag != "skipped" for x in case) for case in cases):
        raise BenchFailure(f"{path.name}: no test ran\n{_tail(log)}")
    return log


def _inputs(text: str) -> list[str]:
    """Names of the input ports of module ``top``."""
    top = re.search(r"^module top\b.*?^endmodule", text, re.DOTALL | re.MULTILINE)
    assert top is not None, "no module top in the Verilog"
    return re.findall(
        r"^\s*input\s+(?:wire\s+)?(?:\[[^]]*\]\s*)?(\w+)\s*[;,]", top[0], re.MULTILINE
    )


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-_TAIL_LINES:])
