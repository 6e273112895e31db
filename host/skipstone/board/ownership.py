"""One user at a time: a lock file that lives as long as its owner."""

from __future__ import annotations

import contextlib
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
        self._path = Path(tempfile.gettempdir()) / f"skipstone-{safe}.lock"
        self._descriptor: int | None = None
        while self._descriptor is None:
            self._descriptor = self._try(name)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def _try(self, name: str) -> int | None:
        """The locked file; None if its last owner removed it meanwhile."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise DeviceBusyError(
                f"the device {name!r} cannot be locked: {self._path}: {error.strerror}"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            whose = "this process" if owner == str(os.getpid()) else f"process {owner}"
            raise DeviceBusyError(
                f"the device {name!r} is in use by {whose} ({self._path})"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
        return None

    def release(self) -> None:
        """Let others have the device."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
