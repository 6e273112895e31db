"""The PYNQ device: the contract, and the same tokens as golden."""

import asyncio

import numpy as np
import pytest

import skipstone
from skipstone.board.device import load_overlay
from skipstone.build import build_image
from skipstone.runtime import Engine, Sampler
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import ConfigError
from skipstone_sim.golden import GoldenDevice

PROMPT = list(range(5, 25))


def tokens(device, image, count=8, **options):
    generation = Engine(device, image).generate(PROMPT, count, **options)
    for _ in generation:
        pass
    return generation


@pytest.fixture(scope="module")
def expected(image):
    return tokens(GoldenDevice(image.config), image)


@pytest.mark.parametrize("style", ["zynq", "alveo"])
def test_same_tokens_as_golden(open_device, image, expected, style):
    generation = tokens(open_device(style=style), image)
    assert generation.tokens == expected.tokens
    assert (
        generation.statistics.decode.counters["words_weights"]
        == (expected.statistics.decode.counters["words_weights"])
    )


@pytest.mark.rtl
@pytest.mark.parametrize("style", ["zynq", "alveo"])
def test_same_tokens_on_the_gateware(open_device, image, expected, style):
    device = open_device(logic="rtl", style=style)
    generation = tokens(device, image, steps_per_run=3)
    assert generation.tokens == expected.tokens
    assert device.ip.cycles == device.counters()["cycles"] > 0
    assert device.ip.words_weights > 0


@pytest.mark.parametrize("logic", ["golden", pytest.param("rtl", marks=pytest.mark.rtl)])
def test_one_interrupt_for_a_run(board, open_device, image, logic):
    """None comes twice, though pynq acknowledges the controller before the core's line falls."""
    device = open_device(logic=logic)
    before = board.kernel.count
    tokens(device, image, 4)
    prefill, decode = -(-len(PROMPT) // image.config.max_chunk), 3
    assert board.kernel.count - before == prefill + decode


@pytest.mark.rtl
def test_two_ports_on_the_gateware(open_device):
    image = build_image("nano", CONFIGS["sim-small"])
    expected = tokens(GoldenDevice(image.config), image, 4).tokens
    assert tokens(open_device("sim-small", "rtl"), image, 4).tokens == expected


def test_ports_are_striped(open_device, image):
    """Two ports: each buffer holds its share of every word."""
    device = open_device("sim-small")
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, 10 * 64 + 40).astype(np.uint8)
    device.allocate(20)
    assert not device.read(0, 20 * 64).any()
    device.write(3, data)
    assert (device.read(3, data.size) == data).all()
    assert (device.read(5, 100) == data[128:228]).all()
    memory = device.overlay.device._memory
    for port, buffer in enumerate(device._buffers):
        at = buffer.device_address + 3 * 32
        stripe = memory[at : at + 10 * 32].reshape(10, 32)
        assert (stripe == data[:640].reshape(10, 2, 32)[:, port]).all()
    for address, count in ((-1, 4), (0, 20 * 64 + 1), (20, 1)):
        with pytest.raises(ValueError, match="beyond the allocated"):
            device.read(address, count)
    with pytest.raises(ValueError, match="beyond the allocated"):
        device.write(19, data[:65])


def test_progress(open_device, image):
    lines = []
    device = open_device(progress=lines.append)
    device.load(image)
    assert lines[0].startswith("loading")
    assert lines[-1] == "uploading 0.2 of 0.2 MB"


def test_memory_is_given_back(board, open_device, image):
    device = open_device()
    before = board.default_memory.free_bytes
    for _ in range(3):
        device.load(image)
    used = before - board.default_memory.free_bytes
    assert used == -(-image.words * image.config.word_bytes // 4096) * 4096
    device.close()
    device.close()
    assert board.default_memory.free_bytes == before


def test_an_overlay_that_is_loaded_already(board, overlay_path, open_device, image, expected):
    overlay = load_overlay(overlay_path())
    device = open_device(overlay=overlay)
    assert device.ip is overlay.skipstone_0
    assert tokens(device, image).tokens == expected.tokens


def test_the_wrong_configuration(open_device):
    with pytest.raises(ConfigError, match=r"holds core 'sim-tiny' \(.*\), not 'sim-small'"):
        open_device(config=CONFIGS["sim-small"])


def test_waiting_in_an_event_loop(open_device, image, expected):
    """A notebook has a running loop: both ways of waiting work there."""
    device = open_device()

    async def cell():
        sync = tokens(device, image).tokens
        engine = Engine(device, image)
        engine.forward(PROMPT)  # the program is there; run it again, awaiting the interrupt
        run = device_run(device, engine)
        device.start(run)
        result = await device.ip.wait_async(30)
        return sync, result

    loop = asyncio.get_event_loop_policy().get_event_loop()
    sync, result = loop.run_until_complete(cell())
    assert sync == expected.tokens
    assert result.tokens_done == 1


def device_run(device, engine):
    """Decode one token at the end of what `forward` left."""
    from skipstone.devices import Run

    engine._mailbox.write_tokens([7], None)
    model, program = engine.image.model, engine.image.sections["program"]
    return Run(
        program_address=program.address,
        program_length=model["program_length"],
        position=engine.length,
        chunk_tokens=1,
    )


def test_sampling_reads_logits(open_device, image):
    sampled = tokens(open_device(), image, sampler=Sampler(0.8, seed=3)).tokens
    golden = tokens(GoldenDevice(image.config), image, sampler=Sampler(0.8, seed=3)).tokens
    assert sampled == golden


def test_llm(open_device, overlay_path):
    """By name, with a bitstream; or on a device that is open already."""
    with skipstone.LLM("nano", "pynq", bitstream=overlay_path()) as llm:
        text = llm.generate("Tom has", max_tokens=6)
        assert llm.device.config.name == "sim-tiny"
    golden = skipstone.LLM("nano", "golden", core="sim-tiny").generate("Tom has", max_tokens=6)
    assert text.tokens == golden.tokens
    assert (text.executed == golden.executed).all()
    llm = skipstone.LLM("nano", open_device())
    assert "".join(llm.generate("Tom has", 6, stream=True)) == golden.text
