"""Checkpoints: what is read, and every way in which a directory can be wrong."""

import json
import shutil
import struct

import numpy as np
import pytest

from skipstone.model import SHIPPED, load_checkpoint, resolve_model
from skipstone.spec.errors import CheckpointError, UnsupportedModelError


def rewrite_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    for name, value in changes.items():
        config.pop(name, None) if value is ... else config.__setitem__(name, value)
    (path / "config.json").write_text(json.dumps(config))


@pytest.fixture
def model(tmp_path, build):
    return build.write_model(tmp_path / "tiny", routers=True)


def test_a_whole_model_is_read(model, build):
    checkpoint = load_checkpoint(model)
    c = checkpoint.config
    assert (c.name, c.hidden, c.layers, c.heads, c.kv_heads) == ("tiny", 64, 2, 2, 1)
    assert (c.head_dim, c.ffn, c.vocab, c.max_positions) == (32, 96, 40, 64)
    assert (c.bos, c.eos, c.tied, c.kv_rule, c.rms_eps) == (0, (1,), False, "kv_reuse", 1e-5)
    for name, value in build.random_tensors(build.config).items():
        np.testing.assert_array_equal(checkpoint.tensor(name), value)
    routers = build.random_routers(build.config)
    assert len(checkpoint.routers) == 2
    np.testing.assert_array_equal(
        checkpoint.routers[1].mlp.weight,
        routers["model.layers.1.router_mlp.weight_predictor.weight"],
    )
    w, b = checkpoint.routers[0].attention.difference()
    weight = routers["model.layers.0.router_attention.weight_predictor.weight"].astype(float)
    np.testing.assert_array_equal(w, (weight[1] - weight[0]).astype(np.float32))
    assert b == np.float32(-1)


def test_the_config_survives_a_round_trip(tmp_path, build):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    path = build.write_model(tmp_path / "m", rope_scaling=scaling, eos_token_id=[1, 5])
    first = load_checkpoint(path).config
    (path / "config.json").write_text(json.dumps(first.to_hf()))
    assert load_checkpoint(path).config == first
    assert first.eos == (1, 5)
    assert first.rope_scaling.kind == "llama3"


def test_sixteen_bit_tensors_are_widened(tmp_path, build):
    path = build.write_model(tmp_path / "m")
    tensors = build.random_tensors(build.config)
    name, other = "model.norm.weight", "lm_head.weight"
    bf16 = (tensors[name].view(np.uint32) >> 16).astype(np.uint16)
    tensors[name], tensors[other] = bf16, tensors[other].astype(np.float16)
    build.write_safetensors(path / "model.safetensors", tensors)
    checkpoint = load_checkpoint(path)
    expected = (bf16.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(checkpoint.tensor(name), expected)
    np.testing.assert_array_equal(checkpoint.tensor(other), tensors[other].astype(np.float32))


def split(path, build, *, index_changes=None, both=()):
    """Replace model.safetensors by two shards and an index."""
    tensors = build.random_tensors(build.config)
    names = list(tensors)
    shards = {"a.safetensors": names[:7], "b.safetensors": names[7:] + list(both)}
    for file, members in shards.items():
        build.write_safetensors(path / file, {n: tensors[n] for n in members})
    weight_map = {n: file for file, members in shards.items() for n in members}
    weight_map |= index_changes or {}
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "model.safetensors").unlink()
    return tensors


def test_shards_are_joined(model, build):
    tensors = split(model, build)
    checkpoint = load_checkpoint(model)
    for name, value in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensor(name), value)
    assert {p.name for p in checkpoint.sources} >= {"a.safetensors", "b.safetensors"}


def test_a_tensor_in_two_shards(model, build):
    split(model, build, both=["model.embed_tokens.weight"])
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight' is in .*a.safe.* and in .*b"):
        load_checkpoint(model)


def test_an_index_that_names_the_wrong_shard(model, build):
    split(model, build, index_changes={"model.norm.weight": "a.safetensors"})
    with pytest.raises(CheckpointError, match=r"a.safetensors: lacks tensor 'model.norm.weight'"):
        load_checkpoint(model)


@pytest.mark.parametrize("file", ["../a.safetensors", "", "..", 3])
def test_an_index_that_points_elsewhere(model, build, file):
    split(model, build, index_changes={"model.norm.weight": file})
    with pytest.raises(CheckpointError, match=r"weight_map must map tensor names to file names"):
        load_checkpoint(model)


