"""One user at a time: a lock file that lives as long as its owner."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from pathlib import Path

from ..spec.errors import DeviceBusyError

__all__ = ["Ownership"]


class Ownership:
    """Exclusive use of the device called `name`, until `release` or the end of the process.

    Raises DeviceBusyError, naming the other process, if somebody else has it.
    """

    def __init__(self, name: str):
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        path = Path(tempfile.gettempdir()) / f"skipstone-{safe}.lock"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise DeviceBusyError(
                f"the device {name!r} cannot be locked: {path}: {error.strerror}"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            whose = "this process" if owner == str(os.getpid()) else f"process {owner}"
            raise DeviceBusyError(f"the device {name!r} is in use by {whose} ({path})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let others have the device."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
