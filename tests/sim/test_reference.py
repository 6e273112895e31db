"""The torch reference against transformers' Llama, and against a naive loop over single tokens."""

import math

import pytest

torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")

from skipstone_sim.reference import Cache, Reference, ReferenceConfig  # noqa: E402

pytestmark = pytest.mark.torch

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def make_config(**changes) -> dict:
    return {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        **changes,
    }


def make_weights(config: dict, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    c = ReferenceConfig.from_hf(config)
    d, f = c.hidden_size, c.intermediate_size

    def normal(*shape):
        return torch.randn(*shape, generator=g) / math.sqrt(shape[-1])

    weights = {"model.embed_tokens.weight": torch.randn(c.vocab_size, d, generator=g)}
    weights["model.norm.weight"] = 1 + 0.3 * torch.randn(d, generator=g)
    for n in range(c.layers):
        p = f"model.layers.{n}."
        weights |= {
            p + "input_layernorm.weight": 1 + 0.3 * torch.randn(d, generator=g),
            p + "post_attention_layernorm.weight": 1 + 0.3 * torch.randn(d, generator=g),
            p + "self_attn.q_proj.weight": 2 * normal(c.heads * c.head_dim, d),
            p + "self_attn.k_proj.weight": 2 * normal(c.kv_heads * c.head_dim, d),
            p + "self_attn.v_proj.weight": normal(c.kv_heads * c.head_dim, d),
            p + "self_attn.o_proj.weight": normal(d, c.heads * c.head_dim),
            p + "mlp.gate_proj.weight": normal(f, d),
            p + "mlp.up_proj.weight": normal(f, d),
            p + "mlp.down_proj.weight": normal(d, f),
        }
    if not c.tied:
        weights["lm_head.weight"] = normal(c.vocab_size, d)
    return weights


def make_routers(config: dict, seed: int = 1, bias: float = 0.0) -> dict:
    g = torch.Generator().manual_seed(seed)
    routers = {}
    for n in range(config["num_hidden_layers"]):
        for module in ("attention", "mlp"):
            name = f"model.layers.{n}.router_{module}.weight_predictor."
            routers[name + "weight"] = torch.randn(2, config["hidden_size"], generator=g)
            routers[name + "bias"] = torch.tensor([bias, -bias])
    return routers


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "tie_word_embeddings": False},
        {"head_dim": 16, "tie_word_embeddings": False},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 5000.0},
        {"rope_scaling": LLAMA3, "rope_theta": 500000.0, "head_dim": 32},
    ],
    ids=["gqa2-tied", "mha", "gqa4-untied", "wide-heads-untied", "linear", "llama3"],
)
def test_dense_agrees_with_transformers(changes):
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[torch]'")
    config = make_config(**changes)
    weights = make_weights(config)
    hf = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    missing = hf.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    hf.tie_weights()
    tokens = torch.randint(61, (2, 80), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = hf(tokens).logits
        logits = Reference(config, weights, make_routers(config), dense=True).forward(tokens).logits
        plain = Reference(hf.config.to_dict(), weights).forward(tokens).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-4)


def naive(config: dict, weights: dict, routers: dict, tokens: list[int], kv_rule: str):
    """Token by token, head by head, with a search for each K/V version: the rules, literally."""
    c = ReferenceConfig.from_hf(config)
    w = {name: tensor.double() for name, tensor in weights.items()}
    r = {name: tensor.double() for name, tensor in routers.items()}

    def norm(x, gamma):
        return x / torch.sqrt((x * x).mean() + c.rms_norm_eps) * gamma

    def rope(x, position):
        out = x.clone()
        half = c.head_dim // 2
        for i in range(half):
            angle = position * c.rope_theta ** (-2 * i / c.head_dim)
            a, b = x[i], x[i + half]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    store: dict[tuple[int, int], tuple] = {}  # (token, layer) → K heads, V heads, where computed
    executed: dict[tuple[int, int], bool] = {}
    logits, skips = [], []
    for t, token in enumerate(tokens):
        x = w["model.embed_tokens.weight"][token]
        decisions = []
        for n in range(c.layers):
            p = f"model.layers.{n}."
            skip = []
            for module in ("attention", "mlp"):
                name = f"{p}router_{module}.weight_predictor."
                one = r[name + "weight"] @ x + r[name + "bias"]
                skip.append(bool(one[1] > one[0]))
            decisions.append(skip)
            executed[t, n] = not skip[0]
            h = norm(x, w[p + "input_layernorm.weight"])
            if n == 0 or not skip[0] or kv_rule == "kv_recompute":
                k = (w[p + "self_attn.k_proj.weight"] @ h).view(c.kv_heads, c.head_dim)
                v = (w[p + "self_attn.v_proj.weight"] @ h).view(c.kv_heads, c.head_dim)
                store[t, n] = ([rope(head, t) for head in k], list(v))
            if not skip[0]:
                q = (w[p + "self_attn.q_proj.weight"] @ h).view(c.heads, c.head_dim)
                heads = []
                for head in range(c.heads):
                    kv = head // (c.heads // c.kv_heads)
                    scores, values = [], []
                    for s in range(t + 1):
                        version = n
                        if kv_rule == "kv_reuse":
                            while version > 0 and not executed[s, version]:
                                version -= 1
                        keys, vals = store[s, version]
                        scores.append(rope(q[head], t) @ keys[kv] / math.sqrt(c.head_dim))
                        values.append(vals[kv])
                    share = torch.softmax(torch.stack(scores), 0)
                    heads.append(share @ torch.stack(values))
                x = x + w[p + "self_attn.o_proj.weight"] @ torch.cat(heads)
            if not skip[1]:
                h = norm(x, w[p + "post_attention_layernorm.weight"])
                gate = w[p + "mlp.gate_proj.weight"] @ h
                up = w[p + "mlp.up_proj.weight"] @ h
                x = x + w[p + "mlp.down_proj.weight"] @ (gate / (1 + torch.exp(-gate)) * up)
        head = w["model.embed_tokens.weight" if c.tied else "lm_head.weight"]
        logits.append(head @ norm(x, w["model.norm.weight"]))
        skips.append(decisions)
    return torch.stack(logits), torch.tensor(skips)


