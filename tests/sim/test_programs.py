"""Whole programs on the gateware: after each run every byte of memory equals golden's.

`lockstep` compares memory, results and counters on its own; the tests choose what is run.
"""

from collections import Counter
from itertools import count

import numpy as np
import pytest

from skipstone.build import build_image
from skipstone.spec.config import CONFIGS
from skipstone.spec.records import OUTPUT_RECORD, RECORD_BYTES
from skipstone.spec.registers import Mode
from skipstone_sim.lockstep import input_records
from skipstone_sim.verilated import MemoryModel
from skipstone_sim.walks import random_walk

pytestmark = [pytest.mark.rtl, pytest.mark.xdist_group("core")]

TINY, SMALL = "sim-tiny", "sim-small"

ROUGH_MEMORIES = {
    "stalling": MemoryModel(latency=3, stall=0.5),
    "slow": MemoryModel(latency=30, bandwidth=0.2),
    "far": MemoryModel(latency=400),
    "one by one": MemoryModel(latency=10, outstanding=1, write_outstanding=1),
    "near": MemoryModel(latency=1, outstanding=16, write_outstanding=64),
}


def tokens(image, n, seed=0):
    return np.random.default_rng(seed).integers(0, image.model["vocabulary"], n)


def records(device, image, positions):
    """Output records of the positions below `positions`."""
    raw = device.read(image.sections["records"].address, positions * RECORD_BYTES)
    return raw.view(OUTPUT_RECORD)


def prefill(both, ids, *, chunk, position=0, **run):
    """Several chunks, the last one with what is left."""
    for at in range(0, len(ids), chunk):
        part = input_records(ids[at : at + chunk])
        result = both.kick(part, position=position + at, **run)
        assert result.tokens_done == len(part)
    return result


@pytest.mark.parametrize("kv_rule", ["kv_reuse", "kv_recompute"])
def test_the_shipped_model(lockstep, kv_rule):
    """A prompt in chunks of every size, then greedy steps on the device, then from further back."""
    both = lockstep(TINY)
    image = build_image("nano", CONFIGS[TINY], kv_rule=kv_rule)
    both.load(image)
    ids = [0, 385, 268, 79, 281, 12, 300, 44, 5, 17, 101]
    prefill(both, ids, chunk=8)
    both.kick(input_records([344]), position=len(ids), steps=6)
    both.kick(input_records([7, 8, 9]), position=5, steps=2, mode=Mode.LOGITS)


