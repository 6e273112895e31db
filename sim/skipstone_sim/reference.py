"""The torch reference: a Llama with SkipGPT routers, in execution order, a shape on every tensor.

This is the judge of accuracy. It is written to be read from top to bottom: embedding, then for
every layer the two routers, attention, MLP, then the head. With ``dense=True`` (or without routers)
it is Hugging Face's ``LlamaForCausalLM``; the tests hold it to that.

Shapes use B sequences, T tokens, D hidden size, H query heads, K key/value heads, E head_dim,
F intermediate size, V vocabulary, L layers, S tokens of past and present.

Skipping. Routers are SkipGPT's (Zhao et al., arXiv 2506.04179): before each layer two linear maps
D→2 with bias of the layer's *input* x, un-normalised, one for attention and one for the MLP;
class 0 executes, class 1 skips. A skipped module leaves x as it is. The key/value rule is one of

``kv_reuse``
    the cross-layer invariance of SkipOPU (arXiv 2603.14785): a token that skips attention in layer
    l has in layer l the K and V of the last layer where it executed attention; layer 0 always
    computes K and V;
``kv_recompute``
    SkipGPT's own: K and V are computed for all tokens in all layers.

Seen layer by layer, ``kv_reuse`` is a running selection, ``k = where(executes, fresh k, k of the
layer before)``, and so needs no search: the K and V handed from layer to layer are always those of
the last executed version.

RMSNorm: Zhang & Sennrich, arXiv 1910.07467. RoPE: Su et al., arXiv 2104.09864 (RoFormer), in the
half-split layout of Hugging Face. SwiGLU: Shazeer, arXiv 2002.05202. GQA: Ainslie et al.,
arXiv 2305.13245.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Cache", "Output", "Reference", "ReferenceConfig", "hard_gate", "rope_frequencies"]

KvRule = Literal["kv_reuse", "kv_recompute"]
Gate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """What the forward pass needs of a Hugging Face Llama ``config.json``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    tied: bool
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> ReferenceConfig:
        """Read the keys of ``config.json``, in the spelling of transformers 4 or 5."""
        for key in ("attention_bias", "mlp_bias"):
            if config.get(key):
                raise ValueError(f"{key} must be false, not {config[key]!r}")
        heads = config["num_attention_heads"]
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            tied=config.get("tie_word_embeddings", False),
            rope_theta=float(theta),
            rope_scaling=rope,
        )


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a forward pass returns; index 0 of the last axis is attention, 1 is the MLP.

    ``logits`` (B, T, V); ``skips`` (B, T, L, 2) bool, true where the routers skip the module;
    ``margins`` (B, T, L, 2), their logit of *skip* less that of *execute* (zeros without routers).
    """

    logits: Tensor
    skips: Tensor
    margins: Tensor


@dataclass
class Cache:
    """K (after RoPE) and V of past tokens, each layer (B, K, S, E): what that layer attends to."""

    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Number of tokens held."""
        return self.k[0].shape[2] if self.k else 0


def hard_gate(margin: Tensor) -> Tensor:
    """1 where a module executes, 0 where it is skipped: skip iff logit 1 > logit 0."""
    return (margin <= 0).to(margin.dtype)