ROUTED = make_config(num_hidden_layers=5)


@pytest.mark.parametrize("bias", [0.0, 3.0, -1e9], ids=["half", "few", "all-skipped"])
@pytest.mark.parametrize("kv_rule", ["kv_reuse", "kv_recompute"])
def test_routed_agrees_with_naive_loop(kv_rule, bias):
    weights, routers = make_weights(ROUTED), make_routers(ROUTED, bias=bias)
    tokens = torch.randint(61, (1, 14), generator=torch.Generator().manual_seed(3))
    logits, skips = naive(ROUTED, weights, routers, tokens[0].tolist(), kv_rule)
    out = Reference(ROUTED, weights, routers, kv_rule=kv_rule).forward(tokens)
    assert torch.equal(out.skips[0], skips)
    if bias == -1e9:
        assert skips.all()
    else:
        assert 0.05 < skips.float().mean() < 0.6
    torch.testing.assert_close(out.logits[0].double(), logits, rtol=1e-3, atol=1e-3)


def test_kv_rules_differ_where_attention_was_skipped():
    weights, routers = make_weights(ROUTED), make_routers(ROUTED)
    tokens = torch.arange(20)[None]
    reuse = Reference(ROUTED, weights, routers, kv_rule="kv_reuse").forward(tokens)
    recompute = Reference(ROUTED, weights, routers, kv_rule="kv_recompute").forward(tokens)
    assert not torch.allclose(reuse.logits, recompute.logits, atol=1e-3)


@pytest.mark.parametrize("kv_rule", ["kv_reuse", "kv_recompute"])
def test_cached_chunks_equal_one_pass(kv_rule):
    model = Reference(ROUTED, make_weights(ROUTED), make_routers(ROUTED), kv_rule=kv_rule)
    tokens = torch.randint(61, (2, 17), generator=torch.Generator().manual_seed(4))
    whole = model.forward(tokens)
    cache, parts = Cache(), []
    for chunk in tokens.split([7, 1, 1, 8], dim=1):
        parts.append(model.forward(chunk, cache=cache))
    assert cache.length == 17
    torch.testing.assert_close(
        torch.cat([part.logits for part in parts], dim=1), whole.logits, rtol=1e-4, atol=1e-4
    )
    assert torch.equal(torch.cat([part.skips for part in parts], dim=1), whole.skips)


def test_generate_is_greedy_and_stops():
    model = Reference(ROUTED, make_weights(ROUTED), make_routers(ROUTED))
    made = model.generate([1, 2, 3], 6)
    expected = [1, 2, 3]
    for _ in range(6):
        expected.append(int(model.forward(torch.tensor([expected])).logits[0, -1].argmax()))
    assert made == expected[3:]
    assert model.generate([1, 2, 3], 6, stop=[made[0]]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "attention_bias must be false, not True"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "must be default, linear or llama3, not 'yarn'"),
    ],
)
def test_unsupported_config_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Reference(make_config(**changes), {})


def test_unknown_kv_rule_is_named():
    with pytest.raises(ValueError, match="kv_rule must be 'kv_reuse' or 'kv_recompute', not 'kv'"):
        Reference(make_config(), {}, kv_rule="kv")
