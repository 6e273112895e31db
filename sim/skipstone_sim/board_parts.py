"""The parts of a simulated board around its logic: memory, interrupt controller, kernel
interrupt."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bank", "Buffer", "InterruptController", "KernelInterrupt", "RegisterFile"]

_PAGE = 4096
_NEVER_WRITTEN = 0xA5
"""What a new buffer holds, on both sides: nobody may rely on zeros."""


@dataclass(eq=False)
class Buffer:
    """Contiguous device memory and its mirror on the host: bytes move only when asked to."""

    address: int
    size: int
    host: NDArray[np.uint8]
    memory: NDArray[np.uint8]

    def flush(self, offset: int, count: int) -> None:
        """Host to device."""
        self._device(offset, count)[:] = self.host[offset : offset + count]

    def invalidate(self, offset: int, count: int) -> None:
        """Device to host."""
        self.host[offset : offset + count] = self._device(offset, count)

    def _device(self, offset: int, count: int) -> NDArray[np.uint8]:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise ValueError(f"bytes {offset} to {offset + count} of a buffer of {self.size}")
        return self.memory[self.address + offset : self.address + offset + count]


@dataclass
class Bank:
    """A range of the board's memory, given out in pages, first fit.

    Attributes
    ----------
    memory
        All of the board's memory, from physical address 0.
    """

    memory: NDArray[np.uint8]
    base: int
    size: int
    taken: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size: int) -> Buffer:
        """Allocate. Raises RuntimeError, as XRT does, if no range is long enough."""
        pages = -(-max(size, 1) // _PAGE) * _PAGE
        with self._lock:
            start = self.base
            for address, length in sorted(self.taken.items()):
                if address - start >= pages:
                    break
                start = address + length
            if start + pages > self.base + self.size:
                raise RuntimeError("BO allocation failed: std::bad_alloc")
            self.taken[start] = pages
        self.memory[start : start + size] = _NEVER_WRITTEN
        host = np.full(size, _NEVER_WRITTEN, np.uint8)
        return Buffer(start, size, host, self.memory)

    def give_back(self, buffer: Buffer) -> None:
        """Free."""
        with self._lock:
            self.taken.pop(buffer.address, None)

    @property
    def free_bytes(self) -> int:
        """Bytes not given out."""
        return self.size - sum(self.taken.values())


class RegisterFile:
    """Registers that only remember."""

    def __init__(self, values: dict[int, int] | None = None):
        self._values = dict(values or {})

    def read(self, offset: int) -> int:
        return self._values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        self._values[offset] = value


class InterruptController:
    """AXI INTC with one level-sensitive input (AMD PG099): what it has seen stays in ISR until it
    is acknowledged, and returns at once while the line is still high.

    Attributes
    ----------
    line : bool
        The input when it was last seen.
    """

    _ISR, _IPR, _IER, _IAR, _SIE, _CIE, _MER = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x1C

    def __init__(self) -> None:
        self._status = self._enable = self._master = 0
        self.line = False

    def read(self, offset: int) -> int:
        return {
            self._ISR: self._status,
            self._IPR: self._status & self._enable,
            self._IER: self._enable,
            self._MER: self._master,
        }.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        if offset == self._IER:
            self._enable = value & 1
        elif offset == self._IAR:
            self._status &= ~value
        elif offset == self._SIE:
            self._enable |= value & 1
        elif offset == self._CIE:
            self._enable &= ~value
        elif offset == self._MER:
            self._master = value & 3
        self.sample(self.line)

    def sample(self, line: bool) -> None:
        """See the input."""
        self.line = line
        self._status |= int(line)

    @property
    def output(self) -> bool:
        """The line to the processor."""
        return self._master == 3 and bool(self._status & self._enable)


class KernelInterrupt:
    """The kernel's side of a UIO device (``uio_pdrv_genirq``): an interrupt masks itself and makes
    the file readable; writing a one to the file unmasks it.

    Attributes
    ----------
    descriptor : int
        The file, for whoever waits.
    lost : bool
        Nothing is reported while this is set.
    count : int
        Interrupts reported so far.
    """

    def __init__(self) -> None:
        kernel, user = socket.socketpair()
        kernel.setblocking(False)
        self._kernel = kernel
        self.descriptor = user.detach()
        self._enabled = False
        self.count = 0
        self.lost = False

    def fileno(self) -> int:
        """Readable when the user has written."""
        return self._kernel.fileno()

    def listen(self) -> None:
        """Take what the user wrote."""
        try:
            while written := self._kernel.recv(4):
                self._enabled = any(written)
        except BlockingIOError:
            pass

    def level(self, line: bool) -> None:
        """See the line."""
        if line and self._enabled and not self.lost:
            self._enabled = False
            self.count += 1
            self._kernel.send(self.count.to_bytes(4, "little"))
