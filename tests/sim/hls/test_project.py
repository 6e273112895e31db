"""The Vitis project: its parameters are the configuration's, and its test bench passes."""

import os
import re
import subprocess

import pytest

from skipstone.spec import registers
from skipstone.spec.config import CONFIGS
from skipstone_sim.hls.build import sources
from skipstone_sim.hls.kernel import SCALARS, TOP, kernel_source
from skipstone_sim.hls.project import HLS_BOARDS, project_files, write_project
from skipstone_sim.toolchain import find_compiler

pytestmark = pytest.mark.xdist_group("hls")


def pragmas(text):
    """Mode and port to the other parameters."""
    found = {}
    for line in re.findall(r"#pragma HLS interface (.*)", text):
        fields = dict(word.split("=") for word in line.split())
        found[fields.pop("mode"), fields.pop("port")] = fields
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_interfaces(name):
    config = CONFIGS[name]
    found = pragmas(kernel_source(config))
    for port in range(config.ports):
        master = found["m_axi", f"port_{port}"]
        assert int(master["max_read_burst_length"]) == config.burst_beats
        assert int(master["num_read_outstanding"]) == config.outstanding
        offset = int(found["s_axilite", f"port_{port}"]["offset"], 0)
        assert offset == registers.PORT_BASE + 8 * port
    assert ("m_axi", f"port_{config.ports}") not in found
    for name_ in SCALARS:
        offset = int(found["s_axilite", name_.lower()]["offset"], 0)
        assert offset == registers.BY_NAME[name_].offset
    status = int(found["s_axilite", "status"]["offset"], 0)
    assert status == registers.BY_NAME["ERROR_CODE"].offset
    assert status + 8 == registers.BY_NAME["TOKENS_DONE"].offset
    counters = int(found["s_axilite", "counters"]["offset"], 0)
    assert counters == registers.counter_offset("cycles")
    bundles = {f["bundle"] for (mode, _), f in found.items() if mode == "m_axi"}
    assert len(bundles) == config.ports


@pytest.mark.parametrize("board", HLS_BOARDS)
def test_project_parameters(board):
    target = HLS_BOARDS[board]
    files = project_files(target.config, target, sources())
    cfg = dict(line.split("=", 1) for line in files["hls_config.cfg"].splitlines() if "=" in line)
    assert cfg["part"] == target.part
    assert cfg["syn.top"] == TOP
    assert float(cfg["clock"].removesuffix("ns")) == pytest.approx(
        1000 / target.clock_mhz, rel=1e-4
    )
    alveo = board.startswith("u")
    assert cfg["package.output.format"] == ("xo" if alveo else "ip_catalog")
    tcl = files["run_hls.tcl"]
    for step in ("csim_design", "csynth_design", "cosim_design", "export_design"):
        assert step in tcl
    assert target.part in tcl
    for text in (files["hls_config.cfg"], tcl):
        for path in re.findall(r"(\S+/hls/\S+\.cpp)", text.replace("=", " ")):
            assert os.path.exists(path), path


@pytest.mark.parametrize(
    ("board", "core", "storage"),
    [
        ("u280", "u280", "uram"),
        ("zcu104", "zcu104", "uram"),
        ("pynq-z2", "pynq-z2", "bram"),
        ("kv260", "kv260", "auto"),  # a chunk is no longer than its lanes: no tile buffer
    ],
)
def test_the_storage_of_the_tile_buffer(board, core, storage):
    config = CONFIGS[core]
    text = project_files(config, HLS_BOARDS[board], sources())["config.hpp"]
    assert f"#define SKIPSTONE_TILE_STORAGE {storage}\n" in text
    assert f"constexpr int TILE_BLOCKS = {config.tile_blocks};\n" in text
    assert f"constexpr int TILE_WORDS = {config.tile_words};\n" in text


@pytest.mark.parametrize("broken", [False, True])
def test_the_test_bench(tmp_path, broken):
    """What Vitis would run as C simulation, with this machine's compiler; and that it can fail."""
    write_project(tmp_path, CONFIGS["sim-tiny"], HLS_BOARDS["kv260"], sources())
    if broken:
        raw = bytearray((tmp_path / "vectors.bin").read_bytes())
        raw[-5] ^= 1
        (tmp_path / "vectors.bin").write_bytes(raw)
    compiler = find_compiler()
    units = [tmp_path / "kernel.cpp", sources() / "csim.cpp", sources() / "testbench.cpp"]
    objects = [tmp_path / f"{unit.stem}.o" for unit in units]
    include = ["-I", tmp_path, "-I", sources()]
    for unit, target in zip(units, objects, strict=True):
        compiler.make_object("-std=c++17", "-w", *include, "-c", unit, "-o", target)
    compiler.make_linked(*objects, "-o", tmp_path / "bench")
    done = subprocess.run([tmp_path / "bench"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == int(broken), done.stdout
