"""Memory words striped over the ports' buffers.

Word w of the core is beat w of every port: port p holds bytes p·B … p·B+B-1 of each word (B bytes
per beat) in a contiguous buffer of its own. Reads and writes move between an image's bytes and the
buffers with one strided copy per port; nothing is gathered in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..devices import first_byte

__all__ = ["Stripes"]

Sync = Callable[[int, int, int], None]
"""Called with a port, the first byte of its buffer, and how many."""

_CHUNK_BYTES = 8 << 20
"""Of an upload, between two reports of progress."""


class Stripes:
    """The words behind a set of buffers.

    Parameters
    ----------
    buffers
        For each port its host-side bytes, (words · B,).
    port_bytes
        B.
    flush, invalidate
        Make what the host wrote visible to the core, and the other way round.
    """

    def __init__(
        self,
        buffers: Sequence[NDArray[np.uint8]],
        port_bytes: int,
        *,
        flush: Sync,
        invalidate: Sync,
    ):
        self._buffers = [np.asarray(b).view(np.ndarray).reshape(-1, port_bytes) for b in buffers]
        self._ports, self._port_bytes = len(buffers), port_bytes
        self._word_bytes = self._ports * port_bytes
        self._flush, self._invalidate = flush, invalidate

    @property
    def words(self) -> int:
        """Words that fit."""
        return len(self._buffers[0])

    def clear(self) -> None:
        """Write zeros everywhere."""
        for port, buffer in enumerate(self._buffers):
            buffer[:] = 0
            self._flush(port, 0, buffer.size)

    def check(self, address: int, count: int) -> None:
        """Raise ValueError unless `count` bytes from word `address` on are inside."""
        first_byte(address, count, self._word_bytes, self.words * self._word_bytes)

    def write(
        self,
        address: int,
        data: NDArray[np.uint8],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write bytes from word `address` on; the last word may be cut short.

        `progress` is called with the bytes written and their total.
        """
        raw = np.asarray(data, np.uint8).reshape(-1)
        self.check(address, raw.size)
        step = max(1, _CHUNK_BYTES // self._word_bytes) * self._word_bytes
        for start in range(0, raw.size, step):
            part = raw[start : start + step]
            self._write(address + start // self._word_bytes, part)
            if progress is not None:
                progress(start + part.size, raw.size)

    def _write(self, address: int, raw: NDArray[np.uint8]) -> None:
        whole = raw.size // self._word_bytes
        words = raw[: whole * self._word_bytes].reshape(whole, self._ports, self._port_bytes)
        tail = raw[whole * self._word_bytes :]
        for port, buffer in enumerate(self._buffers):
            buffer[address : address + whole] = words[:, port]
            mine = tail[port * self._port_bytes : (port + 1) * self._port_bytes]
            if mine.size:
                buffer[address + whole, : mine.size] = mine
            touched = whole * self._port_bytes + mine.size
            if touched:
                self._flush(port, address * self._port_bytes, touched)

    def read(self, address: int, count: int) -> NDArray[np.uint8]:
        """`count` bytes from word `address` on."""
        self.check(address, count)
        words = -(-count // self._word_bytes)
        out = np.empty((words, self._ports, self._port_bytes), np.uint8)
        for port, buffer in enumerate(self._buffers):
            if words:
                self._invalidate(port, address * self._port_bytes, words * self._port_bytes)
            out[:, port] = buffer[address : address + words]
        return out.reshape(-1)[:count]
