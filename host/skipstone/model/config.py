"""What the rest of Skipstone needs of a Hugging Face ``config.json``.

`parse_config` reads the mapping and collects every reason why the model is outside the supported
family, so that one run names them all. A value that makes no sense in itself (a negative size, text
where a number belongs) is a damaged file instead: CheckpointError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..spec.errors import CheckpointError

__all__ = ["HEAD_DIMS", "KvRule", "ModelConfig", "RopeScaling", "parse_config"]

KvRule = Literal["kv_reuse", "kv_recompute"]

HEAD_DIMS = (32, 64, 128)
"""Head sizes the array's segmented adder trees can tap."""

_GROUP = 32
"""Smallest group of elements that shares an exponent: vectors are whole groups."""

_FAMILY = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
_EXPERT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched: "default", "linear" or "llama3".

    The last three fields belong to "llama3": the bounds, in wavelengths per original context,
    between which frequencies are blended.
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Llama's shape and constants.

    Attributes
    ----------
    hidden, layers, heads, kv_heads, head_dim, ffn, vocab, max_positions : int
    rope_theta : float
    rope_scaling : RopeScaling
    rms_eps : float
    tied : bool
        The LM head is the embedding table.
    kv_rule : {"kv_reuse", "kv_recompute"}
        What a token that skips attention has as K and V in that layer.
    bos : int or None
    eos : tuple of int
        Tokens that end a text.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_positions: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    rms_eps: float = 1e-6
    tied: bool = False
    kv_rule: KvRule = "kv_reuse"
    bos: int | None = None
    eos: tuple[int, ...] = ()

    def to_hf(self) -> dict[str, Any]:
        """The mapping of an equivalent Hugging Face ``config.json``."""
        scaling = self.rope_scaling
        rope: dict[str, Any] | None = None
        if scaling.kind != "default":
            rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if rope is not None and scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.max_positions,
            "rope_theta": self.rope_theta,
            "rope_scaling": rope,
            "rms_norm_eps": self.rms_eps,
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos,
            "eos_token_id": list(self.eos) if len(self.eos) != 1 else self.eos[0],
        }


def _bad(name: str, expected: str, value: Any) -> CheckpointError:
    return CheckpointError(f"config.json: {name} must be {expected}, not {value!r}")


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A positive integer field; absent or null gives `default`."""
    value = config.get(name)
    if value is None:
        value = default
    if value is None:
        raise CheckpointError(f"config.json: {name} is missing")
    if type(value) is not int or value < 1:
        raise _bad(name, "a positive integer", value)
    return value


def _positive(config: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A positive finite number; absent or null gives `default`."""
    value = config.get(name)
    if value is None:
        value = default
    if value is None:
        raise CheckpointError(f"config.json: {name} is missing")
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 < value < math.inf  # false for NaN too
    ):
        raise _bad(name, "a positive number", value)
    return float(value)


