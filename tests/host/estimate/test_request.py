"""Estimates of requests: what they contain, and what is refused."""

import json

import pytest

from skipstone.estimate import (
    MEMORIES,
    Calibration,
    MemoryTiming,
    Parameters,
    board_target,
    estimate,
    find_target,
    load_calibration,
    stored_resources,
)
from skipstone.estimate.cycles import runs_of, sampled
from skipstone.model import SHAPES
from skipstone.spec.boards import BOARDS
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import ConfigError, RequestError

U280 = CoreConfig(
    name="u280-wide", rows=128, columns=32, lanes=8, ports=32, port_bits=512, group=128,
    max_hidden=8192, max_ffn=28672, max_query=8192, max_context=4096, max_chunk=64,
    max_layers=64, max_program=512, fifo_words=128, clock_mhz=225.0, min_head_dim=64,
)  # fmt: skip
TARGET = board_target("u280", U280, 225.0)
LLAMA = SHAPES["llama-2-7b"]
CALIBRATION = Calibration(Parameters(), 0.01, 0.005, 1, 1, ("sim-tiny",))


def test_llama_2_7b():
    e = estimate(LLAMA, TARGET, prompt=64, generate=256, calibration=CALIBRATION)
    # int4 with one FP16 scale per 128: 4.125 bits for each weight that is read.
    layers = 0.75 * LLAMA.layers * (4 * 4096**2 + 3 * 4096 * 11008)
    expected = (layers + 32000 * 4096) * 4.125 / 8
    assert e.bytes_per_token["weights"] == pytest.approx(expected, rel=0.02)
    assert e.target.memory is MEMORIES["u280"]
    seconds = 256 / e.decode.tokens_per_s
    moved = 256 * (e.bytes_per_token["weights"] + e.bytes_per_token["kv"])
    assert e.decode.bandwidth_efficiency_of_peak == pytest.approx(moved / seconds / 460.8e9)
    assert e.decode.bandwidth_efficiency_of_peak < 0.92 * e.decode.bandwidth_efficiency + 1e-9
    assert e.kv_bytes_dense == 320 * 32 * 2 * 32 * 129
    assert 0.73 < e.kv_bytes / e.kv_bytes_dense < 0.78  # layer 0 stores all
    for phase in (e.prefill, e.decode):
        assert sum(phase.shares.values()) == pytest.approx(1)
        assert min(phase.shares.values()) >= 0
    assert "memory bandwidth" in e.decode.limit
    assert e.resources is None
    document = json.loads(json.dumps(e.to_dict()))
    assert document["kind"] == "estimated"
    assert document["worst_error"] == 0.01
    assert document["parameters"] == 6_738_415_616


def test_skipping_pays():
    speeds = [
        estimate(LLAMA, TARGET, skip=s, prompt=8, generate=8, calibration=CALIBRATION).tokens_per_s
        for s in (0, 0.25, 0.5)
    ]
    assert speeds[0] * 1.2 < speeds[1] < speeds[2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": 0}, RequestError, "prompt must be at least 1, not 0"),
        ({"generate": 0}, RequestError, "generate must be at least 1, not 0"),
        ({"generate": 4000}, RequestError, r"128 \+ 4000 tokens exceed the model's context"),
        ({"skip": 1.0}, RequestError, "below 1, not 1"),
        ({"target": find_target("sim-large")}, ConfigError, "does not fit core 'sim-large'"),
    ],
)
def test_bad_requests(options, error, message):
    target = options.pop("target", TARGET)
    with pytest.raises(error, match=message):
        estimate(LLAMA, target, calibration=CALIBRATION, **options)


def test_heads_shorter_than_the_core_provides_for():
    with pytest.raises(ConfigError, match=r"core 'u280'.*head_dim must be 128, not 64"):
        estimate(
            SHAPES["llama-3.2-1b"], find_target("u280"),
            prompt=8, generate=8, calibration=CALIBRATION,
        )  # fmt: skip


def test_targets():
    assert TARGET.timing.bandwidth == pytest.approx(0.92)
    assert TARGET.timing.latency == pytest.approx(138e-9 * 225e6)
    simulated = find_target("sim-small")
    assert (simulated.memory, simulated.timing) == (None, MemoryTiming())
    assert MEMORIES.keys() == BOARDS.keys()
    for name, board in BOARDS.items():
        target = find_target(name)
        assert target.core == board.config
        assert target.memory is MEMORIES[name]
        assert 0 < target.timing.bandwidth <= 1
    with pytest.raises(ConfigError, match="unknown board or core 'moon'; known: u280, "):
        find_target("moon")


def test_pieces_of_a_request():
    assert runs_of(40, 16) == [(0, 16), (16, 16), (32, 8)]
    assert sum(times for _, times in sampled(128, 1024, 32)) == 1024
    assert sampled(5, 2, 32) == [(5, 1.0), (6, 1.0)]


def test_the_stored_calibration():
    known = load_calibration()
    assert known.phases > 10
    assert 0 < known.mean_error <= known.worst_error < 0.05


def test_a_calibration_of_another_version(tmp_path):
    path = tmp_path / "c.json"
    CALIBRATION.save(path)
    assert load_calibration(path) == CALIBRATION
    document = json.loads(path.read_text())
    document["parameters"]["colour"] = 1
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"no calibration of this version .*bench estimate --wri"):
        load_calibration(path)


def test_resources_come_from_synthesis_of_this_core(tmp_path):
    target = find_target("ulx3s")
    assert stored_resources(target, tmp_path) is None
    folder = tmp_path / "ulx3s"
    folder.mkdir()
    units = {"array": {"lut": 1000, "dsp": 64, "levels": 5}, "top": {"lut": 10, "levels": 2}}

    def store(core):
        document = {"tool": "yosys", "core": core, "units": units}
        (folder / "baseline.json").write_text(json.dumps(document))
        return stored_resources(target, tmp_path)

    assert store(target.core.name) == {"lut": 1010, "dsp": 64}
    assert store("another") is None
