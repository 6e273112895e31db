"""Folding and whole models: the folded model is the model, and unfolding gives it back."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from skipstone.model import SHIPPED, Router, load_checkpoint, resolve_model
from skipstone.model.routers import LayerRouters
from skipstone.quant import (
    QuantizedModel,
    dequantized_checkpoint,
    dequantized_routers,
    quantize_model,
)
from skipstone.quant.calibrate import Calibration, calibration_sequences
from skipstone.quant.fold import (
    fold_embedding,
    fold_head,
    fold_layer,
    fold_routers,
    interleave,
    pair_rows,
    uninterleave,
    unpair_rows,
)
from skipstone.quant.types import MATRICES
from skipstone.spec.errors import CheckpointError

HAVE_NANO = (resolve_model(SHIPPED[1]) / "model.safetensors").exists()
needs_nano = pytest.mark.skipif(not HAVE_NANO, reason="run scripts/train_models nano")


class Exact:
    """A matrix that was not rounded."""

    def __init__(self, weight):
        self.weight = weight

    def dequantize(self):
        return self.weight


def folded_forward(checkpoint, sequences, group=32):
    """Logits of the folded, unrounded model over the concatenated sequences."""
    calibration = Calibration(checkpoint.config, group, fold_embedding(checkpoint), sequences)
    for index in range(checkpoint.config.layers):
        routers = checkpoint.routers and fold_routers(checkpoint.routers[index], group)
        calibration.layer(index, fold_layer(checkpoint, index), routers, lambda w, x: Exact(w))
    return calibration.normalised() @ fold_head(checkpoint).whole().T


def rounded_forward(checkpoint, model, sequences):
    """Logits of the folded model with the matrices of a QuantizedModel."""
    calibration = Calibration(model.config, model.group, model.embedding, sequences)
    for index, layer in enumerate(model.layers):
        names = iter(MATRICES)  # layers take their matrices in this order
        calibration.layer(
            index,
            fold_layer(checkpoint, index),
            layer.router,
            lambda w, x, names=names, layer=layer: getattr(layer, next(names)),
        )
    return calibration.normalised() @ model.head.dequantize().T


def test_permutations():
    w = np.arange(2 * 8 * 3).reshape(16, 3)
    paired = pair_rows(w, 8)
    for head in range(2):
        for i in range(4):
            np.testing.assert_array_equal(paired[8 * head + 2 * i], w[8 * head + i])
            np.testing.assert_array_equal(paired[8 * head + 2 * i + 1], w[8 * head + i + 4])
    np.testing.assert_array_equal(unpair_rows(paired, 8), w)
    both = interleave(w[:8], w[8:])
    np.testing.assert_array_equal(both[6:8], np.stack([w[3], w[11]]))
    np.testing.assert_array_equal(np.concatenate(uninterleave(both)), w)


SEQUENCES = [[0, 5, 9, 3, 3, 21, 39, 7], [0, 17, 2], list(range(40))]


@pytest.mark.torch
@pytest.mark.parametrize("rule", ["kv_reuse", "kv_recompute"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_attention_heads": 4, "num_key_value_heads": 2},
        {"num_key_value_heads": 2, "head_dim": 64, "rope_theta": 500.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    ],
)
def test_the_folded_model_is_the_model(tmp_path, build, rule, changes):
    torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")
    from skipstone_sim.reference import Reference

    path = build.write_model(tmp_path / "m", routers=True, **changes)
    checkpoint = load_checkpoint(path, kv_rule=rule)
    config = checkpoint.config.to_hf()
    weights = {n: torch.from_numpy(v) for n, v in build.random_tensors(config).items()}
    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = table.half().float()
    weights["lm_head.weight"] = (
        table if config["tie_word_embeddings"] else weights["lm_head.weight"]
    )
    routers = {n: torch.from_numpy(v) for n, v in build.random_routers(config).items()}
    config["tie_word_embeddings"] = False  # the head is not rounded to FP16
    reference = Reference(config, weights, routers, kv_rule=rule)
    outputs = [reference.forward(torch.tensor([s])) for s in SEQUENCES]
    skips = torch.cat([o.skips[0] for o in outputs])
    assert 0.1 < skips.float().mean() < 0.9
    expected = torch.cat([o.logits[0] for o in outputs]).numpy()
    np.testing.assert_allclose(folded_forward(checkpoint, SEQUENCES), expected, atol=2e-4)


@pytest.mark.torch
def test_unfolding_is_the_inverse(tmp_path, build):
    """Torch on the unfolded tensors gives what the folded, rounded model gives."""
    torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")
    from skipstone_sim.reference import Reference

    checkpoint = load_checkpoint(build.write_model(tmp_path / "m", routers=True))
    model = quantize_model(checkpoint)
    ours = rounded_forward(checkpoint, model, SEQUENCES)
    weights = {n: torch.from_numpy(v) for n, v in dequantized_checkpoint(model).items()}
    routers = {n: torch.from_numpy(v) for n, v in dequantized_routers(model).items()}
    reference = Reference(model.config.to_hf(), weights, routers)
    theirs = torch.cat([reference.forward(torch.tensor([s])).logits[0] for s in SEQUENCES])
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-4)


def test_rounded_tensors_are_near_the_originals(tmp_path, build):
    checkpoint = load_checkpoint(build.write_model(tmp_path / "m", tie_word_embeddings=True))
    model = quantize_model(checkpoint)
    assert isinstance(model, QuantizedModel)
    assert dequantized_routers(model) is None
    back = dequantized_checkpoint(model)
    original = build.random_tensors({**build.config, "tie_word_embeddings": True})
    gains = {
        "q_proj": "input_layernorm", "k_proj": "input_layernorm", "v_proj": "input_layernorm",
        "gate_proj": "post_attention_layernorm", "up_proj": "post_attention_layernorm",
    }  # fmt: skip
    for name, value in original.items():
        if name.endswith("norm.weight"):
            assert (back[name] == 1).all()
            continue
        matrix = name.split(".")[-2]
        prefix = name.rpartition("self_attn" if "self_attn" in name else "mlp")[0]
        gain = original[f"{prefix}{gains[matrix]}.weight"] if matrix in gains else 1
        difference = back[name] - value * gain
        assert np.linalg.norm(difference) < 0.12 * np.linalg.norm(value * gain), name
    head = original["model.embed_tokens.weight"] * original["model.norm.weight"]
    assert np.linalg.norm(back["lm_head.weight"] - head) < 0.12 * np.linalg.norm(head)


def test_routers_are_nearly_exact():
    rng = np.random.default_rng(0)
    made = [Router(rng.standard_normal((2, 64), np.float32), np.array([0.5, b], np.float32))
            for b in (2.0, -1.0)]  # fmt: skip
    record = fold_routers(LayerRouters(*made), 32)
    assert record.bias.tolist() == [1.5, -1.5]
    for row, router in enumerate(made):
        exact = router.weight[1].astype(float) - router.weight[0]
        value = np.ldexp(record.mantissa[row].reshape(2, 32), record.exponent[row][:, None])
        assert np.abs(value.reshape(-1) - exact).max() <= 2.0**-14


def test_embedding_overflow(tmp_path, build):
    path = build.write_model(tmp_path / "m")
    tensors = build.random_tensors(build.config)
    tensors["model.embed_tokens.weight"][3, 4] = -70000
    build.write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight\[3, 4\] is -70000.*65504"):
        quantize_model(load_checkpoint(path))


def test_arguments(tmp_path, build):
    checkpoint = load_checkpoint(build.write_model(tmp_path / "m"))
    with pytest.raises(ValueError, match="method must be one of rtn, gptq, not 'awq'"):
        quantize_model(checkpoint, method="awq")
    with pytest.raises(ValueError, match=r"group must divide intermediate_size \(96\), not 64"):
        quantize_model(checkpoint, group=64)
    with pytest.raises(ValueError, match="needs calibration_text"):
        quantize_model(checkpoint, method="gptq")
    with pytest.raises(CheckpointError, match=r"needs the model's tokenizer\.json"):
        quantize_model(checkpoint, method="gptq", calibration_text="Once")


@needs_nano
def test_calibration_text_becomes_sequences():
    directory = resolve_model("nano")
    config = load_checkpoint(directory).config
    text = (directory / "calibration.txt").read_text()
    sequences = calibration_sequences(text, directory / "tokenizer.json", config, tokens=1000)
    assert sum(map(len, sequences)) == 1000
    assert len(sequences) > 2
    assert all(s[0] == config.bos for s in sequences)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert text.startswith(tokenizer.decode(sequences[0]))
    with pytest.raises(CheckpointError, match="calibration text is empty"):
        calibration_sequences("\n\n \n", directory / "tokenizer.json", config)


@needs_nano
def test_gptq_on_the_shipped_model():
    directory = resolve_model("nano")
    checkpoint = load_checkpoint(directory)
    text = (directory / "calibration.txt").read_text()
    seen = []
    tuned = quantize_model(
        checkpoint,
        "gptq",
        calibration_text=text,
        calibration_tokens=2000,
        progress=lambda *step: seen.append(step),
    )
    matrices = 6 * checkpoint.config.layers + 1
    assert seen[-1] == ("quantize", matrices - 1, matrices)
    sequences = calibration_sequences(
        text, checkpoint.tokenizer_path, checkpoint.config, tokens=1500
    )

    exact = folded_forward(checkpoint, sequences)
    nearest = quantize_model(checkpoint)

    def distance(model):
        return np.linalg.norm(rounded_forward(checkpoint, model, sequences) - exact)

    assert distance(tuned) < distance(nearest)
