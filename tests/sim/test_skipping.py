"""Decision maps of every kind on the gateware: after each run every byte of memory equals golden's.

Each token of a sequence has a map of its own, so one sequence holds as many maps as tokens.
"""

import numpy as np
import pytest

from skipstone.runtime import Engine, First, SkipDecode
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import KvRoomError
from skipstone.spec.records import OUTPUT_RECORD, RECORD_BYTES, decisions_of, force_decisions
from skipstone_sim.lockstep import input_records
from skipstone_sim.verilated import MemoryModel
from skipstone_sim.walks import random_walk, with_rooms

pytestmark = [pytest.mark.rtl, pytest.mark.xdist_group("core")]

TINY, SMALL = "sim-tiny", "sim-small"
STALLING = MemoryModel(latency=12, stall=0.3)


def one_layer(tokens, layers, layer):
    """Everything in this layer, nothing in the others."""
    decisions = np.zeros((tokens, layers, 2), np.bool_)
    decisions[:, layer] = True
    return decisions


def alternating(tokens, layers):
    """Attention in the even layers and the MLP in the odd ones; every other token the reverse."""
    place = np.add.outer(np.arange(tokens), np.arange(layers))
    return (np.add.outer(place, np.arange(2)) % 2 == 0).reshape(tokens, layers, 2)


def routed(rng, tokens, layers):
    """No map: the routers decide."""
    return None


KINDS = [
    lambda rng, tokens, layers: np.ones((tokens, layers, 2), np.bool_),
    lambda rng, tokens, layers: np.zeros((tokens, layers, 2), np.bool_),
    lambda rng, tokens, layers: alternating(tokens, layers),
    lambda rng, tokens, layers: one_layer(tokens, layers, 0),
    lambda rng, tokens, layers: one_layer(tokens, layers, layers - 1),
    lambda rng, tokens, layers: ~one_layer(tokens, layers, 0),
    lambda rng, tokens, layers: ~one_layer(tokens, layers, layers - 1),
    lambda rng, tokens, layers: rng.random((tokens, layers, 2)) < rng.random((tokens, 1, 1)),
    lambda rng, tokens, layers: rng.random((tokens, layers, 2)) < 0.75,
    lambda rng, tokens, layers: rng.random((tokens, layers, 2)) < 0.25,
    routed,
]


def check_maps(both, image, rng, *, length, single=0.5):
    """A sequence in chunks of random lengths, half of them single tokens, each of another kind.

    Once in a while it goes back. Returns how many maps were checked.
    """
    layers, most = image.model["layers"], image.config.max_chunk
    position = maps = 0
    kinds = []
    while position < length:
        if rng.random() < 0.05:
            position -= int(rng.integers(0, position + 1))
        kinds = kinds or list(rng.permutation(len(KINDS)))
        tokens = 1 if rng.random() < single else int(rng.integers(1, most + 1))
        tokens = min(tokens, length - position)
        part = input_records(rng.integers(0, image.model["vocabulary"], tokens))
        decisions = KINDS[kinds.pop()](rng, tokens, layers)
        if decisions is not None:
            force_decisions(part, decisions)
        both.kick(part, position=position)
        if decisions is not None:
            raw = both.actual.read(
                image.sections["records"].address, (position + tokens) * RECORD_BYTES
            )
            records = raw.view(OUTPUT_RECORD)[position:]
            assert (decisions_of(records, layers) == decisions).all()
            maps += tokens
        position += tokens
    return maps


@pytest.mark.parametrize("kv_rule", ["kv_reuse", "kv_recompute"])
def test_maps(lockstep, random_image, kv_rule):
    both = lockstep(TINY, memory=STALLING, seed=3)
    rng = np.random.default_rng(12)
    maps = 0
    for shape, length in (
        ({"layers": 6, "heads": 4, "kv_heads": 2, "capacity": 192}, 120),
        ({"layers": 3, "heads": 1, "kv_heads": 1}, 60),
    ):
        image = random_image(TINY, kv_rule=kv_rule, **shape)
        both.load(image)
        maps += check_maps(both, image, rng, length=length)
    assert maps > 140