def test_a_missing_shard(model, build):
    split(model, build)
    (model / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b.safetensors: cannot be read: No such file"):
        load_checkpoint(model)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attention_bias": True}, "attention_bias must be false, not True"),
        ({"mlp_bias": True}, "mlp_bias must be false"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu', not 'gelu'"),
        ({"sliding_window": 16}, "sliding_window must be null, not 16"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types must all be full"),
        ({"num_local_experts": 8}, r"num_local_experts must be absent \(mixture of experts\)"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type must be .* not 'yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters.rope_type must be"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1, not 0.5"),
        ({"head_dim": 48}, "head_dim must be one of 32, 64, 128, not 48"),
        ({"hidden_size": 80}, "hidden_size must be a multiple of 32, not 80"),
        ({"intermediate_size": 100}, "intermediate_size must be a multiple of 32, not 100"),
        ({"model_type": "qwen2"}, "model_type must be one of llama, mistral, not 'qwen2'"),
        ({"model_type": ...}, "model_type must be one of llama, mistral, not None"),
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures must be one of .* 'GPT2LMHead"),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be absent"),
        ({"model_type": "mistral"}, "sliding_window must be null, not 4096"),
    ],
)
def test_unsupported_models_name_the_field(model, changes, reason):
    if changes == {"model_type": "mistral"}:
        changes["max_position_embeddings"] = 8192
    rewrite_config(model, **changes)
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        load_checkpoint(model)
    assert len(caught.value.reasons) == 1


def test_every_reason_is_named_at_once(model):
    rewrite_config(model, attention_bias=True, hidden_act="relu", head_dim=16, model_type="opt")
    with pytest.raises(UnsupportedModelError) as caught:
        load_checkpoint(model)
    assert [r.split()[0] for r in caught.value.reasons] == [
        "model_type", "attention_bias", "hidden_act", "head_dim",
    ]  # fmt: skip


def test_mistral_without_a_window_is_a_llama(model):
    rewrite_config(model, model_type="mistral", architectures=["MistralForCausalLM"],
                   sliding_window=None)  # fmt: skip
    assert load_checkpoint(model).config.kv_heads == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"hidden_size": -64}, "hidden_size must be a positive integer, not -64"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer, not 'many'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, not True"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, not 0"),
        ({"rope_theta": "big"}, "rope_theta must be a positive number"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(2\) must be a multiple of"),
        ({"head_dim": ..., "num_attention_heads": 3}, r"hidden_size \(64\) must be a multiple of"),
        ({"eos_token_id": "end"}, "eos_token_id must be a token id or a list of them"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, not 1"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"num_hidden_layers": 3}, "missing tensors: model.layers.2.input_layernorm.weight, "),
        ({"num_hidden_layers": 1}, "config.json does not account for: model.layers.1."),
        (
            {"intermediate_size": 128},
            r"mlp.gate_proj.weight has shape \[96, 64\], config.json gives \[128, 64\]",
        ),
        ({"vocab_size": 41}, r"embed_tokens.weight has shape \[40, 64\].* \[41, 64\]"),
    ],
)
def test_configs_that_contradict_themselves_or_the_tensors(model, changes, message):
    rewrite_config(model, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model)


def test_broken_json(model):
    (model / "config.json").write_text('{"hidden_size": 64, "hidden_size": 32}')
    with pytest.raises(CheckpointError, match=r"the name 'hidden_size' occurs twice"):
        load_checkpoint(model)
    (model / "config.json").write_text('{"hidden_size": ')
    with pytest.raises(CheckpointError, match=r"not valid JSON"):
        load_checkpoint(model)
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read"):
        load_checkpoint(model)


def test_missing_weights(model):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"convert the .bin files to safetensors"):
        load_checkpoint(model)
    with pytest.raises(CheckpointError, match=r"not a directory"):
        load_checkpoint(model / "nowhere")


