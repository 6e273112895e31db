"""Public shapes, and checkpoints of any shape made on the spot."""

import dataclasses
import json

import numpy as np
import pytest

from skipstone.model import SHAPES, load_checkpoint, make_checkpoint, named_shape, parameter_count
from skipstone.model.config import ModelConfig, parse_config
from skipstone.spec.errors import CheckpointError, RequestError

SHAPE = ModelConfig(
    name="small", hidden=64, layers=3, heads=4, kv_heads=2, head_dim=32, ffn=96, vocab=200,
    max_positions=128,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-3-8b", 8_030_261_248),
        ("llama-3.2-1b", 1_235_814_400),
        ("tinyllama-1.1b", 1_100_048_384),
    ],
)
def test_published_parameter_counts(name, parameters):
    assert parameter_count(named_shape(name)) == parameters


@pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda s: s.name)
def test_shapes_are_supported_and_survive_their_config_file(shape):
    back, reasons = parse_config(json.loads(json.dumps(shape.to_hf())), shape.name)
    assert not reasons
    assert back == shape


def test_an_unknown_shape():
    with pytest.raises(CheckpointError, match="unknown shape 'llama-9'; known: llama-2-7b"):
        named_shape("llama-9")


@pytest.fixture
def made(tmp_path):
    """A checkpoint in many shards."""
    make_checkpoint(SHAPE, tmp_path / "m", skip=0.3, seed=1, shard_bytes=40_000)
    return tmp_path / "m"


def test_a_sharded_checkpoint_loads(made):
    shards = sorted(made.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert not (made / "model.safetensors").exists()
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {s.name for s in shards}
    checkpoint = load_checkpoint(made)
    assert dataclasses.replace(checkpoint.config, name="small") == SHAPE
    assert checkpoint.routers is not None
    assert len(checkpoint.routers) == 3
    down = checkpoint.layer_tensor(1, "mlp.down_proj")
    assert down.std() == pytest.approx((96 * 6) ** -0.5, rel=0.05)
    assert (down.view(np.uint32) & 0xFFFF == 0).all()  # BF16
    np.testing.assert_array_equal(checkpoint.layer_tensor(1, "mlp.down_proj", 5, 9), down[5:9])


def test_numbers_depend_on_the_seed_only(made, tmp_path):
    make_checkpoint(SHAPE, tmp_path / "one", skip=0.3, seed=1)
    make_checkpoint(SHAPE, tmp_path / "other", skip=0.3, seed=2)
    sharded, one, other = (load_checkpoint(p) for p in (made, tmp_path / "one", tmp_path / "other"))
    name = "model.layers.2.self_attn.o_proj.weight"
    np.testing.assert_array_equal(sharded.tensor(name), one.tensor(name))
    assert (one.tensor(name) != other.tensor(name)).any()


def test_without_routers(tmp_path):
    make_checkpoint(SHAPE, tmp_path / "m", skip=None)
    assert load_checkpoint(tmp_path / "m").routers is None


def test_nothing_is_overwritten_or_half_made(made, tmp_path):
    with pytest.raises(RequestError, match="exists already"):
        make_checkpoint(SHAPE, made)
    with pytest.raises(RequestError, match="skip must be above 0 and below 1, not 1"):
        make_checkpoint(SHAPE, tmp_path / "n", skip=1)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_checkpoint(SHAPE, tmp_path / "n", progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
