"""The lower bound, against plain loops; the synthetic model; and a decode of nano in RTL."""

import numpy as np
import pytest

from skipstone.compiler import compile_model
from skipstone.model import ModelConfig
from skipstone.runtime import Engine, KvSpace
from skipstone.spec.config import CONFIGS
from skipstone_sim.benchmarks.bound import SequenceBound
from skipstone_sim.benchmarks.decode import run
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.random_model import random_model

CORE = CONFIGS["sim-tiny"]
SHAPE = {
    "name": "random",
    "hidden": 64,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 32,
    "ffn": 96,
    "vocab": 64,
    "max_positions": 128,
}


@pytest.fixture(scope="module", params=["kv_reuse", "kv_recompute"])
def image(request):
    model = random_model(ModelConfig(**SHAPE, kv_rule=request.param), group=CORE.group)
    return compile_model(model, CORE)


def plain_kv_words(image, attention):
    """Walk the tokens of every executed layer; `attention` are their maps."""
    recompute = image.model["kv_rule"] == "kv_recompute"
    heads_per_word = CORE.word_bytes // 32
    head_groups = -(-2 // heads_per_word)
    words = 0
    for layer in range(4):
        if not attention[-1] >> layer & 1:
            continue
        ranks, exponents = [0] * 4, set()
        for executed in attention:
            stored = [n == 0 or recompute or executed >> n & 1 for n in range(4)]
            version = max(n for n in range(layer + 1) if stored[n])
            exponents.add((version, ranks[version] // 16))
            ranks = [r + bool(s) for r, s in zip(ranks, stored, strict=True)]
        words += head_groups * (2 * len(attention) + len(exponents))
    return words


def test_kv_of_random_skip_patterns(image):
    rng = np.random.default_rng(3)
    for count in (1, 2, 17, 60):
        decisions = rng.random((count, 4, 2)) < 0.5
        attention = [sum(int(e) << n for n, e in enumerate(t)) for t in decisions[..., 0]]
        bound = SequenceBound(image, decisions)
        assert bound.kv(count - 1) == plain_kv_words(image, attention)
        assert bound.kv_new(count - 1) <= bound.kv(count - 1)


def test_what_was_seen_before_is_not_new(image):
    """A token that attends everywhere needs each stored version exactly once."""
    decisions = np.random.default_rng(3).random((40, 4, 2)) < 0.5
    decisions[-1] = True
    space = KvSpace.of(image.model, CORE.word_bytes, decisions)
    assert SequenceBound(image, decisions).kv_new(39) == space.stored <= space.dense
    decisions[:] = True
    assert KvSpace.of(image.model, CORE.word_bytes, decisions).stored == space.dense


def test_storage_is_what_golden_writes(image):
    device = GoldenDevice(CORE)
    engine = Engine(device, image)
    section = image.sections["kv"]
    blank = np.full(section.words * CORE.word_bytes, 0xA5, np.uint8)
    device.write(section.address, blank)
    decisions = np.random.default_rng(6).random((40, 4, 2)) < 0.6
    engine.forward(range(40), decisions=decisions)
    written = device.read(section.address, blank.size).reshape(-1, CORE.word_bytes) != 0xA5
    assert engine.kv_space().stored == written.any(axis=1).sum()
    assert engine.kv_space().reserved == section.words


def test_weights_are_those_golden_reads(image):
    engine = Engine(GoldenDevice(CORE), image)
    decisions = engine.forward([1, 2, 3]).decisions
    rng = np.random.default_rng(4)
    for token in rng.integers(0, 64, 12):
        result = engine.forward([int(token)], engine.length)
        at = len(decisions)
        decisions = np.concatenate([decisions, result.decisions])
        bound = SequenceBound(image, decisions)
        assert bound.weights(range(at, at + 1)) == result.counters["words_weights"]


def test_random_models_skip_as_asked():
    shape = ModelConfig(**SHAPE | {"hidden": 128, "layers": 3, "vocab": 256})
    image = compile_model(random_model(shape, group=CORE.group, skip=0.25, branch=0.1), CORE)
    tokens = np.random.default_rng(5).permutation(256)[:120].tolist()
    result = Engine(GoldenDevice(CORE), image).forward(tokens)
    skipped = result.counters["attention_skipped"] + result.counters["mlp_skipped"]
    executed = result.counters["attention_executed"] + result.counters["mlp_executed"]
    assert 0.18 < skipped / (skipped + executed) < 0.32


@pytest.mark.rtl
def test_decode_of_nano():
    value = {r.figure: r.value for r in run(["sim-tiny:nano"], 8, 4)}
    assert 1 < value["decode_cycles_over_bound"] < 4
    assert value["decode_cycles_over_bound"] == pytest.approx(
        value["cycles_per_token"] / value["bound_per_token"]
    )
    # The array takes every weight word that it must, and KV twice where values are mixed.
    assert value["array_busy"] * value["cycles_per_token"] / 100 >= value["bound_per_token"] * 0.9
    assert value["words_read_per_token"] >= value["bound_per_token"]
    assert value["tokens_per_simulated_second"] == pytest.approx(
        CORE.clock_mhz * 1e6 / value["cycles_per_token"]
    )
    assert 1 < value["decode_cycles_over_bound_one_run"] <= value["decode_cycles_over_bound"] * 1.05