SHAPES = {
    "tiny, one head": (TINY, {"heads": 1, "kv_heads": 1}),
    "tiny, queries share a head": (TINY, {"heads": 4, "kv_heads": 2}),
    "tiny, four head groups": (TINY, {"heads": 4, "kv_heads": 4}),
    "tiny, uneven runs of groups": (TINY, {"hidden": 96, "ffn": 160}),
    "tiny, one group": (TINY, {"hidden": 32, "ffn": 32, "heads": 2, "kv_heads": 2}),
    "tiny, one layer": (TINY, {"layers": 1}),
    "tiny, every layer": (TINY, {"layers": 8}),
    "tiny, largest": (TINY, {"hidden": 128, "ffn": 384, "heads": 4, "kv_heads": 2, "vocab": 301}),
    "small, heads share a word": (SMALL, {"heads": 4, "kv_heads": 2}),
    "small, a word half full": (SMALL, {"heads": 3, "kv_heads": 3}),
    "small, two head groups": (SMALL, {"heads": 8, "kv_heads": 4}),
    "small, wide heads": (SMALL, {"head_dim": 64, "heads": 4, "kv_heads": 2}),
    "small, a lane for each query": (SMALL, {"head_dim": 64, "heads": 4, "kv_heads": 1}),
    "small, three queries a head": (SMALL, {"heads": 6, "kv_heads": 2, "ffn": 224}),
    "small, largest": (
        SMALL,
        {"hidden": 256, "ffn": 768, "head_dim": 64, "heads": 4, "kv_heads": 2, "layers": 3},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(lockstep, random_image, name):
    core, fields = SHAPES[name]
    both = lockstep(core)
    image = random_image(core, seed=3, **fields)
    both.load(image)
    most = CONFIGS[core].max_chunk
    prefill(both, tokens(image, most + 3), chunk=most, mode=Mode.LOGITS)
    both.kick(input_records(tokens(image, 1)), position=most + 3, steps=2)


@pytest.mark.parametrize("core", [TINY, SMALL])
def test_chunks_of_every_length(lockstep, random_image, core):
    both = lockstep(core)
    most = CONFIGS[core].max_chunk
    image = random_image(core, capacity=192)
    both.load(image)
    position = 0
    for n in range(1, most + 1):
        mode = (0, Mode.LOGITS, Mode.ALL_LOGITS)[n % 3]
        result = both.kick(input_records(tokens(image, n, n)), position=position, mode=mode)
        assert result.tokens_done == n
        position += n
    assert len(records(both.actual, image, position)) == most * (most + 1) // 2


@pytest.mark.parametrize("skip", [None, 0.0, 0.25, 0.6, 0.95])
@pytest.mark.parametrize("kv_rule", ["kv_reuse", "kv_recompute"])
def test_skip_rates(lockstep, random_image, kv_rule, skip):
    both = lockstep(TINY)
    image = random_image(TINY, layers=4, skip=skip, kv_rule=kv_rule, seed=11)
    both.load(image)
    prefill(both, tokens(image, 20), chunk=7)
    both.kick(input_records([3]), position=20, steps=5)
    executed = [both.actual.counters()[f"{name}_executed"] for name in ("attention", "mlp")]
    if skip is None:
        assert executed == [24, 24]


def forced_maps(layers):
    """Attention and MLP maps of a chunk of 6 tokens, by name."""
    whole = (1 << layers) - 1
    alternating = [0x55 & whole, 0xAA & whole] * 3
    rng = np.random.default_rng(5)
    return {
        "all": ([whole] * 6, [whole] * 6),
        "none": ([0] * 6, [0] * 6),
        "attention only": ([whole] * 6, [0] * 6),
        "mlp only": ([0] * 6, [whole] * 6),
        "alternating": (alternating, alternating[::-1]),
        "first layer": ([1] * 6, [1] * 6),
        "last layer": ([1 << layers - 1] * 6, [1 << layers - 1] * 6),
        "one token": ([0, 0, 0, whole, 0, 0], [0, whole, 0, 0, 0, 0]),
        "last token skips": ([whole] * 5 + [0], [whole] * 5 + [0]),
        "random": tuple(rng.integers(0, whole + 1, (2, 6))),
    }


@pytest.mark.parametrize("kv_rule", ["kv_reuse", "kv_recompute"])
@pytest.mark.parametrize("name", forced_maps(1))
def test_forced_maps(lockstep, random_image, kv_rule, name):
    both = lockstep(TINY)
    image = random_image(TINY, layers=5, kv_rule=kv_rule)
    both.load(image)
    ids = tokens(image, 13)
    maps = forced_maps(5)[name]
    both.kick(input_records(ids[:6], maps=maps))
    reported = records(both.actual, image, 6)
    assert reported["attention"].tolist() == list(maps[0])
    assert reported["mlp"].tolist() == list(maps[1])
    both.kick(input_records(ids[6:12], maps=maps), position=6)
    both.kick(input_records(ids[12:]), position=12, steps=3)


@pytest.mark.parametrize("core", [TINY, SMALL])
def test_history(lockstep, random_image, core):
    """Sequences shorter and longer than the history buffer; what it holds is not read."""
    both = lockstep(core)
    image = random_image(core, layers=4, heads=4, kv_heads=2, skip=0.5, capacity=64, seed=5)
    both.load(image)
    prefill(both, tokens(image, 40), chunk=8)
    sums = Counter()
    for position in range(40, 46):
        both.kick(input_records(tokens(image, 1, position)), position=position)
        sums.update(both.actual.counters())
    read = sums["history_fresh"] + sums["history_gaps"]
    assert sums["history_hits"] > 0
    assert read < sums["words_kv"] < 2 * read


def test_some_tokens_forced_and_some_routed(lockstep, random_image):
    both = lockstep(TINY)
    image = random_image(TINY, layers=3)
    both.load(image)
    rng = np.random.default_rng(2)
    part = input_records(tokens(image, 8), maps=tuple(rng.integers(0, 8, (2, 8))))
    part["flags"] = [1, 0, 1, 0, 0, 1, 1, 0]
    both.kick(part)
    both.kick(part[:3], position=8, steps=2)


@pytest.mark.parametrize("core", [TINY, SMALL])
@pytest.mark.parametrize("seed", range(2))
def test_random_walks(lockstep, random_image, core, seed):
    both = lockstep(core)
    image = random_image(core, layers=4, heads=4, kv_heads=2, seed=seed, vocab=20 + seed)
    both.load(image)
    random_walk(both, image, np.random.default_rng(seed), 12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 40))
def test_many_random_walks(lockstep, random_image, seed):
    rng = np.random.default_rng(seed)
    core = (TINY, SMALL)[seed % 2]
    kv_heads = int(rng.integers(1, 3))
    image = random_image(
        core,
        hidden=32 * int(rng.integers(1, 5)),
        ffn=32 * int(rng.integers(1, 9)),
        heads=kv_heads * int(rng.integers(1, 3)),
        kv_heads=kv_heads,
        layers=int(rng.integers(1, 8)),
        skip=float(rng.random()),
        kv_rule=("kv_reuse", "kv_recompute")[int(rng.integers(0, 2))],
        seed=seed,
    )
    memory = list(ROUGH_MEMORIES.values())[seed % len(ROUGH_MEMORIES)]
    both = lockstep(core, memory=memory, seed=seed)
    both.load(image)
    random_walk(both, image, rng, 30)


@pytest.mark.parametrize("name", ROUGH_MEMORIES)
def test_memories(lockstep, random_image, name):
    both = lockstep(TINY, memory=ROUGH_MEMORIES[name], seed=4)
    image = random_image(TINY, layers=3, heads=4, kv_heads=2)
    both.load(image)
    prefill(both, tokens(image, 13), chunk=5, mode=Mode.ALL_LOGITS)
    both.kick(input_records([1]), position=13, steps=3)


def test_ports_that_stall_apart(lockstep, random_image):
    both = lockstep(SMALL, memory=MemoryModel(latency=20, stall=0.6), seed=9)
    image = random_image(SMALL, layers=2, heads=4, kv_heads=2)
    both.load(image)
    prefill(both, tokens(image, 20), chunk=11, mode=Mode.LOGITS)


def test_up_to_the_capacity(lockstep, random_image):
    both = lockstep(TINY)
    image = random_image(TINY, layers=2, capacity=128)
    both.load(image)
    prefill(both, tokens(image, 125), chunk=8)
    result = both.kick(input_records([2]), position=125, steps=2)
    assert result.tokens_done == 3
    both.kick(input_records([2]), position=127)


def test_the_longest_context(lockstep, random_image):
    both = lockstep(TINY)
    capacity = CONFIGS[TINY].max_context
    image = random_image(TINY, layers=2, capacity=capacity)
    both.load(image)
    prefill(both, tokens(image, capacity), chunk=8)


def test_steps_end_at_the_end_token(lockstep, random_image):
    both = lockstep(TINY)
    image = random_image(TINY, seed=8)
    both.load(image)
    ids = tokens(image, 4)
    assert both.kick(input_records(ids), steps=20).tokens_done == 24
    generated = records(both.actual, image, 24)["next_token"][3:].tolist()
    end = generated[7]
    stop = next(n for n in count() if generated[n] == end)
    result = both.kick(input_records(ids), steps=20, eos_token=end)
    assert (result.tokens_done, result.next_token) == (4 + stop, end)


def test_steps_equal_single_runs(lockstep, random_image):
    both = lockstep(TINY)
    image = random_image(TINY, layers=3, seed=8)
    size = 16 * RECORD_BYTES
    kept = []
    for steps in (12, 0):
        both.load(image)
        position, part = 0, tokens(image, 4)
        while position < 16:
            result = both.kick(input_records(part), position=position, steps=steps)
            position += result.tokens_done
            part = [result.next_token]
        kept.append(both.actual.read(image.sections["records"].address, size))
    assert (kept[0] == kept[1]).all()


@pytest.mark.parametrize("back", [0, 1, 9, 16])
def test_rewinding(lockstep, random_image, back):
    both = lockstep(TINY)
    image = random_image(TINY, layers=4)
    both.load(image)
    prefill(both, tokens(image, 17), chunk=6)
    prefill(both, tokens(image, 9, seed=1), chunk=4, position=17 - back)
    both.kick(input_records([5]), position=26 - back, steps=3)


def test_one_model_after_another(lockstep, random_image):
    """Nothing of the first model, its sequence or its geometry stays."""
    both = lockstep(SMALL)
    for fields in ({"layers": 4}, {"head_dim": 64, "layers": 2}, {"hidden": 160, "heads": 4}):
        image = random_image(SMALL, seed=6, **fields)
        both.load(image)
        both.kick(input_records(tokens(image, 9)), steps=2)


def test_the_same_run_takes_the_same_cycles(lockstep, random_image):
    both = lockstep(TINY)
    image = random_image(TINY)
    both.load(image)
    cycles = []
    for _ in range(2):
        both.kick(input_records(tokens(image, 5)), steps=2)
        cycles.append(both.actual.counters()["cycles"])
    assert cycles[0] == cycles[1]
