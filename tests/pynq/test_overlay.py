"""What pynq makes of our metadata, and of the simulated board."""

import gc

import numpy as np
import pynq
import pytest

from skipstone.board.design import CORE_ADDRESS, INTERRUPT_CONTROLLER_ADDRESS, used_registers
from skipstone.board.device import load_overlay
from skipstone.board.driver import SkipstoneIP
from skipstone.spec import registers
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import BitstreamError
from skipstone.spec.registers import COUNTERS, FIELDS
from skipstone_sim.pynq_board import AddressError, SimulatedBoard

TINY = CONFIGS["sim-tiny"]


def test_the_board_is_the_active_device(board):
    assert pynq.Device.active_device is board
    assert isinstance(board, SimulatedBoard)


@pytest.mark.parametrize("style", ["zynq", "alveo"])
def test_the_driver_is_bound(board, overlay_path, style):
    overlay = load_overlay(overlay_path(style=style))
    assert overlay.is_loaded()
    ip = overlay.skipstone_0
    assert isinstance(ip, SkipstoneIP)
    assert ip.version == registers.VERSION
    assert ip.config_hash == TINY.hash64
    assert ip.idle
    version = registers.VERSION
    assert repr(ip).endswith(f"version {version}, configuration {TINY.hash64:016x}, idle)")
    ip.check_identity(TINY)
    with pytest.raises(
        BitstreamError, match=rf"host expects version {version} and [0-9a-f]{{16}} \(sim-small\)"
    ):
        ip.check_identity(CONFIGS["sim-small"])


def test_register_map(overlay):
    """Every register and field, by name, at its address, with its description."""
    described = overlay.ip_dict["skipstone_0"]["registers"]
    assert set(described) == {r.name for r in used_registers(TINY)}
    for register in used_registers(TINY):
        entry = described[register.name]
        assert entry["address_offset"] == register.offset
        assert entry["description"] == register.doc
        assert entry["access"] == ("read-only" if register.access == "ro" else "read-write")
        fields = FIELDS.get(register.name, ())
        assert {n: f["bit_offset"] for n, f in entry["fields"].items()} == {
            f.name: f.bit for f in fields
        }
    shown = overlay.skipstone_0.register_map
    assert shown.CTRL.AP_IDLE == 1
    assert shown.CTRL.AP_START == 0
    assert int(shown.VERSION) == registers.VERSION
    assert "AP_IDLE=1" in repr(shown.CTRL)
    shown.STEPS = 17
    assert overlay.skipstone_0.protocol.get("STEPS") == 17
    shown.MODE.LOGITS = 1
    assert overlay.skipstone_0.protocol.get("MODE") == registers.Mode.LOGITS
    with pytest.raises(AttributeError, match="no setter"):
        shown.VERSION = 99


@pytest.mark.parametrize("style", ["zynq", "alveo"])
def test_register_map_without_metadata(board, overlay_path, tmp_path, style):
    """A handoff without registers, or with a kernel's arguments alone: the driver knows them."""
    path = overlay_path(style=style)
    if style == "zynq":
        for suffix in (".bit", ".json"):
            (tmp_path / f"skipstone{suffix}").write_bytes(path.with_suffix(suffix).read_bytes())
        text = path.with_suffix(".hwh").read_text()
        head, _, rest = text.partition("<REGISTERS>")
        tail = rest.partition("</REGISTERS>")[2]
        (tmp_path / "skipstone.hwh").write_text(f"{head}<REGISTERS/>{tail}")
        path = tmp_path / "skipstone.bit"
    shown = load_overlay(path).skipstone_0.register_map
    assert shown.CTRL.AP_IDLE == 1
    assert int(shown.ERROR_CODE) == 0
    assert type(shown).WATCHDOG_CYCLES.__doc__


