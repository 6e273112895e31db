"""A cache of build results, named by the hash of everything that made them.

An entry is a folder that appears by one rename when its build has succeeded, so a half-built one is
never seen; builders of the same entry wait for each other. The cache lies in ``$SKIPSTONE_CACHE``,
or else in ``${XDG_CACHE_HOME:-~/.cache}/skipstone``, and may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["cache_root", "cached", "content_key"]


def cache_root() -> Path:
    """The folder of all entries; it need not exist."""
    if override := os.environ.get("SKIPSTONE_CACHE"):
        return Path(override).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "skipstone"


def content_key(*parts: str | bytes) -> str:
    """Hash of the inputs of a build: 24 hexadecimal digits; the boundaries of the parts count."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:24]


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder of entry `key` among those of `kind`; `build` fills a new folder if there is none.

    If `build` raises, its folder is removed and nothing is entered.
    """
    folder = cache_root() / kind
    entry = folder / key
    if entry.is_dir():
        return entry
    folder.mkdir(parents=True, exist_ok=True)
    lock_path = folder / f"{key}.lock"
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if entry.is_dir():  # another builder was quicker
            return entry
        partial = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".partial", dir=folder))
        try:
            build(partial)
            partial.rename(entry)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return entry
