"""Devices of this process: memory is a numpy array that the host reads and writes in place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Device, first_byte

__all__ = ["ArrayDevice"]


class ArrayDevice(Device):
    """A device whose memory is one array, (words, bytes per word): `_memory`."""

    _memory: NDArray[np.uint8]

    def allocate(self, words: int) -> None:
        self._memory = np.zeros((words, self.config.word_bytes), np.uint8)

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        raw = np.asarray(data, np.uint8).reshape(-1)
        start = self._locate(address, raw.size)
        self._memory.reshape(-1)[start : start + raw.size] = raw

    def read(self, address: int, count: int) -> NDArray[np.uint8]:
        start = self._locate(address, count)
        return self._memory.reshape(-1)[start : start + count].copy()

    def _locate(self, address: int, count: int) -> int:
        return first_byte(address, count, self.config.word_bytes, self._memory.size)
