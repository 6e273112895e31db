"""A core whose units lie in two super logic regions, registers between them: the same bits."""

import numpy as np
import pytest

from skipstone.spec.errors import CoreErrorCode, DeviceError, DeviceTimeoutError
from skipstone.spec.registers import Mode
from skipstone_sim.lockstep import input_records
from skipstone_sim.verilated import Channel, MemoryModel, Response
from skipstone_sim.walks import random_walk

pytestmark = [pytest.mark.rtl, pytest.mark.xdist_group("core")]

CORE = "sim-tiny, two regions"


def tokens(image, n):
    return np.random.default_rng(n).integers(0, image.model["vocabulary"], n)


@pytest.mark.parametrize("skip", [0.0, 0.5, 0.9])
def test_chunks_and_steps(lockstep, random_image, skip):
    """Skipped tokens, wrong guesses, hits of the history buffer, and going back."""
    both = lockstep(CORE)
    image = random_image(CORE, layers=4, heads=4, kv_heads=2, skip=skip, seed=11)
    both.load(image)
    for at, n in ((0, 8), (8, 8), (16, 3)):
        both.kick(input_records(tokens(image, n)), position=at, mode=Mode.ALL_LOGITS)
    both.kick(input_records(tokens(image, 1)), position=19, steps=12)
    both.kick(input_records(tokens(image, 5)), position=7, steps=2)
    counted = both.actual.counters()
    assert counted["history_hits"] > 0
    assert counted["words_unneeded"] > 0


@pytest.mark.parametrize(
    "memory",
    [None, MemoryModel(latency=3, stall=0.5), MemoryModel(latency=1, outstanding=16)],
    ids=["even", "stalling", "near"],
)
def test_random_walks(lockstep, random_image, memory):
    both = lockstep(CORE, memory=memory, seed=2)
    image = random_image(CORE, layers=4, heads=2, kv_heads=2, seed=3, vocab=20)
    both.load(image)
    random_walk(both, image, np.random.default_rng(5), 8)


def test_runs_that_end_early(lockstep, random_image):
    """Errors and resets wherever the run may be; the next run is exact, on what they left."""
    both = lockstep(CORE)
    both.load(random_image(CORE, layers=2, heads=2, kv_heads=2))
    part = input_records([3, 1, 4, 1, 5, 9])

    def check():
        both.actual.clear_faults()
        both.copy_memory()
        both.kick(part, steps=2)

    sections = both.image.sections
    for where, at in (("weights", 0), ("weights", 700), ("kv", 0), ("routers", 0)):
        first = sections[where].address + at
        last = sections[where].end - 1 if where == "kv" else first + 3
        both.actual.inject_fault(0, Response.SLVERR, first=first, last=last, count=1)
        both.actual.start(both.request(part, steps=1, mode=1))
        with pytest.raises(DeviceError) as caught:
            both.actual.wait(60)
        assert caught.value.code is CoreErrorCode.READ_RESPONSE
        check()
    both.actual.inject_fault(0, Channel.R)
    both.actual.start(both.request(part))
    with pytest.raises(DeviceError) as caught:
        both.actual.wait(60)
    assert caught.value.code is CoreErrorCode.WATCHDOG
    both.actual.clear_faults()
    for seconds in (0.0, 0.001, 0.01):
        both.actual.reset()
        check()
        both.actual.start(both.request(part, steps=20))
        with pytest.raises(DeviceTimeoutError):
            both.actual.wait(seconds)
    both.actual.reset()
    check()