def test_maps_where_heads_share_words(lockstep, random_image):
    both = lockstep(SMALL, memory=STALLING, seed=4)
    image = random_image(SMALL, layers=5, heads=4, kv_heads=2)
    both.load(image)
    assert check_maps(both, image, np.random.default_rng(13), length=64) > 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_maps(lockstep, random_image, seed):
    rng = np.random.default_rng(seed)
    core = (TINY, SMALL)[seed % 2]
    memory = MemoryModel(latency=int(rng.integers(1, 60)), stall=float(rng.random()) / 2)
    kv_heads = int(rng.integers(1, 5))
    capacity = CONFIGS[core].max_context
    image = random_image(
        core,
        layers=int(rng.integers(1, 9)),
        heads=kv_heads * int(rng.integers(1, 2 if core == TINY else 3)),
        kv_heads=kv_heads,
        kv_rule=("kv_reuse", "kv_recompute")[seed // 2 % 2],
        capacity=capacity,
        seed=seed,
    )
    both = lockstep(core, memory=memory, seed=seed)
    both.load(image)
    check_maps(both, image, rng, length=capacity, single=float(rng.random()))


def test_schedules_need_no_hardware(lockstep, random_image):
    """SkipDecode and FiRST through the engine: the same text and maps on both devices."""
    both = lockstep(TINY)
    image = random_image(TINY, layers=5)
    prompt = [3, 9, 27, 1, 3, 9, 27, 1, 3]
    for make in (lambda: SkipDecode(5, begin=8, end=16, least=2), lambda: First(9)):
        outcomes = []
        for device in (both.expected, both.actual):
            generation = Engine(device, image).generate(prompt, 12, decisions=make())
            outcomes.append((list(generation), generation.statistics.decisions))
        (expected, wanted), (got, decisions) = outcomes
        assert got == expected
        assert (decisions == wanted).all()
        assert 0 < generation.statistics.attention_skipped < 1


# -- room for keys and values ----------------------------------------------------------------------


@pytest.mark.parametrize("kv_rule", ["kv_reuse", "kv_recompute"])
@pytest.mark.parametrize("core", [TINY, SMALL])
def test_stores_that_fill(lockstep, random_image, core, kv_rule):
    """At any layer: the same error in both, and the sequence before it goes on."""
    both = lockstep(core)
    rng = np.random.default_rng(21)
    image = random_image(core, layers=5, heads=2, kv_heads=2, kv_rule=kv_rule)
    image = with_rooms(image, rng.integers(12, 40, 5).tolist())
    both.load(image)
    assert random_walk(both, image, rng, 14) >= 3


def test_smaller_stores(lockstep, random_image):
    """Where a layer's store ends, the next one's begins."""
    both = lockstep(TINY)
    shares = (0.0, 0.9, 0.5, 0.7, 0.3)
    fields = {"layers": 5, "heads": 2, "kv_heads": 2, "capacity": 192}
    image = random_image(TINY, kv_skip=shares, **fields)
    assert image.model["kv_room"] == [192, 64, 128, 64, 192]
    whole = random_image(TINY, **fields)
    assert image.sections["kv"].words * 15 == whole.sections["kv"].words * 10
    both.load(image)
    rng = np.random.default_rng(22)
    for position in range(0, 184, 8):
        part = input_records(rng.integers(0, image.model["vocabulary"], 8))
        executed = rng.random((8, 5, 2)) < [[[0.9], [0.2], [0.6], [0.3], [0.9]]]
        force_decisions(part, executed)
        both.kick(part, position=position)


def test_a_full_store_is_explained(lockstep, random_image):
    """The error names layer and room; the tokens before the chunk stay and others follow them."""
    both = lockstep(TINY)
    rooms = [64, 64, 11, 64]
    image = with_rooms(random_image(TINY, layers=4, heads=2, kv_heads=2), rooms)
    attending, skipping = np.ones((2, 4, 2), np.bool_)
    skipping[2] = False
    texts = []
    for device in (both.expected, both.actual):
        engine = Engine(device, image)
        engine.forward(range(8), decisions=attending)
        with pytest.raises(KvRoomError, match=r"layer 2 has room .* of 11 tokens") as caught:
            engine.forward(range(16), 8, decisions=attending)
        assert (caught.value.layer, caught.value.room, engine.length) == (2, 11, 8)
        engine.forward(range(3), 8, decisions=attending)  # to the last place
        result = engine.forward(range(16), 11, decisions=skipping)
        space = engine.kv_space()
        assert space.stored_bytes < space.reserved_bytes
        texts.append(result.logits)
    assert (texts[0] == texts[1]).all()
