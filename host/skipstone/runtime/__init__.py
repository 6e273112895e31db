"""The runtime: prompts in, tokens and text out, on any device."""

from .engine import Engine, Generation, StepResult
from .sampling import Sampler
from .statistics import Statistics
from .text import TextStream, encode_prompt, load_tokenizer

__all__ = [
    "Engine",
    "Generation",
    "Sampler",
    "Statistics",
    "StepResult",
    "TextStream",
    "encode_prompt",
    "load_tokenizer",
]
