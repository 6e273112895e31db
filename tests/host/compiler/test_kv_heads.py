"""Models whose query heads share KV heads, on cores with fewer lanes."""

from dataclasses import replace

import numpy as np
import pytest

from skipstone.compiler import compile_model, plan_image
from skipstone.compiler.kv_heads import RepeatedKvHeads, with_served_heads
from skipstone.model import named_shape
from skipstone.runtime import Engine
from skipstone.spec.config import CONFIGS
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.random_model import random_model, random_shape

CORE = CONFIGS["sim-tiny"]
SHAPE = random_shape(heads=4, kv_heads=1, hidden=128)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "lanes", "wanted"),
    [
        (4, 1, 4, 1),
        (4, 1, 2, 2),
        (4, 1, 1, 4),
        (4, 1, 3, 2),
        (6, 2, 2, 6),
        (6, 1, 3, 2),
        (4, 4, 1, 4),
    ],
)
def test_heads_that_are_served(heads, kv_heads, lanes, wanted):
    shape = random_shape(heads=heads, kv_heads=kv_heads)
    assert with_served_heads(shape, replace(CORE, lanes=lanes)).kv_heads == wanted


def test_rows_of_k_and_v_are_repeated():
    model = random_model(replace(SHAPE, kv_heads=2), group=CORE.group)
    taller = dict(RepeatedKvHeads(model, 4).matrices())
    for name, matrix in model.matrices():
        got = taller[name]
        if name in ("0.k", "1.v"):
            heads = [matrix.weights[32 * n : 32 * n + 32] for n in (0, 0, 1, 1)]
            assert np.array_equal(got.weights, np.concatenate(heads))
            scales = [matrix.scales[32 * n : 32 * n + 32] for n in (0, 0, 1, 1)]
            assert np.array_equal(got.scales, np.concatenate(scales))
        if name == "0.q":
            assert got is matrix


def test_lanes_change_what_is_stored_and_not_what_is_said():
    model = random_model(SHAPE, group=CORE.group)
    logits = []
    for lanes, kv_heads in ((4, 1), (2, 2), (1, 4)):
        core = replace(CORE, lanes=lanes)
        image = compile_model(model, core, kv_capacity=64)
        assert image.model["kv_heads"] == kv_heads
        engine = Engine(GoldenDevice(core), image)
        logits.append(engine.forward(range(3, 23), all_logits=True).logits)
    assert np.array_equal(logits[1], logits[0])
    assert np.array_equal(logits[2], logits[0])


def test_a_model_of_grouped_queries_on_a_card_with_two_lanes():
    plan = plan_image(named_shape("llama-3-8b"), CONFIGS["u280"], 512)
    assert plan.manifest(routed=False)["kv_heads"] == 16
