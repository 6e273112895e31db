"""The fast device: the HLS sources compiled for this machine, vectorised and on several threads.

It computes the hardware's bits: products are exact integers, so neither vectors nor threads can
change one. Sections of an image file are mapped, not copied, so a model takes little more memory
than its file.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Device, Run, RunResult, first_byte
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import ConfigError, DeviceTimeoutError
from skipstone.spec.image import Image, Section
from skipstone.spec.registers import COUNTERS

from ..trace import TRANSFER
from .build import Kind, build_library
from .device import STATUS_REGISTERS, register_values, run_result

__all__ = ["FastDevice", "Products"]

_MAPPED_BYTES = 1 << 16
"""Smaller sections are copied."""


class Products(IntEnum):
    """How the inner products are computed; all give the same bits."""

    PLAIN = 0
    """C++ for any processor."""
    VECTORS = 1
    """AVX-512 with byte dot products."""
    TILES = 2
    """AMX tiles for prefill, vectors for decoding."""


class _Segment(ctypes.Structure):
    _fields_ = (
        ("first", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("data", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class _Piece:
    """Bytes of memory from `first` on."""

    first: int
    data: NDArray[np.uint8]

    @property
    def end(self) -> int:
        return self.first + self.data.size


class FastDevice(Device):
    """The native engine of one configuration, with its memory.

    Parameters
    ----------
    config
    threads
        Default: as many as the process may use processors.
    products
        The best way to be used, if this machine has it.
    """

    name = "fast"

    def __init__(
        self,
        config: CoreConfig,
        *,
        progress: Callable[[str], None] | None = None,
        threads: int | None = None,
        products: Products = Products.TILES,
    ):
        self.config = config
        if threads is None:
            threads = len(os.sched_getaffinity(0))
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, not {threads}")
        self.threads = threads
        self._library = build_library(config, Kind.FAST, progress=progress)
        self._library.skipstone_open.restype = ctypes.c_void_p
        self._library.skipstone_take.restype = ctypes.c_uint64
        handle = self._library.skipstone_open(threads, int(products))
        if not handle:
            raise MemoryError(f"no memory for the buffers of core {config.name}")
        self._handle: ctypes.c_void_p | None = ctypes.c_void_p(handle)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="skipstone-fast")
        self._future: Future[None] | None = None
        self._status = np.zeros(STATUS_REGISTERS, np.uint32)
        self._counters = np.zeros(len(COUNTERS), np.uint64)
        self._pieces: list[_Piece] = []
        self.allocate(0)

    @property
    def products(self) -> Products:
        """The best way of computing products that is used."""
        return Products(self._library.skipstone_products(self._engine))

    @property
    def _engine(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise RuntimeError("the device is closed")
        return self._handle

    # -- memory ------------------------------------------------------------------------------------

    def allocate(self, words: int) -> None:
        self._idle("allocate")
        self._attach([_Piece(0, np.zeros(words * self.config.word_bytes, np.uint8))])

    def load(self, image: Image) -> None:
        """As the contract says; sections of an image file are mapped copy-on-write."""
        self._idle("load")
        image.check_config(self.config)
        word_bytes = self.config.word_bytes
        pieces: list[_Piece] = []
        end = 0

        def fill(to: int) -> None:
            if to > end:
                pieces.append(_Piece(end, np.zeros(to - end, np.uint8)))

        copied = []
        for section in sorted(image.sections.values(), key=lambda s: s.address):
            mapped = _map(section)
            if mapped is None:
                copied.append(section)
                continue
            fill(section.address * word_bytes)
            pieces.append(_Piece(section.address * word_bytes, mapped))
            end = pieces[-1].end
        fill(image.words * word_bytes)
        self._attach(pieces)
        for section in copied:
            if section.data.size:
                self.write(section.address, np.asarray(section.data))

    def _attach(self, pieces: list[_Piece]) -> None:
        self._pieces = pieces
        self._words = pieces[-1].end // self.config.word_bytes
        table = (_Segment * len(pieces))(
            *(_Segment(p.first, p.end, p.data.ctypes.data) for p in pieces)
        )
        self._library.skipstone_attach(self._engine, table, len(pieces))

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        raw = np.asarray(data, np.uint8).reshape(-1)
        for part, offset in self._parts(address, raw.size):
            part[:] = raw[offset : offset + part.size]

    def read(self, address: int, count: int) -> NDArray[np.uint8]:
        out = np.empty(count, np.uint8)
        for part, offset in self._parts(address, count):
            out[offset : offset + part.size] = part
        return out

    def _parts(self, address: int, count: int) -> list[tuple[NDArray[np.uint8], int]]:
        """The pieces of `count` bytes at a word, and how far into them each begins."""
        word_bytes = self.config.word_bytes
        start = first_byte(address, count, word_bytes, self._words * word_bytes)
        end = start + count
        out = []
        for piece in self._pieces:
            low, high = max(start, piece.first), min(end, piece.end)
            if low < high:
                out.append((piece.data[low - piece.first : high - piece.first], low - start))
        return out

    # -- runs --------------------------------------------------------------------------------------

    def start(self, run: Run) -> None:
        self._idle("start")
        values = register_values(run, self._words)
        self._library.skipstone_stop(self._engine, 0)
        self._future = self._executor.submit(self._run, values)

    def _run(self, values: NDArray[np.uint32]) -> None:
        self._library.skipstone_run(
            self._engine,
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_void_p(self._status.ctypes.data),
            ctypes.c_void_p(self._counters.ctypes.data),
        )

    def wait(self, timeout_s: float | None = None) -> RunResult:
        """Finish the run. After DeviceTimeoutError and Ctrl-C, `reset` ends it."""
        if self._future is None:
            raise RuntimeError("wait() without start()")
        try:
            self._future.result(timeout_s)
        except FutureTimeoutError:
            raise DeviceTimeoutError(f"the run did not finish within {timeout_s:g} s") from None
        self._future = None
        return run_result(self._status, self.config)

    def counters(self) -> dict[str, int]:
        """Those counters that do not depend on timing; the others are zero."""
        return dict(zip(COUNTERS, self._counters.tolist(), strict=True))

    def reset(self) -> None:
        """Bring the engine back to idle: a run ends after the instruction at hand."""
        if self._future is not None:
            self._library.skipstone_stop(self._engine, 1)
            self._future.result()
            self._future = None

    def _idle(self, what: str) -> None:
        if self._future is not None:
            raise RuntimeError(f"{what}() while the core runs: wait() or reset() first")

    def close(self) -> None:
        if self._handle is not None:
            self.reset()
            self._executor.shutdown()
            self._library.skipstone_close(self._handle)
            self._handle = None

    # -- beyond the contract -----------------------------------------------------------------------

    def read_bandwidth(self, count: int) -> float:
        """Bytes per second at which the engine's threads read `count` bytes, at best."""
        data = np.ones(count, np.uint8)
        best = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            self._library.skipstone_read(
                self._engine, ctypes.c_void_p(data.ctypes.data), ctypes.c_uint64(count)
            )
            best = min(best, time.perf_counter() - begin)
        return count / best

    def trace(self, on: bool) -> None:
        """Record from now on, or no longer, the vectors that each instruction computes."""
        self._library.skipstone_trace(self._engine, int(on))

    def take_trace(self) -> NDArray[np.void]:
        """What was recorded since it was last taken: an array of `trace.TRANSFER`."""
        out = np.zeros(self._library.skipstone_take(self._engine, None), TRANSFER)
        self._library.skipstone_take(self._engine, ctypes.c_void_p(out.ctypes.data))
        return out


def _map(section: Section) -> NDArray[np.uint8] | None:
    """The section's bytes in its file, copy-on-write; None if they are not a file's."""
    data = section.data
    if not isinstance(data, np.memmap) or not isinstance(data.base, mmap.mmap):
        return None
    if data.filename is None or data.size < _MAPPED_BYTES:
        return None
    return np.memmap(data.filename, np.uint8, "c", data.offset, (data.size,))