def test_integer_weights_are_unsupported(model, build):
    tensors = build.random_tensors(build.config)
    tensors["lm_head.weight"] = np.zeros((40, 64), np.int8)
    build.write_safetensors(model / "model.safetensors", tensors)
    with pytest.raises(UnsupportedModelError, match=r"lm_head.weight: dtype must be one of F32"):
        load_checkpoint(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(model, build, value):
    tensors = build.random_tensors(build.config)
    tensors["model.layers.1.mlp.up_proj.weight"][7, 9] = value
    tensors["model.layers.1.mlp.up_proj.weight"][8, 0] = value
    build.write_safetensors(model / "model.safetensors", tensors)
    checkpoint = load_checkpoint(model)
    with pytest.raises(
        CheckpointError, match=r"1.mlp.up_proj.weight': element \[7, 9\] is -?(nan|inf)"
    ):
        checkpoint.tensor("model.layers.1.mlp.up_proj.weight")


def test_an_unknown_tensor(model, build):
    tensors = build.random_tensors(build.config)
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(16, np.float32)
    build.write_safetensors(model / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"does not account for: .*q_proj.bias$"):
        load_checkpoint(model)


def test_choice_of_routers(model, build):
    assert load_checkpoint(model, routers="none").routers is None
    build.write_safetensors(model / "routers-40.safetensors", build.random_routers(build.config, 5))
    assert load_checkpoint(model, kv_rule="kv_recompute").config.kv_rule == "kv_recompute"
    default, other = load_checkpoint(model), load_checkpoint(model, routers="40")
    assert (default.routers[0].mlp.weight != other.routers[0].mlp.weight).any()
    by_path = load_checkpoint(model, routers=str(model / "routers-40.safetensors"))
    assert (by_path.routers[0].mlp.weight == other.routers[0].mlp.weight).all()
    with pytest.raises(
        CheckpointError, match=r"one of routers-40.safetensors, routers.safet.*none"
    ):
        load_checkpoint(model, routers="50")


def test_the_rule_routers_were_trained_with(model, build):
    routers = build.random_routers(build.config)
    build.write_safetensors(model / "routers.safetensors", routers, {"kv_rule": "kv_recompute"})
    assert load_checkpoint(model).config.kv_rule == "kv_recompute"
    assert load_checkpoint(model, kv_rule="kv_reuse").config.kv_rule == "kv_reuse"
    build.write_safetensors(model / "routers.safetensors", routers, {"kv_rule": "none"})
    with pytest.raises(CheckpointError, match=r"kv_rule must be .* not 'none'"):
        load_checkpoint(model)


def test_routers_inside_the_weights(tmp_path, build):
    path = build.write_model(tmp_path / "m")
    both = build.random_tensors(build.config) | build.random_routers(build.config)
    build.write_safetensors(path / "model.safetensors", both)
    assert len(load_checkpoint(path).routers) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("model.layers.1.router_mlp.weight_predictor.bias"), "bias' is missing"),
        (lambda r: r.update(stray=np.zeros(1, np.float32)), "'stray' is not the name of a router"),
        (
            lambda r: r.update(
                {"model.layers.2.router_mlp.weight_predictor.bias": np.zeros(2, np.float32)}
            ),
            "the model has 2 layers",
        ),
        (
            lambda r: r.update(
                {"model.layers.1.router_mlp.weight_predictor.bias": np.zeros(3, np.float32)}
            ),
            r"shape is \(3,\), the config gives \(2,\)",
        ),
        (
            lambda r: r["model.layers.0.router_mlp.weight_predictor.weight"].__setitem__(
                (1, 3), np.nan
            ),
            r"element \[1, 3\] is nan",
        ),
    ],
)
def test_broken_routers(model, build, change, message):
    routers = build.random_routers(build.config)
    change(routers)
    build.write_safetensors(model / "routers.safetensors", routers)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model)


def test_a_tied_head(tmp_path, build):
    path = build.write_model(tmp_path / "m", tie_word_embeddings=True)
    checkpoint = load_checkpoint(path)
    assert checkpoint.head_name == "model.embed_tokens.weight"
    # A tied checkpoint may carry the head all the same.
    tensors = build.random_tensors(build.config)
    build.write_safetensors(path / "model.safetensors", tensors)
    assert load_checkpoint(path).config.tied


def test_names_of_models(tmp_path):
    for name in SHIPPED:
        assert resolve_model(name).name == name
    assert resolve_model(str(tmp_path)) == tmp_path
    with pytest.raises(CheckpointError, match=r"no model 'tales': .* one of stories, nano"):
        resolve_model("tales")


def test_a_file_truncated_after_opening(model, tmp_path):
    checkpoint = load_checkpoint(model)
    weights = model / "model.safetensors"
    shutil.copy(weights, tmp_path / "copy")
    (length,) = struct.unpack("<Q", weights.read_bytes()[:8])
    weights.write_bytes(weights.read_bytes()[: 8 + length + 10])
    with pytest.raises(CheckpointError, match=r"truncated while it was in use"):
        checkpoint.tensor("lm_head.weight")