def rope_frequencies(config: ReferenceConfig) -> Tensor:
    """Angle per position of each rotated pair, (E/2,): RoFormer's, scaled as the config says.

    ``linear`` divides all by the factor (arXiv 2306.15595); ``llama3`` divides the long waves,
    keeps the short ones and blends between them (Llama 3.1, ``rope_type: llama3``).
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    freq = 1.0 / config.rope_theta**exponents  # (E/2,)
    scaling = config.rope_scaling
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return freq
    if kind == "linear":
        return freq / scaling["factor"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * freq / (2 * math.pi)  # (E/2,)
        keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # (E/2,)
        return keep * freq + (1.0 - keep) * freq / scaling["factor"]
    raise ValueError(f"rope_scaling type must be default, linear or llama3, not {kind!r}")


def _rms_norm(x: Tensor, gamma: Tensor, eps: float) -> Tensor:
    return gamma * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))  # as x


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)  # (B, heads, T, E/2) twice
    return x * cos + torch.cat((-high, low), dim=-1) * sin  # (B, heads, T, E)


class Reference:
    """A Llama with routers over plain tensors.

    Parameters
    ----------
    config
        The mapping of a Hugging Face ``config.json``, or a :class:`ReferenceConfig`.
    weights
        Tensors under their Hugging Face names (``model.embed_tokens.weight`` …). They are used as
        they are, never copied, so gradients flow to them.
    routers
        ``model.layers.N.router_{attention,mlp}.weight_predictor.{weight (2, D), bias (2)}``.
    kv_rule
        ``kv_reuse`` or ``kv_recompute``.
    dense
        Ignore the routers: everything executes.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | ReferenceConfig,
        weights: Mapping[str, Tensor],
        routers: Mapping[str, Tensor] | None = None,
        *,
        kv_rule: KvRule = "kv_reuse",
        dense: bool = False,
    ) -> None:
        if kv_rule not in ("kv_reuse", "kv_recompute"):
            raise ValueError(f"kv_rule must be 'kv_reuse' or 'kv_recompute', not {kv_rule!r}")
        self.config = (
            config if isinstance(config, ReferenceConfig) else ReferenceConfig.from_hf(config)
        )
        self.weights = weights
        self.routers = None if dense else routers
        self.kv_rule = kv_rule
        self._freq = rope_frequencies(self.config)  # (E/2,)

    def forward(
        self, tokens: Tensor, *, cache: Cache | None = None, gate: Gate = hard_gate
    ) -> Output:
        """Logits and skip decisions for ``tokens`` (B, T).

        With a ``cache`` the tokens follow those it holds, and are appended to it. ``gate`` maps
        margins to how much each module executes; training passes a differentiable one.
        """
        c, w = self.config, self.weights
        b, t = tokens.shape
        past = cache.length if cache else 0
        position = torch.arange(past, past + t)  # (T,)
        angle = position[:, None].float() * self._freq  # (T, E/2)
        cos = torch.cat((angle, angle), dim=-1).cos()  # (T, E)
        sin = torch.cat((angle, angle), dim=-1).sin()  # (T, E)
        visible = None if past == 0 else torch.arange(past + t) <= position[:, None]  # (T, S)

        x = F.embedding(tokens, w["model.embed_tokens.weight"])  # (B, T, D)
        k_last = v_last = x  # replaced by layer 0, which always computes K and V
        margins: list[Tensor] = []
        for n in range(c.layers):
            layer = f"model.layers.{n}."

            # Routers: both read the layer's input.
            margin = self._margins(x, layer)  # (B, T, 2)
            execute = gate(margin) if self.routers is not None else torch.ones_like(margin)
            run_attention, run_mlp = execute[..., :1], execute[..., 1:]  # (B, T, 1) each
            margins.append(margin)

            # Attention.
            h = _rms_norm(x, w[layer + "input_layernorm.weight"], c.rms_norm_eps)  # (B, T, D)
            q = F.linear(h, w[layer + "self_attn.q_proj.weight"])  # (B, T, H·E)
            k = F.linear(h, w[layer + "self_attn.k_proj.weight"])  # (B, T, K·E)
            v = F.linear(h, w[layer + "self_attn.v_proj.weight"])  # (B, T, K·E)
            q = q.view(b, t, c.heads, c.head_dim).transpose(1, 2)  # (B, H, T, E)
            k = k.view(b, t, c.kv_heads, c.head_dim).transpose(1, 2)  # (B, K, T, E)
            v = v.view(b, t, c.kv_heads, c.head_dim).transpose(1, 2)  # (B, K, T, E)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            if self.routers is not None and self.kv_rule == "kv_reuse" and n > 0:
                fresh = run_attention[:, None]  # (B, 1, T, 1)
                k = fresh * k + (1 - fresh) * k_last  # (B, K, T, E)
                v = fresh * v + (1 - fresh) * v_last  # (B, K, T, E)
            k_last, v_last = k, v
            if cache is not None:
                k, v = _append(cache, n, k, v)  # (B, K, S, E) each
            group = c.heads // c.kv_heads
            a = F.scaled_dot_product_attention(
                q,
                k.repeat_interleave(group, dim=1),  # (B, H, S, E)
                v.repeat_interleave(group, dim=1),  # (B, H, S, E)
                attn_mask=visible,
                is_causal=visible is None,
                scale=c.head_dim**-0.5,
            )  # (B, H, T, E)
            a = a.transpose(1, 2).reshape(b, t, c.heads * c.head_dim)  # (B, T, H·E)
            a = F.linear(a, w[layer + "self_attn.o_proj.weight"])  # (B, T, D)
            x = x + run_attention * a  # (B, T, D)

            # MLP.
            h = _rms_norm(x, w[layer + "post_attention_layernorm.weight"], c.rms_norm_eps)
            up = F.linear(h, w[layer + "mlp.up_proj.weight"])  # (B, T, F)
            act = F.silu(F.linear(h, w[layer + "mlp.gate_proj.weight"])) * up  # (B, T, F)
            m = F.linear(act, w[layer + "mlp.down_proj.weight"])  # (B, T, D)
            x = x + run_mlp * m  # (B, T, D)

        x = _rms_norm(x, w["model.norm.weight"], c.rms_norm_eps)  # (B, T, D)
        head = w["model.embed_tokens.weight" if c.tied else "lm_head.weight"]  # (V, D)
        logits = F.linear(x, head)  # (B, T, V)
        stacked = torch.stack(margins, dim=2)  # (B, T, L, 2)
        return Output(logits=logits, skips=stacked > 0, margins=stacked)

    def _margins(self, x: Tensor, layer: str) -> Tensor:
        """Logit of *skip* less logit of *execute* of both routers: (B, T, D) → (B, T, 2)."""
        if self.routers is None:
            return x.new_zeros((*x.shape[:2], 2))
        both = []
        for module in ("attention", "mlp"):
            name = f"{layer}router_{module}.weight_predictor."
            logits = F.linear(x, self.routers[name + "weight"], self.routers[name + "bias"])
            both.append(logits[..., 1] - logits[..., 0])  # (B, T)
        return torch.stack(both, dim=-1)  # (B, T, 2)

    @torch.no_grad()
    def generate(self, tokens: Sequence[int], count: int, *, stop: Sequence[int] = ()) -> list[int]:
        """Up to ``count`` greedily chosen tokens after ``tokens``, ending before a stop token."""
        cache, made = Cache(), []
        step = torch.tensor([list(tokens)])  # (1, T)
        for _ in range(count):
            token = int(self.forward(step, cache=cache).logits[0, -1].argmax())
            if token in stop:
                break
            made.append(token)
            step = torch.tensor([[token]])  # (1, 1)
        return made


def _append(cache: Cache, n: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Append this call's K and V of layer ``n`` to the cache and return all of that layer's."""
    if n == len(cache.k):
        cache.k.append(k)
        cache.v.append(v)
    else:
        cache.k[n] = torch.cat((cache.k[n], k), dim=2)
        cache.v[n] = torch.cat((cache.v[n], v), dim=2)
    return cache.k[n], cache.v[n]
