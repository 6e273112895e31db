"""Building bitstreams: what is refused, and that nothing half-finished is left."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from skipstone.build import build_image
from skipstone.spec.errors import ConfigError, ToolError
from skipstone.spec.image import Image, Section
from skipstone_hw.boards import bitstream
from skipstone_hw.boards.ulx3s import CONFIG, CONSTRAINTS, IMAGE_CONTEXT, IMAGE_MODEL, MEMORY_WORDS

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bitstream, "top_verilog", lambda content: "module ulx3s; endmodule\n")


def test_unknown_board(tmp_path):
    with pytest.raises(ConfigError, match="board must be one of ulx3s, not 'ulx4s'"):
        bitstream.build_bitstream("ulx4s", tmp_path / "out")


def test_a_missing_tool_is_named_before_anything_is_built(monkeypatch, tmp_path):
    monkeypatch.setenv("ECPPACK", "/no/such/ecppack")
    with pytest.raises(ToolError, match="ECPPACK must name a program that runs"):
        bitstream.build_bitstream("ulx3s", tmp_path / "out")
    monkeypatch.delenv("ECPPACK")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"yosys is missing: install it with .*\[build\].* YOSYS"):
        bitstream.build_bitstream("ulx3s", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failing_tool_leaves_nothing(monkeypatch, tmp_path):
    tool = tmp_path / "yosys"
    tool.write_text("#!/bin/sh\necho 'ERROR: no luck'\ntouch netlist.json\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(tool))
    monkeypatch.chdir(tmp_path)  # it leaves its file, too, when asked for its version
    out = tmp_path / "out"
    out.mkdir()
    (out / "skipstone.bit").write_bytes(b"before")
    with pytest.raises(ToolError, match=r"(?s)yosys failed with status 3.*no luck"):
        bitstream.build_bitstream("ulx3s", out)
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]
    assert (out / "skipstone.bit").read_bytes() == b"before"
    assert not list((tmp_path / "cache" / "netlist").glob("*/"))


def test_images_are_flattened():
    data = bytes(range(1, 41))
    section = Section("a", 3, 2, np.frombuffer(data, np.uint8))
    flat = bitstream.flat_image(Image(CONFIG, {}, {"a": section}))
    assert flat == bytes(3 * CONFIG.word_bytes) + data


def test_every_pin_has_a_place():
    for name in ("clk_25mhz", "ftdi_txd", "ftdi_rxd", "btn_pwr_n", "wifi_gpio0", "led[7]"):
        assert f'LOCATE COMP "{name}" SITE' in CONSTRAINTS
        assert f'IOBUF PORT "{name}" IO_TYPE=LVCMOS33' in CONSTRAINTS


def test_the_image_fits():
    image = build_image(IMAGE_MODEL, CONFIG, kv_capacity=IMAGE_CONTEXT)
    assert image.words <= MEMORY_WORDS


def test_nothing_to_compare_with(tmp_path):
    with pytest.raises(
        ConfigError, match=r"there is no bitstream to compare with: .*skipstone.bit"
    ):
        bitstream.check_bitstream("ulx3s", tmp_path / "out")


def test_another_build_is_compared(monkeypatch, tmp_path):
    def build(board, out, *, progress=None):
        out.mkdir()
        (out / "skipstone.bit").write_bytes(made)

    monkeypatch.setattr(bitstream, "build_bitstream", build)
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path))
    out = tmp_path / "kept"
    out.mkdir()
    (out / "skipstone.bit").write_bytes(b"same")
    (out / "report.json").write_text('{"identical_builds": 1}')
    made = b"same"
    bitstream.check_bitstream("ulx3s", out)
    assert json.loads((out / "report.json").read_text()) == {"identical_builds": 2}
    made = b"other"
    with pytest.raises(ToolError, match="another build is not the same: sha256 d9298a10"):
        bitstream.check_bitstream("ulx3s", out)
    assert json.loads((out / "report.json").read_text()) == {"identical_builds": 2}


def test_the_stored_bitstream_is_whole():
    folder = ROOT / "bitstreams" / "ulx3s"
    if not folder.exists():
        pytest.skip("no bitstream is stored: ./scripts/build_bitstream ulx3s makes it")
    manifest = json.loads((folder / "manifest.json").read_text())
    bit = (folder / "skipstone.bit").read_bytes()
    assert manifest["bitstream"] == {"bytes": len(bit), "sha256": hashlib.sha256(bit).hexdigest()}
    assert manifest["clock"]["achieved_mhz"] >= manifest["clock"]["constraint_mhz"]
    assert manifest["configuration_hash"] == f"{CONFIG.hash64:016x}"
