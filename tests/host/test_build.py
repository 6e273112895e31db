"""Images through the cache: made once, made anew when anything changes or breaks."""

import pytest

from skipstone import build
from skipstone.build import build_image
from skipstone.model import resolve_model
from skipstone.spec.config import named_config
from skipstone.spec.errors import ConfigError, RequestError

CORE = named_config("sim-tiny")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Counts compilations; the cache is empty."""
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "cache"))
    count = []
    compile_to_file = build.compile_to_file

    def counting(*args, **kwargs):
        count.append(1)
        return compile_to_file(*args, **kwargs)

    monkeypatch.setattr(build, "compile_to_file", counting)
    return count


@pytest.fixture
def model(tmp_path, build):
    return build.write_model(tmp_path / "tiny", routers=True)


def images(tmp_path):
    return list((tmp_path / "cache").rglob("image.skipstone"))


def test_an_image_is_made_once(model, made, tmp_path):
    steps = []
    first = build_image(str(model), CORE, progress=lambda *s: steps.append(s))
    assert {s[0] for s in steps} == {"convert"}
    again = build_image(str(model), CORE)
    assert len(made) == 1
    assert first.model == again.model
    assert again.model["name"] == "tiny"
    assert again.model["routed"]
    for name, section in first.sections.items():
        assert (section.data == again.sections[name].data).all()


def test_every_choice_counts(model, made, build):
    build_image(str(model), CORE)
    build_image(str(model), named_config("sim-small"))
    build_image(str(model), CORE, kv_rule="kv_recompute")
    dense = build_image(str(model), CORE, routers="none")
    assert not dense.model["routed"]
    assert len(made) == 4
    build.write_model(model, routers=True, seed=5)
    build_image(str(model), CORE)
    build_image(str(model), CORE)
    assert len(made) == 5


@pytest.mark.parametrize("damage", [b"", b"SKIPSTON", None])
def test_a_damaged_entry_is_made_anew(model, made, tmp_path, damage):
    weights = build_image(str(model), CORE).sections["weights"].data.copy()
    (path,) = images(tmp_path)
    if damage is None:
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        damage = bytes(raw)
    path.write_bytes(damage)
    again = build_image(str(model), CORE)
    assert len(made) == 2
    assert (weights == again.sections["weights"].data).all()


def test_nothing_half_made_stays(model, made, tmp_path, build):
    build.write_model(model, routers=True, hidden_size=256, num_attention_heads=8)
    with pytest.raises(ConfigError, match=r"does not fit core 'sim-tiny'.*hidden_size is 256"):
        build_image(str(model), CORE)
    assert not images(tmp_path)
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_gptq_needs_text(model, made):
    with pytest.raises(RequestError, match=r"calibrate on: .*calibration\.txt is not there"):
        build_image(str(model), CORE, method="gptq")


def test_gptq_differs_from_rounding(made):
    if not (resolve_model("nano") / "model.safetensors").exists():
        pytest.skip("run scripts/train_models nano")
    nearest = build_image("nano", CORE).sections["weights"].data
    tuned = build_image("nano", CORE, method="gptq").sections["weights"].data
    assert (nearest != tuned).any()
