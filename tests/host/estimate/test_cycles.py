"""The cycle model: what it counts is counted a second time here, and costs move the right way."""

import dataclasses
import itertools

import numpy as np
import pytest

from skipstone.compiler import plan_image
from skipstone.estimate import Decisions, MemoryTiming, Parameters, RunModel
from skipstone.model.config import ModelConfig
from skipstone.spec.config import named_config
from skipstone.spec.errors import RequestError
from skipstone.spec.isa import Opcode
from skipstone.spec.layout import KvLayout, matrix_words
from skipstone.spec.registers import Mode

CORE = named_config("sim-small")
SHAPE = ModelConfig(
    name="m", hidden=256, layers=4, heads=4, kv_heads=2, head_dim=64, ffn=768, vocab=512,
    max_positions=512,
)  # fmt: skip
PLAN = plan_image(SHAPE, CORE, 512)


def run_model(decisions, *, plan=PLAN, memory=None):
    return RunModel(plan.program(), plan.config, decisions, Parameters(), memory or MemoryTiming())


def dense(tokens=512):
    return Decisions.random(tokens, SHAPE.layers, 0.0)


def test_a_share_is_skipped_by_every_token():
    d = Decisions.random(40, 10, 0.25, seed=3)
    for executed in (d.attention, d.mlp):
        by_token = 10 - executed.sum(axis=1)
        assert set(by_token) == {2, 3}
        assert by_token.sum() == 100
        assert (executed.mean(axis=0) > 0.5).all()
    assert (d.attention != d.mlp).any()
    assert dense().attention.all()
    for share in (-0.1, 1.0):
        with pytest.raises(RequestError, match="at least 0 and below 1"):
            Decisions.random(4, 2, share)


def test_dense_decode_reads_every_matrix_once():
    cost = run_model(dense()).run(100, 1)
    everything = sum(matrix_words(CORE, m.groups, m.blocks) for m in PLAN.matrices.values())
    assert cost.words["weights"] == everything
    assert cost.words["unneeded"] == 0
    assert everything < cost.cycles < 1.5 * everything
    assert sum(cost.spent.values()) == pytest.approx(cost.cycles)


def test_what_is_skipped_is_not_read():
    nothing = np.zeros((512, SHAPE.layers), np.bool_)
    cost = run_model(Decisions(nothing, nothing)).run(100, 1)
    needed = [PLAN.matrices[name] for name in ("0.k", "0.v", "head")]
    assert cost.words["weights"] == sum(matrix_words(CORE, m.groups, m.blocks) for m in needed)
    assert cost.words["kv"] == 0
    assert cost.words["unneeded"] == SHAPE.layers * CORE.prefetch_words


def expected_fetches(stored, attention, position, count, per_word, capacity):
    """Misses, runs, exponent words and hits of every attending token, position by position."""
    held, out = {}, {}
    for layer in range(stored.shape[1]):
        for token in range(position, position + count):
            if not attention[token, layer]:
                continue
            counts = [0] * stored.shape[1]
            missed = []
            for t in range(token + 1):
                version = max(n for n in range(layer + 1) if stored[t, n])
                if held.get(t) != version or t >= capacity:
                    missed.append((version, counts[version]))
                held[t] = version
                for n in range(stored.shape[1]):
                    counts[n] += bool(stored[t, n])
            words = {(version, rank // per_word) for version, rank in missed}
            runs = bool(missed)
            for (a, i), (b, j) in itertools.pairwise(missed):
                runs += not (a == b and j == i + 1 and j % per_word)
            out[layer, token] = (len(missed), runs, len(words), token + 1 - len(missed))
    return out


@pytest.mark.parametrize("skip", [0.0, 0.25, 0.7])
@pytest.mark.parametrize(("position", "count"), [(0, 5), (150, 1), (90, 3)])
@pytest.mark.parametrize("words", [0, 128, 512])
def test_what_attention_fetches(skip, position, count, words):
    core = dataclasses.replace(CORE, history_words=words)
    plan = plan_image(SHAPE, core, 512)
    decisions = Decisions.random(300, SHAPE.layers, skip, seed=5)
    model = run_model(decisions, plan=plan)
    layout = KvLayout(64, 2, CORE.word_bytes)
    expected = expected_fetches(
        model.stored, decisions.attention, position, count, layout.tokens_per_exponent_word,
        words // layout.head_groups,
    )  # fmt: skip
    found = model.fetches(position, count)
    assert {k: (f.misses, f.runs, f.exponent_words, f.hits) for k, f in found.items()} == expected


def test_prefill_reads_a_matrix_once_and_passes_it_often():
    model = run_model(dense())
    one, many = model.run(0, 1), model.run(0, 16)
    assert many.words["weights"] == one.words["weights"]
    assert 3.5 * one.array_busy < many.array_busy < 8 * one.array_busy
    assert one.cycles < many.cycles < 8 * one.cycles
    # The head is for the last token alone.
    everyone = model.run(0, 16, mode=int(Mode.ALL_LOGITS))
    assert everyone.cycles > many.cycles


def test_costs_move_the_right_way():
    def cycles(skip=0.0, position=100, *, memory=None, mode=0):
        decisions = Decisions.random(512, SHAPE.layers, skip)
        return run_model(decisions, memory=memory).run(position, 1, mode=mode).cycles

    assert cycles(0.5) < cycles(0.25) < cycles()
    assert cycles(position=500) > cycles()
    assert cycles(mode=int(Mode.LOGITS)) > cycles()
    assert cycles(memory=MemoryTiming(latency=200)) > cycles()
    slow = cycles(memory=MemoryTiming(bandwidth=0.5))
    assert 1.6 * cycles() < slow < 2 * cycles()


def test_greedy_steps_cost_less_than_runs():
    model = run_model(dense())
    alone = sum(model.run(100 + n, 1).cycles for n in range(4))
    assert 0.9 * alone < model.run(100, 1, steps=3).cycles < alone


def test_what_memory_delivers():
    assert MemoryTiming(latency=40).rate(CORE) == 1.0
    assert MemoryTiming(latency=236).rate(CORE) == pytest.approx(64 / 256)
    assert MemoryTiming(bandwidth=0.3).rate(CORE) == 0.3


def test_other_constants_keep_what_does_not_depend_on_them():
    model = run_model(Decisions.random(300, SHAPE.layers, 0.25))
    other = model.with_parameters(dataclasses.replace(Parameters(), barrier=30.0))
    assert other.run(200, 1).cycles > model.run(200, 1).cycles
    assert other.run(200, 1).words == model.run(200, 1).words


def test_registers_between_regions_cost_cycles_by_instruction_not_by_word():
    costs = [
        RunModel(
            PLAN.program(), dataclasses.replace(CORE, region_registers=crosses), dense(),
            Parameters(), MemoryTiming(),
        ).run(100, 1)
        for crosses in (False, True)
    ]  # fmt: skip
    computing = (Opcode.LINEAR, Opcode.ATTEND)
    instructions = sum(i.opcode in computing for i in PLAN.program())
    assert 0 < costs[1].cycles - costs[0].cycles < 20 * instructions
    assert costs[0].words == costs[1].words
