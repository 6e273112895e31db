"""The runtime: prompts in, tokens and text out, on any device."""

from .engine import Engine, Generation, StepResult
from .kv_space import KvSpace
from .sampling import Sampler
from .schedules import DecisionMap, First, Given, Schedule, SkipDecode
from .statistics import Statistics
from .text import TextStream, encode_prompt, load_tokenizer

__all__ = [
    "DecisionMap",
    "Engine",
    "First",
    "Generation",
    "Given",
    "KvSpace",
    "Sampler",
    "Schedule",
    "SkipDecode",
    "Statistics",
    "StepResult",
    "TextStream",
    "encode_prompt",
    "load_tokenizer",
]
