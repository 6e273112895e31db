"""The parts of the board package that need no board."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from skipstone.board.deadline import Programs, most_cycles
from skipstone.board.design import VLNV, kernel_arguments, used_registers
from skipstone.board.handoff import hardware_handoff
from skipstone.board.manifest import Manifest
from skipstone.board.ownership import Ownership
from skipstone.board.stripes import Stripes
from skipstone.board.xclbin import Bank, device_binary
from skipstone.build import build_image
from skipstone.devices import Run
from skipstone.runtime import Engine
from skipstone.spec import registers
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import BitstreamError, DeviceBusyError
from skipstone.spec.isa import decode_program
from skipstone_sim.overlay_files import write_overlay

SMALL = CONFIGS["sim-small"]


# -- metadata --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_handoff_has_every_register_and_port(name):
    config = CONFIGS[name]
    root = ElementTree.fromstring(hardware_handoff(config).partition("\n")[2])
    core = root.find(f".//MODULE[@VLNV='{VLNV}']")
    assert [r.get("NAME") for r in core.iter("REGISTER")] == [
        r.name for r in used_registers(config)
    ]
    masters = [b.get("NAME") for b in core.iter("BUSINTERFACE") if b.get("TYPE") == "MASTER"]
    assert masters == [f"m_axi_{p:02d}" for p in range(config.ports)]
    parameters = {p.get("NAME"): p.get("VALUE") for p in core.iter("PARAMETER")}
    assert int(parameters["CONFIG_HASH"], 16) == config.hash64


def test_metadata_are_reproducible():
    banks = [Bank("HBM[0]", 0, 1 << 28)]
    assert hardware_handoff(SMALL) == hardware_handoff(SMALL)
    assert device_binary(SMALL, banks) == device_binary(SMALL, banks)


def test_kernel_arguments():
    arguments = kernel_arguments(SMALL)
    assert [a.index for a in arguments] == list(range(len(arguments)))
    offsets = [a.offset for a in arguments]
    assert offsets == sorted(offsets)
    assert [a.name for a in arguments if a.port is not None] == ["PORT_BASE_0", "PORT_BASE_1"]
    assert all(
        registers.BY_NAME[a.name].access == "rw" and a.bytes == 4
        for a in arguments
        if a.port is None
    )


# -- manifest --------------------------------------------------------------------------------------


@pytest.fixture
def bitstream(tmp_path):
    return write_overlay(tmp_path, SMALL, logic="golden")


def test_manifest(bitstream):
    manifest = Manifest.read(bitstream)
    assert manifest.config == SMALL
    assert manifest.board == "simulated-zynq"


def damage(bitstream, **changes):
    path = bitstream.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256 is"),
        ({"config_hash": "1"}, "configuration hash is 0000000000000001, but its fields give"),
        ({"config_hash": "x"}, "malformed manifest"),
        ({"version": 99}, f"has version 99, this package is for version {registers.VERSION}"),
        ({"format": 2}, "format must be 1, not 2"),
        ({"config": {}}, "malformed manifest"),
    ],
)
def test_wrong_manifests(bitstream, changes, message):
    damage(bitstream, **changes)
    with pytest.raises(BitstreamError, match=message):
        Manifest.read(bitstream)


@pytest.mark.parametrize("suffix", [".bit", ".json"])
def test_missing_files(bitstream, suffix):
    bitstream.with_suffix(suffix).unlink()
    with pytest.raises(BitstreamError, match=rf"skipstone\{suffix} is not there"):
        Manifest.read(bitstream)


# -- stripes ---------------------------------------------------------------------------------------


def test_stripes():
    rng = np.random.default_rng(3)
    for ports, width in ((1, 32), (2, 16), (4, 64)):
        synced = []
        buffers = [np.zeros(50 * width, np.uint8) for _ in range(ports)]
        stripes = Stripes(
            buffers, width,
            flush=lambda p, a, n, log=synced: log.append(("out", p, a, n)),
            invalidate=lambda p, a, n, log=synced: log.append(("in", p, a, n)),
        )  # fmt: skip
        word = ports * width
        model = np.zeros(50 * word, np.uint8)
        for _ in range(40):
            address = int(rng.integers(0, 49))
            data = rng.integers(0, 256, rng.integers(0, (50 - address) * word + 1)).astype(np.uint8)
            stripes.write(address, data)
            model[address * word :][: data.size] = data
            count = int(rng.integers(0, (50 - address) * word + 1))
            assert (stripes.read(address, count) == model[address * word :][:count]).all()
        whole = np.stack([b.reshape(50, width) for b in buffers], axis=1).reshape(-1)
        assert (whole == model).all()
        del synced[:]
        stripes.write(2, np.ones(word + 3, np.uint8))
        assert synced[0] == ("out", 0, 2 * width, width + 3)
        assert synced[1:] == [("out", p, 2 * width, width) for p in range(1, ports)]


def test_long_writes_report_progress():
    stripes = Stripes(
        [np.zeros(20 << 20, np.uint8)], 32, flush=lambda *_: None, invalidate=lambda *_: None
    )
    reports = []
    stripes.write(0, np.ones(20 << 20, np.uint8), lambda *r: reports.append(r))
    assert reports == [(n << 20, 20 << 20) for n in (8, 16, 20)]
    assert stripes.read(0, 20 << 20).all()


# -- deadlines -------------------------------------------------------------------------------------


@pytest.mark.rtl
def test_no_run_comes_near_its_bound():
    """The bound holds with room to spare on the gateware, and is not absurd."""
    from skipstone_sim.rtl import RtlDevice

    config = CONFIGS["sim-tiny"]
    image = build_image("nano", config)
    device = RtlDevice(config)
    engine = Engine(device, image)
    program = decode_program(np.asarray(image.sections["program"].data).tobytes())
    for count in (1, 8):
        cycles = engine.forward(list(range(5, 5 + count))).counters["cycles"]
        run = Run(program_address=0, program_length=len(program), position=0, chunk_tokens=count)
        assert 8 * cycles < most_cycles(program, config, run) < 400 * cycles
    device.close()


def test_steps_and_positions_take_longer():
    image = build_image("nano", SMALL)
    program = decode_program(np.asarray(image.sections["program"].data).tobytes())

    def bound(**fields):
        base = {"program_address": 0, "program_length": 33, "position": 0, "chunk_tokens": 1}
        return most_cycles(program, SMALL, Run(**(base | fields)))

    assert bound() < bound(position=300) < bound(position=300, chunk_tokens=16)
    assert bound(steps=10) > 10 * bound()


def test_programs_are_decoded_again_when_overwritten():
    image = build_image("nano", SMALL)
    section = image.sections["program"]
    memory = np.zeros(200 * 64, np.uint8)
    memory[: section.data.size] = section.data
    reads = []

    def read(address, count):
        reads.append(address)
        return memory[address * 64 :][:count]

    programs = Programs(SMALL, read)
    run = Run(program_address=0, program_length=33, position=0, chunk_tokens=1)
    assert len(programs.get(run)) == 33
    programs.written(17, 64)
    programs.get(run)
    assert len(reads) == 1
    memory[5] ^= 1
    programs.written(16, 1)
    assert programs.get(run) is None
    assert len(reads) == 2


# -- ownership -------------------------------------------------------------------------------------


def test_ownership(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = Ownership("a/b")
    Ownership("other").release()
    with pytest.raises(DeviceBusyError, match=r"the device 'a/b' is in use by this process"):
        Ownership("a/b")
    first.release()
    first.release()
    Ownership("a/b").release()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "skipstone-a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceBusyError, match=r"the device 'a' cannot be locked"):
        Ownership("a")
    assert not (tmp_path / "elsewhere").exists()
