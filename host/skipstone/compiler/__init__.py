"""From a quantized model to a memory image, in named steps.

check → place → pack → program; each is a function of this package and can be called and inspected
on its own. All but packing need the model's shape only.
"""

from .compile import compile_model, compile_to_file
from .fit import check_fit
from .kv_room import ExpectedSkip, kv_rooms
from .plan import Plan, plan_image
from .program import build_program

__all__ = [
    "ExpectedSkip",
    "Plan",
    "build_program",
    "check_fit",
    "compile_model",
    "compile_to_file",
    "kv_rooms",
    "plan_image",
]
