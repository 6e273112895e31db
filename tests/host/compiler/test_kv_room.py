"""How much of the KV store each layer gets."""

from dataclasses import replace

import numpy as np
import pytest

from skipstone.compiler import kv_rooms, plan_image
from skipstone.model import ModelConfig
from skipstone.runtime import KvSpace
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import ConfigError
from skipstone.spec.isa import Epilogue, Opcode
from skipstone.spec.layout import KvLayout

SHAPE = ModelConfig(
    name="m", hidden=128, layers=4, heads=4, kv_heads=2, head_dim=32, ffn=256, vocab=64,
    max_positions=512,
)  # fmt: skip
CORE = CONFIGS["sim-tiny"]


def test_rooms():
    assert kv_rooms(SHAPE, 512) == [512] * 4
    # Half, and a tenth more: 282 tokens.
    assert kv_rooms(SHAPE, 512, 0.5) == [512, 320, 320, 320]
    assert kv_rooms(SHAPE, 512, [0.9, 0.0, 0.25, 1.0]) == [512, 512, 448, 64]
    assert kv_rooms(replace(SHAPE, kv_rule="kv_recompute"), 512, 0.5) == [512] * 4


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.5], r"one for each of 4 layers, not 2"),
        ([0.0, 0.0, 1.5, 0.0], r"layer 2 must be between 0 and 1, not 1\.5"),
        (-0.25, r"layer 0 must be between 0 and 1, not -0\.25"),
    ],
)
def test_impossible_shares(shares, message):
    with pytest.raises(ConfigError, match=message):
        plan_image(SHAPE, CORE, 512, shares)


def test_stores_lie_one_behind_the_other():
    plan = plan_image(SHAPE, CORE, 512, [0.0, 0.9, 0.5, 0.3])
    layout = KvLayout(SHAPE.head_dim, SHAPE.kv_heads, CORE.word_bytes)
    at, words = plan.sections["kv"]
    program = plan.program()
    stores = [i.a for i in program if i.opcode is Opcode.ROUTE]
    rooms = [i.a for i in program if i.epilogue is Epilogue.KEY]
    assert rooms == plan.manifest(routed=True)["kv_room"] == [512, 64, 320, 448]
    for store, room in zip(stores, rooms, strict=True):
        assert store == at
        at += layout.words(room)
    assert at == plan.sections["kv"][0] + words


def test_what_is_reserved_is_reported():
    manifest = plan_image(SHAPE, CORE, 512, 0.5).manifest(routed=True)
    space = KvSpace.of(manifest, CORE.word_bytes, np.ones((3, 4, 2), np.bool_))
    assert space.reserved_bytes == (512 + 3 * 320) // 64 * 2 * (128 + 4) * CORE.word_bytes
    assert space.stored_bytes == 4 * 2 * (2 * 3 + 1) * CORE.word_bytes


def test_places():
    """Blocks of 64 tokens: keys, values and exponents of a head group behind each other."""
    layout = KvLayout(head_dim=64, kv_heads=3, word_bytes=128)
    assert (layout.head_groups, layout.group_words, layout.block_words) == (2, 130, 260)
    assert layout.places(1000, 0, 0) == (1000, 1064, 1128)
    assert layout.places(1000, 63, 1) == (1193, 1257, 1259)
    assert layout.places(1000, 64 + 33, 0) == (1293, 1357, 1389)
    assert layout.words(64) == 260
    assert layout.words(65) == 520
