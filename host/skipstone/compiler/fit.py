"""Does a model fit a core? Every reason at once if not."""

from __future__ import annotations

from ..model import ModelConfig
from ..spec.config import CoreConfig
from ..spec.errors import ConfigError
from .program import program_length

__all__ = ["check_fit"]

KV_CAPACITY_MAX = 0xFFFF
BLOCKS_MAX = 0xFFFF
"""What the fields of GEOMETRY and LINEAR hold."""


def check_fit(model: ModelConfig, config: CoreConfig, kv_capacity: int) -> None:
    """Raise ConfigError naming each dimension of `model` that `config` cannot hold."""
    problems = []

    def at_most(what: str, value: int, limit: int) -> None:
        if value > limit:
            problems.append(f"{what} is {value}, the core holds at most {limit}")

    def multiple(what: str, value: int, of: int) -> None:
        if value % of:
            problems.append(f"{what} is {value}, must be a multiple of {of}")

    query = model.heads * model.head_dim
    at_most("hidden_size", model.hidden, config.max_hidden)
    at_most("intermediate_size", model.ffn, config.max_ffn)
    at_most("num_attention_heads * head_dim", query, config.max_query)
    at_most("num_hidden_layers", model.layers, config.max_layers)
    at_most("KV capacity (tokens)", kv_capacity, min(config.max_context, KV_CAPACITY_MAX))
    instructions = program_length(model.layers)
    at_most("instructions of the program", instructions, config.max_program)
    tiles = -(-max(2 * model.ffn, model.vocab) // config.columns)
    at_most("blocks of columns of a matrix", tiles, BLOCKS_MAX)
    for what, value in (("hidden_size", model.hidden), ("intermediate_size", model.ffn)):
        multiple(what, value, config.group)
        multiple(what, value, config.columns)
    multiple("num_attention_heads * head_dim", query, config.group)
    head_dims = [1 << log2 for log2 in config.head_dim_log2]
    if model.head_dim not in head_dims:
        known = " or ".join(map(str, head_dims))
        problems.append(f"head_dim must be {known}, not {model.head_dim}")
    if kv_capacity < 1 or kv_capacity % 64:
        problems.append(f"KV capacity must be a positive multiple of 64, not {kv_capacity}")
    if problems:
        raise ConfigError(f"the model does not fit core {config.name!r}: " + "; ".join(problems))
