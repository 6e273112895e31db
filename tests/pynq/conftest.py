"""Tests on the simulated PYNQ board. They run in .venv-pynq (see scripts/test); elsewhere, without
pynq, there is nothing to collect.
"""

import importlib.util
import warnings

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("pynq") else ["test_*.py"]

if not collect_ignore_glob:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pynq says about this computer not being a board
        importlib.import_module("pynq.lib")

    from skipstone.board.device import PynqDevice, load_overlay
    from skipstone.build import build_image
    from skipstone.spec.config import CONFIGS
    from skipstone_sim import pynq_board
    from skipstone_sim.overlay_files import write_overlay


@pytest.fixture
def board():
    """A simulated board without a bitstream."""
    plugged = pynq_board.plug_in(memory_bytes=64 << 20)
    yield plugged
    plugged.unplug()


@pytest.fixture(scope="session")
def overlay_path(tmp_path_factory):
    """Path of an overlay, written once: overlay_path(core, logic, style)."""
    written = {}

    def path(core="sim-tiny", logic="golden", style="zynq"):
        key = core, logic, style
        if key not in written:
            folder = tmp_path_factory.mktemp("-".join(key))
            written[key] = write_overlay(folder, CONFIGS[core], logic=logic, style=style)
        return written[key]

    return path


@pytest.fixture
def overlay(board, overlay_path):
    """sim-tiny, golden, loaded."""
    return load_overlay(overlay_path())


@pytest.fixture
def open_device(board, overlay_path):
    """Open the PYNQ device of an overlay; closed after the test."""
    opened = []

    def open_it(core="sim-tiny", logic="golden", style="zynq", **options):
        device = PynqDevice(bitstream=overlay_path(core, logic, style), **options)
        opened.append(device)
        return device

    yield open_it
    for device in opened:
        device.close()


@pytest.fixture(scope="session")
def image():
    return build_image("nano", CONFIGS["sim-tiny"])
