"""The front end: Hugging Face Llama checkpoints with SkipGPT routers, read and checked.

Nothing here needs torch: safetensors and torch's zip archives are parsed and bounds-checked by this
package.
"""

from .checkpoint import Checkpoint, load_checkpoint
from .config import KvRule, ModelConfig, RopeScaling
from .rope import rope_frequencies, rope_table
from .routers import LayerRouters, Router
from .shipped import SHIPPED, resolve_model

__all__ = [
    "SHIPPED",
    "Checkpoint",
    "KvRule",
    "LayerRouters",
    "ModelConfig",
    "RopeScaling",
    "Router",
    "load_checkpoint",
    "resolve_model",
    "rope_frequencies",
    "rope_table",
]
