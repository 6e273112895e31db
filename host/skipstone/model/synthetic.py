"""Checkpoints of any shape with random weights and routers: what conversion and speed are measured
with where no trained model can be had.

Magnitudes are those of a trained transformer, so that the residual stream neither dies nor
overflows, and routers skip about as often as asked; the text means nothing. Tensors are drawn one
by one and written to BF16 shards of bounded size, so memory does not grow with the model. Each
tensor's numbers depend on the seed and its place only.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ..spec.errors import RequestError
from .checkpoint import INDEX_FILE, expected_shapes
from .config import KvRule, ModelConfig

__all__ = ["make_checkpoint"]

Progress = Callable[[str, int, int], None]
_BLOCK = 1 << 22
"""Numbers drawn at once."""


def _to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    raw = x.view(np.uint32)
    return ((raw + 0x7FFF + ((raw >> 16) & 1)) >> 16).astype(np.uint16)


def _deviation(name: str, shape: tuple[int, ...], layers: int) -> float:
    """Standard deviation of a matrix' elements."""
    if name == "model.embed_tokens.weight":
        return 1.0
    inputs = shape[1] ** -0.5
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return inputs * (2 * layers) ** -0.5  # the stream stays of the embedding's size
    return inputs


def _values(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], layers: int
) -> Iterator[NDArray[np.uint16]]:
    """BF16 elements of a tensor, block by block."""
    if len(shape) == 1:
        yield _to_bf16(rng.uniform(0.5, 1.5, shape).astype(np.float32))
        return
    deviation = np.float32(_deviation(name, shape, layers))
    left = math.prod(shape)
    while left:
        count = min(left, _BLOCK)
        yield _to_bf16(rng.standard_normal(count, np.float32) * deviation)
        left -= count


def _header(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """Header of a safetensors file of these (dtype, shape), back to back."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * {"BF16": 2, "F32": 4}[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _shards(
    shapes: Mapping[str, tuple[int, ...]], shard_bytes: int
) -> list[dict[str, tuple[int, ...]]]:
    """Tensors in order, a new file when one would exceed `shard_bytes`."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    return shards


def _write_routers(path: Path, shape: ModelConfig, skip: float, rule: KvRule, seed: int) -> None:
    """SkipGPT routers: class 1 wins where a normal variable exceeds the quantile of `skip`."""
    rng = np.random.default_rng([seed, 1])
    threshold = NormalDist().inv_cdf(1 - skip)
    tensors: dict[str, NDArray[np.float32]] = {}
    for layer in range(shape.layers):
        for module in ("attention", "mlp"):
            name = f"model.layers.{layer}.router_{module}.weight_predictor."
            vector = rng.standard_normal(shape.hidden, np.float32) / np.float32(shape.hidden**0.5)
            tensors[name + "weight"] = np.stack([np.zeros_like(vector), vector])
            tensors[name + "bias"] = np.array([threshold, 0], np.float32)
    with path.open("wb") as f:
        f.write(_header({n: ("F32", t.shape) for n, t in tensors.items()}, {"kv_rule": rule}))
        for t in tensors.values():
            f.write(t.tobytes())


def _write_tokenizer(path: Path) -> None:
    """Byte-level, without merges: any text becomes ids 0 to 255."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))


def make_checkpoint(
    shape: ModelConfig,
    directory: Path,
    *,
    skip: float | None = 0.25,
    kv_rule: KvRule = "kv_reuse",
    seed: int = 0,
    shard_bytes: int = 2 << 30,
    progress: Progress | None = None,
) -> None:
    """Write a Hugging Face directory of `shape`, filled at random, with a byte-level tokenizer
    where the vocabulary has room for it.

    Parameters
    ----------
    directory
        Must not exist.
    skip
        Share of the executions that each router skips, roughly; None for no routers.
    shard_bytes
        A shard of ``model-0000i-of-0000n.safetensors`` grows to this, or to its one tensor.

    Raises RequestError for a share outside 0 to 1 or a directory that exists.
    """
    if skip is not None and not 0 < skip < 1:
        raise RequestError(f"skip must be above 0 and below 1, not {skip}")
    if directory.exists():
        raise RequestError(f"{directory}: exists already")
    partial = directory.with_name(directory.name + ".partial")
    partial.mkdir(parents=True, exist_ok=False)
    try:
        _write_weights(partial, shape, seed, shard_bytes, progress)
        if skip is not None:
            _write_routers(partial / "routers.safetensors", shape, skip, kv_rule, seed)
        if shape.vocab >= 256:
            _write_tokenizer(partial / "tokenizer.json")
        config = shape.to_hf() | {"torch_dtype": "bfloat16"}
        (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_weights(
    directory: Path, shape: ModelConfig, seed: int, shard_bytes: int, progress: Progress | None
) -> None:
    """The shards and their index."""
    shapes = expected_shapes(shape)
    shards = _shards(shapes, shard_bytes)
    total, done = sum(map(math.prod, shapes.values())), 0
    weight_map: dict[str, str] = {}
    place = 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (directory / file).open("wb") as f:
            f.write(_header({n: ("BF16", s) for n, s in shard.items()}, {"format": "pt"}))
            for name, tensor_shape in shard.items():
                rng = np.random.default_rng([seed, 0, place])
                place += 1
                for block in _values(rng, name, tensor_shape, shape.layers):
                    if progress is not None:
                        progress("write", done, total)
                    f.write(block.tobytes())
                    done += block.size
                weight_map[name] = file
    index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
