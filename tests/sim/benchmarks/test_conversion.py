"""The conversion benchmark, on a model of no size."""

import pytest

from skipstone.model import SHAPES
from skipstone.model.config import ModelConfig
from skipstone.spec.errors import CheckpointError, RequestError
from skipstone_sim.benchmarks import conversion

TOY = ModelConfig(
    name="toy", hidden=128, layers=3, heads=2, kv_heads=1, head_dim=64, ffn=256, vocab=500,
    max_positions=128,
)  # fmt: skip


@pytest.mark.parametrize(("layers", "subject"), [(None, "toy, rtn"), (1, "toy, 1 layers, rtn")])
def test_rows(tmp_path, monkeypatch, layers, subject):
    monkeypatch.setitem(SHAPES, "toy", TOY)
    rows = conversion.run(["toy"], layers=layers, folder=tmp_path)
    value = {r.figure: r.value for r in rows}
    assert {r.subject for r in rows} == {subject}
    assert {r.kind for r in rows} == {"host"}
    assert 0 < value["conversion_start_memory"] <= value["conversion_peak_memory"] < 2
    assert value["image_bytes"] * 1e9 > value["parameters"] * 1e9 / 2
    assert not list(tmp_path.iterdir())


def test_bad_requests(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="unknown shape 'llama-9'"):
        conversion.run(["llama-9"])
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000}))
    with pytest.raises(RequestError, match=r"llama-2-7b needs .* bytes of disk, 1,000 are free"):
        conversion.run(["llama-2-7b"], folder=tmp_path)
    assert not list(tmp_path.iterdir())
