"""A Hugging Face Llama directory: config, weights, routers, tokenizer, held against one another.

Loading reads headers only; tensors are read when asked for, so a checkpoint larger than memory can
be quantized layer by layer.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import CheckpointError, UnsupportedModelError
from .config import KvRule, ModelConfig, parse_config
from .routers import ROUTER_NAME, LayerRouters, read_router_file, routers_from_tensors
from .tensors import FLOAT_DTYPES, TensorFile, read_json

__all__ = ["INDEX_FILE", "Checkpoint", "expected_shapes", "load_checkpoint", "read_config"]

_SINGLE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_ROUTER_FILES = ("routers.safetensors", "router.safetensors", "router.pth")
_DERIVED = re.compile(r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Tensors that old checkpoints carry and the config determines."""


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was trained.

    Attributes
    ----------
    config : ModelConfig
    directory : Path
    routers : tuple of LayerRouters, or None
        None for a dense model.
    tokenizer_path : Path or None
    sources : tuple of Path
        Every file the model was read from.
    """

    config: ModelConfig
    directory: Path
    routers: tuple[LayerRouters, ...] | None
    tokenizer_path: Path | None
    sources: tuple[Path, ...]
    _files: Mapping[str, TensorFile] = field(repr=False)

    def tensor(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """The tensor of this Hugging Face name, or its rows `start` to `stop`.

        Raises CheckpointError if it is not finite.
        """
        try:
            file = self._files[name]
        except KeyError:
            raise CheckpointError(f"{self.directory}: no tensor named {name!r}") from None
        return file.read(name, start, stop)

    def layer_tensor(
        self, layer: int, name: str, start: int = 0, stop: int | None = None
    ) -> NDArray[np.float32]:
        """``model.layers.LAYER.NAME.weight``, or its rows `start` to `stop`."""
        return self.tensor(f"model.layers.{layer}.{name}.weight", start, stop)

    @property
    def head_name(self) -> str:
        """Name of the tensor that serves as LM head."""
        return "model.embed_tokens.weight" if self.config.tied else "lm_head.weight"


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor the model needs, and its shape."""
    d, f = config.hidden, config.ffn
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab, d)}
    per_layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (d,),
        "self_attn.q_proj": (q, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, q),
        "post_attention_layernorm": (d,),
        "mlp.gate_proj": (f, d),
        "mlp.up_proj": (f, d),
        "mlp.down_proj": (d, f),
    }
    for layer in range(config.layers):
        shapes |= {f"model.layers.{layer}.{n}.weight": s for n, s in per_layer.items()}
    shapes["model.norm.weight"] = (d,)
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocab, d)
    return shapes


def read_config(directory: Path) -> ModelConfig:
    """The configuration in ``config.json`` of a directory; weights need not be there.

    Raises CheckpointError, or UnsupportedModelError with every reason.
    """
    config, reasons = _read_config(directory)
    if reasons:
        raise UnsupportedModelError(reasons)
    return config


def _read_config(directory: Path) -> tuple[ModelConfig, list[str]]:
    path = directory / "config.json"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_config(read_json(raw, str(path)), directory.resolve().name)


def _shards(directory: Path) -> tuple[list[Path], dict[str, Any] | None]:
    """Weight files, and the index' map if there is one."""
    if (directory / _SINGLE).exists():
        return [directory / _SINGLE], None
    index = directory / INDEX_FILE
    if not index.exists():
        hint = ""
        if any(directory.glob("*.bin")):
            hint = "; convert the .bin files to safetensors first"
        raise CheckpointError(f"{directory}: neither {_SINGLE} nor {INDEX_FILE} is there{hint}")
    weight_map = read_json(index.read_bytes(), str(index)).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(f, str) and PurePath(f).name == f and f not in ("", "..")
        for f in weight_map.values()
    ):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names")
    return [directory / name for name in sorted(set(weight_map.values()))], weight_map


