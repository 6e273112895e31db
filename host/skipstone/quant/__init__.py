"""The quantizer: from float checkpoints to int4 matrices, an FP16 table and router vectors.

Fold (constants into matrices) → round (to nearest, or GPTQ on calibration text) → `QuantizedModel`.
"""

from .gptq import quantize_gptq
from .quantize import Quantizer, quantize_model
from .rtn import quantize_rtn
from .types import QuantizedLayer, QuantizedLinear, QuantizedModel, QuantizedSource
from .unfold import dequantized_checkpoint, dequantized_routers

__all__ = [
    "QuantizedLayer",
    "QuantizedLinear",
    "QuantizedModel",
    "QuantizedSource",
    "Quantizer",
    "dequantized_checkpoint",
    "dequantized_routers",
    "quantize_gptq",
    "quantize_model",
    "quantize_rtn",
]