def _flag(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _bad(name, "true or false", value)
    return value


def _tokens(config: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """One token id, a list of them, or none."""
    value = config.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(i) is not int or i < 0 for i in ids):
        raise _bad(name, "a token id or a list of them", value)
    return tuple(ids)


def _rope(config: Mapping[str, Any], reasons: list[str]) -> tuple[float, RopeScaling]:
    """Base and scaling, in the spelling of transformers 4 (rope_scaling) or 5 (rope_parameters)."""
    name = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    scaling = config.get(name) or {}
    if not isinstance(scaling, Mapping):
        raise _bad(name, "an object", scaling)
    base = scaling if scaling.get("rope_theta") is not None else config
    theta = _positive(base, "rope_theta", 10000.0)
    if config.get("partial_rotary_factor", 1) != 1:
        reasons.append(f"partial_rotary_factor must be 1, not {config['partial_rotary_factor']!r}")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return theta, RopeScaling()
    if kind == "linear":
        return theta, RopeScaling(kind=kind, factor=_positive(scaling, "factor"))
    if kind == "llama3":
        low, high = (_positive(scaling, f"{n}_freq_factor") for n in ("low", "high"))
        if low >= high:
            raise _bad("high_freq_factor", f"above low_freq_factor ({low})", high)
        return theta, RopeScaling(
            kind=kind,
            factor=_positive(scaling, "factor"),
            low_freq_factor=low,
            high_freq_factor=high,
            original_max_positions=_size(scaling, "original_max_position_embeddings"),
        )
    reasons.append(f"{name}.rope_type must be default, linear or llama3, not {kind!r}")
    return theta, RopeScaling()


def _family_reasons(config: Mapping[str, Any], max_positions: int) -> list[str]:
    """Why the architecture is not one we compute."""
    reasons = []
    kind = config.get("model_type")
    if kind not in _FAMILY:
        reasons.append(f"model_type must be one of {', '.join(_FAMILY)}, not {kind!r}")
    for architecture in config.get("architectures") or ():
        if architecture not in _FAMILY.values():
            known = ", ".join(_FAMILY.values())
            reasons.append(f"architectures must be one of {known}, not {architecture!r}")
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            reasons.append(f"{name} must be false, not {config[name]!r}")
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        reasons.append(f"hidden_act must be 'silu', not {activation!r}")
    # MistralConfig's own default is a window of 4096; it has no effect on shorter contexts.
    window = config.get("sliding_window", 4096 if kind == "mistral" else None)
    if window is not None and not (type(window) is int and window >= max_positions):
        reasons.append(f"sliding_window must be null, not {window!r}")
    layer_types = set(config.get("layer_types") or ()) - {"full_attention"}
    if layer_types:
        reasons.append(f"layer_types must all be full_attention, not {sorted(layer_types)}")
    for name in _EXPERT_FIELDS:
        if config.get(name):
            reasons.append(f"{name} must be absent (mixture of experts), not {config[name]!r}")
    if config.get("quantization_config") is not None:
        reasons.append("quantization_config must be absent: give the unquantized checkpoint")
    return reasons


def parse_config(config: Mapping[str, Any], name: str) -> tuple[ModelConfig, list[str]]:
    """The model's configuration, and every reason why it is not supported.

    Raises CheckpointError for fields that are missing or make no sense.
    """
    hidden = _size(config, "hidden_size")
    heads = _size(config, "num_attention_heads")
    ffn = _size(config, "intermediate_size")
    kv_default = 8 if config.get("model_type") == "mistral" else heads
    kv_heads = _size(config, "num_key_value_heads", kv_default)
    if config.get("head_dim") is None and hidden % heads:
        raise CheckpointError(
            f"config.json: hidden_size ({hidden}) must be a multiple of "
            f"num_attention_heads ({heads}) where head_dim is not given"
        )
    head_dim = _size(config, "head_dim", hidden // heads)
    max_positions = _size(config, "max_position_embeddings", 2048)
    if heads % kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads ({heads}) must be a multiple of "
            f"num_key_value_heads ({kv_heads})"
        )

    reasons = _family_reasons(config, max_positions)
    theta, scaling = _rope(config, reasons)
    if head_dim not in HEAD_DIMS:
        allowed = ", ".join(map(str, HEAD_DIMS))
        reasons.append(f"head_dim must be one of {allowed}, not {head_dim}")
    for field_name, value in (("hidden_size", hidden), ("intermediate_size", ffn)):
        if value % _GROUP:
            reasons.append(f"{field_name} must be a multiple of {_GROUP}, not {value}")
    bos = _tokens(config, "bos_token_id")
    parsed = ModelConfig(
        name=name,
        hidden=hidden,
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=_size(config, "vocab_size"),
        max_positions=max_positions,
        rope_theta=theta,
        rope_scaling=scaling,
        rms_eps=_positive(config, "rms_norm_eps", 1e-6),
        tied=_flag(config, "tie_word_embeddings"),
        bos=bos[0] if bos else None,
        eos=_tokens(config, "eos_token_id"),
    )
    return parsed, reasons