def _open_weights(directory: Path) -> tuple[dict[str, TensorFile], list[Path]]:
    paths, weight_map = _shards(directory)
    files: dict[str, TensorFile] = {}
    for path in paths:
        file = TensorFile(path)
        for name in file.tensors:
            if name in files:
                raise CheckpointError(f"tensor {name!r} is in {files[name].path} and in {path}")
            files[name] = file
    for name, shard in (weight_map or {}).items():
        if name not in files or files[name].path.name != shard:
            raise CheckpointError(f"{directory / shard}: lacks tensor {name!r} of {INDEX_FILE}")
    return files, paths


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _check_tensors(config: ModelConfig, files: Mapping[str, TensorFile]) -> list[str]:
    """Hold tensors against the config; returns reasons why a dtype is not supported.

    Raises CheckpointError for missing, unknown and mis-shaped tensors.
    """
    expected = expected_shapes(config)
    missing = [n for n in expected if n not in files]
    if missing:
        raise CheckpointError(f"missing tensors: {_some(missing)}")
    contradictions, reasons = [], []
    for name, shape in expected.items():
        t = files[name].tensors[name]
        if t.shape != shape:
            contradictions.append(
                f"{name} has shape {list(t.shape)}, config.json gives {list(shape)}"
            )
        if t.dtype not in FLOAT_DTYPES:
            reasons.append(f"{name}: dtype must be one of {', '.join(FLOAT_DTYPES)}, not {t.dtype}")
    if contradictions:
        raise CheckpointError(
            f"config.json contradicts the tensors: {'; '.join(contradictions[:8])}"
        )
    ignored = {"lm_head.weight"} if config.tied else set()
    strangers = [
        n
        for n in files
        if n not in expected
        and n not in ignored
        and not _DERIVED.fullmatch(n)
        and not ROUTER_NAME.fullmatch(n)
    ]
    if strangers:
        raise CheckpointError(f"tensors that config.json does not account for: {_some(strangers)}")
    return reasons


def _find_routers(directory: Path, choice: str | None) -> Path | None:
    """The router file meant by `choice`; None if routers are not in a file of their own."""
    if choice is None:
        return next((directory / n for n in _ROUTER_FILES if (directory / n).exists()), None)
    candidates = [directory / choice, directory / f"routers-{choice}.safetensors", Path(choice)]
    for path in candidates:
        if path.is_file():
            return path
    available = sorted(p.name for p in directory.glob("router*") if p.is_file())
    raise CheckpointError(
        f"no routers {choice!r}: give a file, or one of {', '.join([*available, 'none'])}"
    )


def load_checkpoint(
    path: str | Path, *, routers: str | None = None, kv_rule: KvRule | None = None
) -> Checkpoint:
    """Open the model in directory `path`.

    Parameters
    ----------
    routers
        A router file (of the directory, or a path), the NAME of ``routers-NAME.safetensors``,
        "none" for a dense model, or None for the directory's own routers if it has any.
    kv_rule
        Overrides the rule the routers were trained with ("kv_reuse" where they do not say).

    Raises
    ------
    UnsupportedModelError
        With every reason why the model is outside the supported family.
    CheckpointError
        If a file is damaged or contradicts another.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: not a directory")
    config = read_config(directory)
    files, sources = _open_weights(directory)
    reasons = _check_tensors(config, files)
    if reasons:
        raise UnsupportedModelError(reasons)

    found: tuple[LayerRouters, ...] | None = None
    trained_rule: str | None = None
    if routers != "none":
        router_path = _find_routers(directory, routers)
        if router_path is not None:
            tensors, trained_rule = read_router_file(router_path)
            sources = [*sources, router_path]
        else:
            tensors = {n: f.read(n) for n, f in files.items() if ROUTER_NAME.fullmatch(n)}
        if tensors or router_path is not None:
            found = routers_from_tensors(
                tensors,
                layers=config.layers,
                hidden=config.hidden,
                where=str(router_path or directory),
            )
    rule = kv_rule or trained_rule or "kv_reuse"
    if rule == "kv_reuse":
        config = dataclasses.replace(config, kv_rule="kv_reuse")
    elif rule == "kv_recompute":
        config = dataclasses.replace(config, kv_rule="kv_recompute")
    else:
        raise CheckpointError(f"kv_rule must be 'kv_reuse' or 'kv_recompute', not {rule!r}")
    tokenizer = directory / "tokenizer.json"
    return Checkpoint(
        config=config,
        directory=directory,
        routers=found,
        tokenizer_path=tokenizer if tokenizer.is_file() else None,
        sources=(directory / "config.json", *sources),
        _files=files,
    )
