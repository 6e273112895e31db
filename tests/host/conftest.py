"""Small Hugging Face directories, written byte by byte."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata=None) -> None:
    """The format by hand; uint16 arrays are written as BF16."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, t in tensors.items():
        header[name] = {
            "dtype": names[t.dtype.name],
            "shape": list(t.shape),
            "data_offsets": [at, at + t.nbytes],
        }
        at += t.nbytes
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(t).tobytes() for t in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def random_tensors(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a random Llama under their Hugging Face names."""
    rng = np.random.default_rng(seed)
    d, f, e = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * e, config["num_key_value_heads"] * e

    def matrix(n, k):
        return (rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)

    def gain():
        return rng.uniform(0.5, 1.5, d).astype(np.float32)

    out = {"model.embed_tokens.weight": matrix(config["vocab_size"], d) * 4}
    for n in range(config["num_hidden_layers"]):
        p = f"model.layers.{n}."
        out[p + "input_layernorm.weight"] = gain()
        out[p + "self_attn.q_proj.weight"] = matrix(q, d) * 3
        out[p + "self_attn.k_proj.weight"] = matrix(kv, d) * 3
        out[p + "self_attn.v_proj.weight"] = matrix(kv, d)
        out[p + "self_attn.o_proj.weight"] = matrix(d, q)
        out[p + "post_attention_layernorm.weight"] = gain()
        out[p + "mlp.gate_proj.weight"] = matrix(f, d)
        out[p + "mlp.up_proj.weight"] = matrix(f, d)
        out[p + "mlp.down_proj.weight"] = matrix(d, f)
    out["model.norm.weight"] = gain()
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = matrix(config["vocab_size"], d)
    return out


def random_routers(config: dict, seed: int = 1) -> dict[str, np.ndarray]:
    """Routers that skip now and then."""
    rng = np.random.default_rng(seed)
    out = {}
    for n in range(config["num_hidden_layers"]):
        for module in ("attention", "mlp"):
            name = f"model.layers.{n}.router_{module}.weight_predictor."
            out[name + "weight"] = rng.standard_normal((2, config["hidden_size"])).astype("f4")
            out[name + "bias"] = np.array([1.0, 0.0], np.float32)
    return out


def write_model(path: Path, config=None, *, routers=False, seed=0, **changes) -> Path:
    """A whole directory; keyword arguments replace fields of config.json."""
    config = {**(config or CONFIG), **changes}
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    write_safetensors(path / "model.safetensors", random_tensors(config, seed))
    if routers:
        write_safetensors(
            path / "routers.safetensors", random_routers(config), {"kv_rule": "kv_reuse"}
        )
    return path


class Builder:
    """What tests need to make models of their own."""

    config = CONFIG
    write_model = staticmethod(write_model)
    write_safetensors = staticmethod(write_safetensors)
    random_tensors = staticmethod(random_tensors)
    random_routers = staticmethod(random_routers)


@pytest.fixture(scope="session")
def build() -> type[Builder]:
    return Builder
