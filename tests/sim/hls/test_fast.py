"""The fast device beyond the bits: mapped images, threads, time limits, traces, errors of use."""

import itertools
import time

import numpy as np
import pytest

from skipstone.build import build_image
from skipstone.devices import Run, device_names, open_device
from skipstone.runtime import Engine
from skipstone.spec.config import CONFIGS, CoreConfig
from skipstone.spec.errors import ConfigError, DeviceTimeoutError, ImageError, ToolError
from skipstone.spec.image import Image
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.hls import build
from skipstone_sim.hls.fast import FastDevice, Products
from skipstone_sim.lockstep import Lockstep, input_records
from skipstone_sim.random_model import random_shape
from skipstone_sim.synthetic_image import synthetic_image
from skipstone_sim.verify import verify
from skipstone_sim.walks import random_image, random_walk

pytestmark = pytest.mark.xdist_group("hls")

SMALL = CONFIGS["sim-small"]


@pytest.fixture
def device():
    opened = FastDevice(SMALL)
    yield opened
    opened.close()


def test_it_is_found_by_name():
    assert "fast" in device_names()
    opened = open_device("fast", SMALL, threads=1)
    assert opened.name == "fast"
    opened.close()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("products", Products)
def test_threads_change_no_bit(threads, products):
    opened = FastDevice(SMALL, threads=threads, products=products)
    both = Lockstep(GoldenDevice(SMALL), opened)
    rng = np.random.default_rng(threads)
    image = random_image(SMALL, rng, largest=8)
    both.load(image)
    random_walk(both, image, rng, 6)
    opened.close()


def test_idle_threads_sleep():
    opened = FastDevice(SMALL, threads=4)
    Engine(opened, build_image("nano", SMALL)).forward(list(range(16)))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1, "threads use processors between runs"
    opened.close()


def test_an_image_file_is_mapped(device, tmp_path):
    """Its pages are the file's; what is written stays in memory."""
    path = tmp_path / "model.img"
    build_image("stories", SMALL).save(path)
    original = path.read_bytes()
    image = Image.load(path)
    both = Lockstep(GoldenDevice(SMALL), device)
    both.load(image)
    assert any(isinstance(piece.data, np.memmap) for piece in device._pieces)
    both.kick(input_records([5, 6, 7]), steps=2, mode=1)
    weights = image.sections["weights"].address
    for one in (both.expected, both.actual):
        one.write(weights + 100, np.arange(64, dtype=np.uint8))
    both.kick(input_records([5, 6, 7]), position=5, steps=2, mode=1)
    assert path.read_bytes() == original


def test_a_matrix_in_two_pieces(device):
    """As when a program reads across the end of a mapped section."""
    both = Lockstep(GoldenDevice(SMALL), device)
    image = random_image(SMALL, np.random.default_rng(3))
    both.load(image)
    whole = device.read(0, image.words * SMALL.word_bytes)
    cuts = [0, *(np.arange(1, 40) * whole.size // 41).tolist(), whole.size]
    pieces = [type(device._pieces[0])(a, whole[a:b].copy()) for a, b in itertools.pairwise(cuts)]
    device._attach(pieces)
    random_walk(both, image, np.random.default_rng(3), 6)


def test_a_synthetic_image(tmp_path):
    core = CoreConfig(
        name="test", rows=32, columns=16, lanes=4, ports=4, port_bits=512, group=64,
        max_hidden=256, max_ffn=512, max_query=256, max_context=128, max_chunk=32, max_layers=4,
    )  # fmt: skip
    shape = random_shape(hidden=256, ffn=512, heads=4, kv_heads=2, head_dim=64, vocab=999)
    image = synthetic_image(shape, core, tmp_path / "large.bin", kv_capacity=128)
    opened = FastDevice(core)
    both = Lockstep(GoldenDevice(core), opened)
    both.load(image)
    random_walk(both, image, np.random.default_rng(1), 4)
    opened.close()


def test_a_run_that_takes_too_long(device):
    image = build_image("stories", SMALL)
    engine = Engine(device, image)
    engine.forward([1, 2, 3])
    run = Run(
        program_address=image.sections["program"].address,
        program_length=image.model["program_length"],
        position=3,
        chunk_tokens=1,
        steps=400,
    )
    device.start(run)
    with pytest.raises(RuntimeError, match="while the core runs"):
        device.start(run)
    with pytest.raises(DeviceTimeoutError, match="did not finish"):
        device.wait(0.0)
    device.reset()
    both = Lockstep(GoldenDevice(SMALL), device)
    both.load(image)
    both.kick(input_records([1, 2, 3]), steps=2)


def test_misuse(device):
    with pytest.raises(RuntimeError, match="without start"):
        device.wait()
    device.allocate(4)
    with pytest.raises(ValueError, match="beyond the allocated 256"):
        device.write(4, np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="beyond"):
        device.read(-1, 4)
    with pytest.raises(ImageError, match="compiled for core"):
        device.load(random_image(CONFIGS["sim-tiny"], np.random.default_rng(0)))
    with pytest.raises(ConfigError, match="threads must be at least 1"):
        FastDevice(SMALL, threads=0)
    device.close()
    with pytest.raises(RuntimeError, match="closed"):
        device.start(Run(program_address=0, program_length=1, position=0, chunk_tokens=1))


def test_missing_ap_types(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPSTONE_AP_TYPES", str(tmp_path))
    with pytest.raises(ToolError, match="must be a folder that holds"):
        build.ap_types()


# -- verify ----------------------------------------------------------------------------------------


def test_verify(device):
    image = build_image("nano", SMALL)
    report = verify(image, GoldenDevice(SMALL), [device], list(range(20)), tokens=6)
    assert report.identical


class Wrong(FastDevice):
    """Has one wrong weight."""

    def load(self, image):
        super().load(image)
        at = image.sections["weights"].address + 5
        raw = self.read(at, 1)
        self.write(at, raw ^ 1)


def test_verify_names_the_instruction():
    image = build_image("nano", SMALL)
    wrong = Wrong(SMALL)
    report = verify(image, GoldenDevice(SMALL), [wrong], list(range(20)), tokens=2)
    difference = report.difference
    assert not report.identical
    assert difference.tensor == "query"
    assert difference.layer == 0
    wrong.close()
