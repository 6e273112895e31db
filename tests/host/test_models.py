"""The shipped model directories: well formed, and of the quality their cards claim."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

MODELS = Path(str(files("skipstone"))) / "models"


@pytest.fixture(params=["stories", "nano"])
def directory(request) -> Path:
    return MODELS / request.param


def tensors(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_weights_match_the_config(directory):
    c = json.loads((directory / "config.json").read_text())
    d, f, e = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * e, c["num_key_value_heads"] * e
    expected = {"model.embed_tokens.weight": (c["vocab_size"], d), "model.norm.weight": (d,)}
    for n in range(c["num_hidden_layers"]):
        p = f"model.layers.{n}."
        expected |= {
            p + "input_layernorm.weight": (d,),
            p + "post_attention_layernorm.weight": (d,),
            p + "self_attn.q_proj.weight": (q, d),
            p + "self_attn.k_proj.weight": (kv, d),
            p + "self_attn.v_proj.weight": (kv, d),
            p + "self_attn.o_proj.weight": (d, q),
            p + "mlp.gate_proj.weight": (f, d),
            p + "mlp.up_proj.weight": (f, d),
            p + "mlp.down_proj.weight": (d, f),
        }
    found = tensors(directory / "model.safetensors")
    assert {name: t.shape for name, t in found.items()} == expected
    assert all(t.dtype == np.float32 and np.isfinite(t).all() for t in found.values())
    assert c["tie_word_embeddings"]
    assert c["model_type"] == "llama"
    assert all(size % 32 == 0 for size in (d, f, q))


@pytest.mark.parametrize("file", ["routers.safetensors", "routers-40.safetensors"])
def test_routers_match_the_config(directory, file):
    c = json.loads((directory / "config.json").read_text())
    expected = {}
    for n in range(c["num_hidden_layers"]):
        for module in ("attention", "mlp"):
            name = f"model.layers.{n}.router_{module}.weight_predictor."
            expected |= {name + "weight": (2, c["hidden_size"]), name + "bias": (2,)}
    found = tensors(directory / file)
    assert {name: t.shape for name, t in found.items()} == expected
    assert all(t.dtype == np.float32 and np.isfinite(t).all() for t in found.values())


def test_tokenizer_and_texts(directory):
    c = json.loads((directory / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == c["vocab_size"]
    assert tokenizer.token_to_id("<|bos|>") == c["bos_token_id"]
    assert tokenizer.token_to_id("<|eos|>") == c["eos_token_id"]
    questions = json.loads((directory / "questions.json").read_text())
    assert len(questions) >= 200
    for item in questions:
        assert item.keys() == {"prompt", "answer", "kind"}
        assert item["prompt"].endswith("?\nAnswer:")
        assert len(tokenizer.encode(item["prompt"]).ids) <= 256
    texts = json.loads((directory / "eval.json").read_text())
    assert len(texts) >= 50
    for text in texts:
        ids = tokenizer.encode(text).ids
        assert ids[0] == c["bos_token_id"]
        assert len(ids) < c["max_position_embeddings"]
        assert tokenizer.decode(ids) == text
    assert len((directory / "calibration.txt").read_text()) > 4000


def test_both_models_share_one_tokenizer():
    one, other = (MODELS / name / "tokenizer.json" for name in ("stories", "nano"))
    assert one.read_bytes() == other.read_bytes()


def test_results_are_as_promised(directory):
    rows = json.loads((directory / "results.json").read_text())["rows"]
    by = {(row["routing"], row["kv_rule"]): row for row in rows}
    dense = by["dense", None]
    for target, low, high in (("25 %", 0.15, 0.35), ("40 %", 0.30, 0.50)):
        row = by[target, "kv_reuse"]
        assert low <= row["attention_skipped"] <= high
        assert low <= row["mlp_skipped"] <= high
        assert row["perplexity"] < 1.1 * dense["perplexity"]
        assert row["skip_agreement_int4"] >= 0.98
    card = (directory / "README.md").read_text()
    assert f"{dense['perplexity']:.4f}" in card


@pytest.mark.torch
def test_results_are_what_torch_measures():
    torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")
    from safetensors.torch import load_file

    from skipstone_sim.accuracy import perplexity, skip_rates
    from skipstone_sim.reference import Reference

    directory = MODELS / "nano"
    config = json.loads((directory / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = Reference(
        config,
        load_file(directory / "model.safetensors"),
        load_file(directory / "routers.safetensors"),
        kv_rule="kv_reuse",
    )
    skips = []

    def logits_fn(tokens):
        out = model.forward(torch.tensor([tokens]))
        skips.append(out.skips[0].numpy())
        return out.logits[0].numpy()

    texts = json.loads((directory / "eval.json").read_text())
    rows = json.loads((directory / "results.json").read_text())["rows"]
    row = next(r for r in rows if (r["routing"], r["kv_rule"]) == ("25 %", "kv_reuse"))
    sequences = [[*tokenizer.encode(text).ids, config["eos_token_id"]] for text in texts]
    assert perplexity(logits_fn, sequences) == pytest.approx(row["perplexity"], rel=1e-4)
    measured = skip_rates(np.concatenate(skips))
    assert measured == pytest.approx((row["attention_skipped"], row["mlp_skipped"]), abs=1e-3)
