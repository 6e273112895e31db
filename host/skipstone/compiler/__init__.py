"""From a quantized model to a memory image, in named steps.

check → pack → place → program → assemble; each is a function of this package and can be called and
inspected on its own.
"""

from .compile import compile_model
from .fit import check_fit
from .program import build_program

__all__ = ["build_program", "check_fit", "compile_model"]