def test_kernel_arguments_are_registers(board, overlay_path):
    """The Alveo convention: arguments at their registers' offsets, pointers in their banks."""
    overlay = load_overlay(overlay_path("sim-small", style="alveo"))
    described = overlay.ip_dict["skipstone_0"]["registers"]
    for name, entry in described.items():
        where = registers.BY_NAME.get(name) or registers.BY_NAME[f"{name}_LOW"]
        assert entry["address_offset"] == where.offset
    assert [described[f"PORT_BASE_{p}"]["memory"] for p in range(2)] == ["HBM[0]", "HBM[1]"]
    assert overlay.clock_dict["clock0"]["frequency"] == 200


def test_counters_are_documented_properties(overlay):
    for name in COUNTERS:
        assert getattr(SkipstoneIP, name).__doc__
        assert getattr(overlay.skipstone_0, name) == 0


def test_clocks(overlay):
    assert pynq.Clocks.fclk0_mhz == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize(
    "address", [0, CORE_ADDRESS - 4, CORE_ADDRESS + 0x1000, INTERRUPT_CONTROLLER_ADDRESS + 0x1000]
)
def test_unmapped_addresses_raise(overlay, address):
    with pytest.raises(AddressError, match=f"{address:#x}.*mapped is"):
        pynq.MMIO(address, 8).read(0)
    with pytest.raises(AddressError):
        pynq.MMIO(address, 8).write(0, 1)


def test_other_bitstreams_are_refused(board, overlay_path, tmp_path):
    path = tmp_path / "skipstone.bit"
    good = overlay_path()
    path.with_suffix(".hwh").write_bytes(good.with_suffix(".hwh").read_bytes())
    for raw in (good.read_bytes()[:40], good.read_bytes().replace(b"SKIPSIM", b"XXXXXXX")):
        path.write_bytes(raw)
        with pytest.raises(BitstreamError):
            pynq.Overlay(str(path))
    pynq.Overlay(str(good))


# -- buffers ---------------------------------------------------------------------------------------


def test_a_forgotten_flush_shows(overlay):
    buffer = pynq.allocate((16,), "u4")
    buffer[:] = 7
    buffer.invalidate()
    assert not (buffer == 7).any()
    buffer[:] = 7
    buffer.flush()
    buffer[:] = 8
    buffer.invalidate()
    assert (buffer == 7).all()


def test_a_forgotten_invalidate_shows(board, overlay):
    buffer = pynq.allocate((64,), "u1")
    buffer[:] = 1
    buffer.flush()
    board._memory[buffer.device_address + 3] = 9  # as the core would
    assert buffer[3] == 1
    buffer[:2].invalidate()
    assert buffer[3] == 1, "only the part that was asked for"
    buffer[2:8].invalidate()
    assert buffer[3] == 9


def test_parts_have_addresses(overlay):
    buffer = pynq.allocate((4, 8), "u4")
    assert buffer.device_address % 4096 == 0
    assert buffer[2:].device_address == buffer.device_address + 64
    assert buffer[1, 3:].device_address == buffer.device_address + 44


def test_memory_runs_out_and_comes_back(board, overlay):
    whole = board.default_memory.free_bytes
    half = pynq.allocate((whole // 2,), "u1")
    with pytest.raises(RuntimeError, match="BO allocation failed"):
        pynq.allocate((whole // 2 + 4096,), "u1")
    assert board.default_memory.free_bytes == whole - half.nbytes
    del half
    gc.collect()
    assert board.default_memory.free_bytes == whole
    with pynq.allocate((whole,), "u1") as everything:
        assert board.default_memory.free_bytes == 0
        assert everything.nbytes == whole
    assert board.default_memory.free_bytes == whole


def test_gaps_are_filled(board, overlay):
    blocks = [pynq.allocate((4096 * 4,), "u1") for _ in range(3)]
    hole = blocks[1].device_address
    blocks[1].freebuffer()
    assert pynq.allocate((4096 * 5,), "u1").device_address > blocks[2].device_address
    assert pynq.allocate((4096 * 4,), "u1").device_address == hole


def test_new_buffers_hold_no_zeros(overlay):
    assert np.asarray(pynq.allocate((8,), "u1")).all()
