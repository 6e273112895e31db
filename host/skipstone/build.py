"""From the name of a model to its image: load, quantize, compile, and remember the result.

Images are kept by the hash of everything that made them (the model's files, the choices, the core's
configuration and the sources of these packages), so an unchanged request costs a file read.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from . import compiler, model, quant, spec
from .cache import cached, content_key
from .compiler import ExpectedSkip, compile_to_file
from .model import Checkpoint, KvRule, load_checkpoint, resolve_model
from .quant import Quantizer
from .quant.quantize import Method
from .spec.config import CoreConfig
from .spec.errors import ImageError, RequestError
from .spec.image import Image

__all__ = ["build_image", "calibration_text"]

Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and of how much."""

_FILE = "image.skipstone"


def calibration_text(checkpoint: Checkpoint) -> str:
    """The ``calibration.txt`` beside the model. Raises RequestError if there is none."""
    path = checkpoint.directory / "calibration.txt"
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise RequestError(f"GPTQ needs text to calibrate on: {path} is not there") from None


def _hash_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _own_sources() -> Iterator[bytes]:
    for package in (spec, model, quant, compiler):
        for path in sorted(Path(package.__path__[0]).glob("*.py")):
            yield path.read_bytes()


def build_image(
    name: str,
    config: CoreConfig,
    *,
    routers: str | None = None,
    kv_rule: KvRule | None = None,
    method: Method = "rtn",
    kv_capacity: int | None = None,
    kv_expected_skip: ExpectedSkip = 0.0,
    progress: Progress | None = None,
) -> Image:
    """The image of the model `name` (shipped, or a directory) for core `config`.

    Parameters
    ----------
    routers, kv_rule
        See `skipstone.model.load_checkpoint`.
    method
        "rtn", or "gptq" on the model's own ``calibration.txt``.
    kv_capacity
        Longest sequence in tokens.
    kv_expected_skip
        Share of the tokens that skip attention, of all layers or of each: KV stores get room for
        the others and a margin (`skipstone.compiler.kv_rooms`).
    """
    checkpoint = load_checkpoint(resolve_model(name), routers=routers, kv_rule=kv_rule)
    text = calibration_text(checkpoint) if method == "gptq" else None

    def build(folder: Path) -> None:
        source = Quantizer(checkpoint, method, config.group, calibration_text=text)
        compile_to_file(
            source,
            config,
            folder / _FILE,
            kv_capacity=kv_capacity,
            kv_expected_skip=kv_expected_skip,
            progress=progress,
        )

    room = (kv_capacity, kv_expected_skip)
    choices = repr((checkpoint.config, checkpoint.routers is None, method, text, room))
    files = [_hash_file(path) for path in checkpoint.sources]
    key = content_key(config.to_json(), choices, *files, *_own_sources())
    entry = cached("images", key, build)
    try:
        return Image.load(entry / _FILE)
    except (ImageError, OSError):  # a damaged entry is made anew
        shutil.rmtree(entry, ignore_errors=True)
        return Image.load(cached("images", key, build) / _FILE)
