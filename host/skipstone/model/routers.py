"""SkipGPT routers (Zhao et al., arXiv 2506.04179): two linear maps D→2 a layer, class 1 skips.

Both forms in which they are found are read: safetensors, and SkipGPT's own ``router.pth``. Tensors
are named ``model.layers.N.router_{attention,mlp}.weight_predictor.{weight,bias}``, in router.pth
sometimes behind ``base_model.model.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import CheckpointError
from .archive import read_torch_archive
from .tensors import TensorFile, check_finite

__all__ = ["ROUTER_NAME", "LayerRouters", "Router", "read_router_file", "routers_from_tensors"]

ROUTER_NAME = re.compile(
    r"(?:base_model\.model\.)?model\.layers\.(?P<layer>\d{1,4})"
    r"\.router_(?P<module>attention|mlp)\.weight_predictor\.(?P<part>weight|bias)"
)
"""Full match of a router tensor's name."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Router:
    """Logits of the classes execute and skip: weight (2, hidden), bias (2,)."""

    weight: Float32
    bias: Float32

    def difference(self) -> tuple[Float32, np.float32]:
        """w, b such that w·x + b > 0 means skip."""
        w, b = self.weight.astype(np.float64), self.bias.astype(np.float64)
        return (w[1] - w[0]).astype(np.float32), np.float32(b[1] - b[0])


@dataclass(frozen=True)
class LayerRouters:
    """Both routers of a layer."""

    attention: Router
    mlp: Router


def read_router_file(path: Path) -> tuple[dict[str, Float32], str | None]:
    """Tensors of a router file, and the KV rule it was trained with if it says so."""
    if path.suffix in (".pth", ".pt", ".bin"):
        return read_torch_archive(path), None
    file = TensorFile(path)
    return {name: file.read(name) for name in file.tensors}, file.metadata.get("kv_rule")


def routers_from_tensors(
    tensors: Mapping[str, Float32], *, layers: int, hidden: int, where: str
) -> tuple[LayerRouters, ...]:
    """The routers of all layers.

    Raises CheckpointError listing names that are missing, unknown, given twice or mis-shaped.
    """
    found: dict[tuple[int, str, str], Float32] = {}
    problems = []
    for name, value in tensors.items():
        match = ROUTER_NAME.fullmatch(name)
        if match is None:
            problems.append(f"{name!r} is not the name of a router tensor")
            continue
        key = (int(match["layer"]), match["module"], match["part"])
        shape = (2, hidden) if key[2] == "weight" else (2,)
        if key[0] >= layers:
            problems.append(f"{name!r}: the model has {layers} layers")
        elif key in found:
            problems.append(f"{name!r} occurs with and without its prefix")
        elif value.shape != shape:
            problems.append(f"{name!r}: shape is {value.shape}, the config gives {shape}")
        else:
            check_finite(value, f"{where}: tensor {name!r}")
            found[key] = value
    wanted = [
        (n, m, p) for n in range(layers) for m in ("attention", "mlp") for p in ("weight", "bias")
    ]
    if not problems:
        problems += [
            f"'model.layers.{n}.router_{m}.weight_predictor.{p}' is missing"
            for n, m, p in wanted
            if (n, m, p) not in found
        ]
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise CheckpointError(f"{where}: " + "; ".join(shown))

    def router(layer: int, module: str) -> Router:
        return Router(found[layer, module, "weight"], found[layer, module, "bias"])

    return tuple(LayerRouters(router(n, "attention"), router(n, "mlp")) for n in range(layers))
