"""The front end: Hugging Face Llama checkpoints with SkipGPT routers, read and checked.

Nothing here needs torch: safetensors and torch's zip archives are parsed and bounds-checked by this
package.
"""

from .checkpoint import Checkpoint, load_checkpoint, read_config
from .config import KvRule, ModelConfig, RopeScaling
from .rope import rope_frequencies, rope_table
from .routers import LayerRouters, Router
from .shapes import SHAPES, named_shape, parameter_count
from .shipped import SHIPPED, resolve_model
from .synthetic import make_checkpoint

__all__ = [
    "SHAPES",
    "SHIPPED",
    "Checkpoint",
    "KvRule",
    "LayerRouters",
    "ModelConfig",
    "RopeScaling",
    "Router",
    "load_checkpoint",
    "make_checkpoint",
    "named_shape",
    "parameter_count",
    "read_config",
    "resolve_model",
    "rope_frequencies",
    "rope_table",
]
