"""``estimate``, ``bench`` and ``checkpoint``: what they print and refuse."""

import csv
import json

import pytest

from skipstone.cli import main
from skipstone.cli.bench import BenchRow, Format, render
from skipstone.model import SHAPES, load_checkpoint
from skipstone.model.config import ModelConfig


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return call


REQUEST = ("--board", "sim-small", "--prompt", 20, "--generate", 30)


def test_estimate(run, build, tmp_path):
    model = build.write_model(tmp_path / "tiny")
    code, out, _ = run("estimate", "-m", model, *REQUEST)
    assert code == 0
    for words in (
        "tiny (", "estimated", "tokens/s", "limited by", "time to first token", "not synthesized",
        "keys and values", "error of the model   at most",
    ):  # fmt: skip
        assert words in out
    code, out, _ = run("estimate", "-m", model, *REQUEST, "--json", "--skip", 0)
    document = json.loads(out)
    assert (code, document["kind"], document["skip"]) == (0, "estimated", 0)
    assert document["kv_bytes"] == document["kv_bytes_dense"]


def test_estimating_needs_no_weights(run, build, tmp_path):
    model = build.write_model(tmp_path / "tiny")
    (model / "model.safetensors").unlink()
    assert run("estimate", "-m", model, *REQUEST)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("estimate", "--board", "moon"), "unknown board or core 'moon'"),
        (("estimate", "-m", "llama-2-7b", *REQUEST), "does not fit core 'sim-small': hidden_size"),
        (("estimate", "-m", "nobody", *REQUEST), "no model 'nobody'"),
        (("bench", "-m", "llama-2-7b"), "is a shape without weights: only --device estimate"),
        (("checkpoint", "llama-9", "x"), "unknown shape 'llama-9'; known: llama-2-7b"),
        (("checkpoint", "llama-2-7b", "."), "exists already"),
    ],
)
def test_errors_are_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert message in err


def test_bench(run, build, tmp_path):
    model = build.write_model(tmp_path / "tiny", routers=True)
    tests = ("-p", 9, "-n", 3, "-r", 2, "--core", "sim-tiny")
    devices = ("-d", "golden", "-d", "estimate")
    code, out, _ = run("bench", "-m", model, *devices, *tests)
    assert code == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()]
    assert lines[0] == [
        "model", "size", "params", "device", "skipped", "test", "t/s", "figure is",
    ]  # fmt: skip
    assert [(line[3], line[5], line[7]) for line in lines[2:]] == [
        ("golden, sim-tiny", "pp9", "emulated"),
        ("golden, sim-tiny", "tg3", "emulated"),
        ("estimate, sim-tiny", "pp9", "estimated"),
        ("estimate, sim-tiny", "tg3", "estimated"),
    ]
    assert lines[2][1:3] == lines[4][1:3]  # size and parameters
    assert all("±" in line[6] for line in lines[2:])
    code, out, _ = run("bench", "-m", model, "-d", "estimate", *tests, "-o", "csv")
    table = list(csv.DictReader(out.splitlines()))
    assert [row["test"] for row in table] == ["pp9", "tg3"]
    assert float(table[0]["tokens_per_s"]) > float(table[1]["tokens_per_s"]) > 0
    code, out, _ = run("bench", "-m", model, "-d", "estimate", *tests, "-o", "json")
    assert [row["kind"] for row in json.loads(out)] == ["estimated"] * 2


def test_the_table_lines_up():
    def row(**changes):
        fields = {
            "model": "m", "size_bytes": 3 << 30, "params": 6_738_415_616, "device": "rtl",
            "core": "u280", "test": "pp128", "skipped": 0.25, "tokens_per_s": 1234.5,
            "deviation": 0.5, "kind": "RTL-simulated",
        }  # fmt: skip
        return BenchRow(**(fields | changes))

    lines = render([row(), row(model="a longer name", tokens_per_s=1.0)], Format.md).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "| 3.00 GiB | 6.74 B |" in lines[2]
    assert "1,234.50 ± 0.50" in lines[2]


def test_checkpoint(run, tmp_path, monkeypatch):
    shape = ModelConfig(
        name="toy", hidden=64, layers=3, heads=2, kv_heads=1, head_dim=32, ffn=96, vocab=9000,
        max_positions=64, tied=True,
    )  # fmt: skip
    monkeypatch.setitem(SHAPES, "toy", shape)
    code, out, _ = run("checkpoint", "toy", tmp_path / "t", "--layers", 1, "--shard-mb", 1)
    assert code == 0
    assert "606,912 parameters" in out
    checkpoint = load_checkpoint(tmp_path / "t")
    assert checkpoint.config.layers == 1
    assert checkpoint.routers is not None
    assert len(list((tmp_path / "t").glob("model-*.safetensors"))) == 2
    assert run("checkpoint", "toy", tmp_path / "u", "--skip", 0)[0] == 0
    assert load_checkpoint(tmp_path / "u").routers is None
