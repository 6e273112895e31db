"""Whole programs on the HLS core, in C simulation and natively: every byte equals golden's."""

import numpy as np
import pytest

from skipstone.build import build_image
from skipstone.spec.config import CONFIGS, CoreConfig
from skipstone.spec.errors import CoreErrorCode
from skipstone_sim.lockstep import input_records
from skipstone_sim.malformed import ADDRESSES, MALFORMED, find, rewrite
from skipstone_sim.walks import random_image, random_walk, with_rooms

pytestmark = pytest.mark.xdist_group("hls")

TINY, SMALL = CONFIGS["sim-tiny"], CONFIGS["sim-small"]


def core(**fields):
    """A core of another form."""
    base = {
        "name": "test", "rows": 32, "columns": 16, "lanes": 4, "ports": 4, "port_bits": 512,
        "group": 32, "max_hidden": 256, "max_ffn": 512, "max_query": 256, "max_context": 128,
        "max_chunk": 40, "max_layers": 6,
    }  # fmt: skip
    return CoreConfig(**(base | fields))


FORMS = {
    "32 by 16, groups of 32": core(),
    "32 by 16, groups of 128": core(group=128),
    "64 by 32": core(rows=64, columns=32, port_bits=1024, ports=8, group=64),
    "16 by 32": core(rows=16, columns=32, max_chunk=64),
    "32 by 8": core(rows=32, columns=8, ports=2),
    "128 by 32": core(rows=128, columns=32, group=128, ports=16, port_bits=1024, min_head_dim=64),
    "128 by 4": core(rows=128, columns=4, group=128, min_head_dim=64),
}

ENGINES = [("ap_int", TINY), ("native", TINY), ("native", SMALL), ("fast", TINY)]
ENGINES += [(name, SMALL) for name in ("plain", "vectors", "fast")]
IDS = [f"{engine}, {config.name}" for engine, config in ENGINES]


@pytest.fixture(params=ENGINES, ids=IDS)
def both(request, golden_and):
    return golden_and(*request.param)


@pytest.mark.parametrize("kv_rule", ["kv_reuse", "kv_recompute"])
def test_the_shipped_model(both, kv_rule):
    image = build_image("nano", both.actual.config, kv_rule=kv_rule)
    both.load(image)
    ids = [0, 385, 268, 79, 281, 12, 300, 44, 5, 17, 101]
    both.kick(input_records(ids[:8]))
    both.kick(input_records(ids[8:]), position=8, mode=2)
    both.kick(input_records([344]), position=len(ids), steps=4)
    both.kick(input_records([7, 8, 9]), position=5, steps=2, mode=1)


@pytest.mark.parametrize("seed", range(3))
def test_random_walks(both, seed):
    rng = np.random.default_rng(seed)
    image = random_image(both.actual.config, rng, largest=3)
    both.load(image)
    random_walk(both, image, rng, 8)


@pytest.mark.parametrize("name", FORMS)
def test_cores_of_other_forms(golden_and, name):
    """Every way in which the native products lie in memory."""
    both = golden_and("fast", FORMS[name])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        image = random_image(both.actual.config, rng)
        both.load(image)
        random_walk(both, image, rng, 8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 60))
def test_many_random_walks(both, seed):
    rng = np.random.default_rng(seed)
    image = random_image(both.actual.config, rng, largest=8)
    both.load(image)
    random_walk(both, image, rng, 20)


def test_up_to_the_capacity(both):
    rng = np.random.default_rng(4)
    image = random_image(both.actual.config, rng, largest=1)
    both.load(image)
    most, position = both.actual.config.max_chunk, 0
    while position < 128:
        n = min(most, 128 - position)
        both.kick(input_records(rng.integers(0, image.model["vocabulary"], n)), position=position)
        position += n


@pytest.mark.parametrize("seed", range(2))
def test_stores_that_fill(both, seed):
    rng = np.random.default_rng(seed)
    image = random_image(both.actual.config, rng, largest=2)
    image = with_rooms(image, rng.integers(8, 40, image.model["layers"]).tolist())
    both.load(image)
    assert random_walk(both, image, rng, 12) >= 2


# -- errors ----------------------------------------------------------------------------------------

TOKENS = [1, 0, 1, 1]


def prepared(both, **changes):
    """A small model, and a run of a chunk in which all tokens execute everything."""
    image = random_image(both.actual.config, np.random.default_rng(7), largest=1)
    both.load(image)
    whole = [(1 << image.model["layers"]) - 1] * len(TOKENS)
    records = input_records(TOKENS, maps=(whole, whole))
    return both.request(records, **({"steps": 1, "mode": 1} | changes))


def check_both_fail(both, run, code):
    pc = both.fail(run, code)
    # The next run is exact, without a reset.
    both.load(both.image)
    both.kick(input_records(TOKENS), steps=1, mode=1)
    return pc


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"chunk_tokens": 0}, CoreErrorCode.KV_OVERFLOW),
        ({"chunk_tokens": 65}, CoreErrorCode.KV_OVERFLOW),
        ({"chunk_tokens": 2**32 - 1}, CoreErrorCode.KV_OVERFLOW),
        ({"position": 125}, CoreErrorCode.KV_OVERFLOW),
        ({"position": 2**32 - 1}, CoreErrorCode.KV_OVERFLOW),
        ({"program_length": 0}, CoreErrorCode.BAD_OPCODE),
        ({"program_length": 2**32 - 1}, CoreErrorCode.BAD_OPCODE),
        ({"program_address": 2**32 - 1}, CoreErrorCode.ADDRESS_RANGE),
    ],
)
def test_impossible_runs(both, changes, code):
    check_both_fail(both, prepared(both, **changes), code)


def test_an_unknown_token(both):
    run = prepared(both)
    both.write("input", input_records([0, 1, 2**32 - 1, 0]))
    assert check_both_fail(both, run, CoreErrorCode.TOKEN_RANGE) == 3


@pytest.mark.parametrize("pc", [0, 4, 9])
def test_a_flipped_bit(both, pc):
    run = prepared(both)
    raw = np.array(both.image.sections["program"].data)
    raw[32 * pc + 5] ^= 4
    both.write("program", raw)
    assert check_both_fail(both, run, CoreErrorCode.PROGRAM_CRC) == pc


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_fields(both, name):
    run = prepared(both)
    opcode, epilogue, fields = MALFORMED[name]
    pc = find(both, opcode, epilogue)
    rewrite(both, pc, **fields)
    assert check_both_fail(both, run, CoreErrorCode.BAD_OPCODE) == pc


@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses_out_of_range(both, name):
    run = prepared(both)
    opcode, epilogue, field = ADDRESSES[name]
    rewrite(both, find(both, opcode, epilogue), **{field: both.image.words})
    check_both_fail(both, run, CoreErrorCode.ADDRESS_RANGE)
