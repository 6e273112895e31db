"""The C simulation of the HLS kernel as a device: slow, and exactly what Vitis would synthesize."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Device, Run, RunResult
from skipstone.spec import registers
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import ConfigError, CoreErrorCode, DeviceError
from skipstone.spec.registers import COUNTERS

from .build import Kind, build_library

__all__ = ["CsimDevice", "register_values"]

_STATUS = 8


def register_values(run: Run, memory_words: int) -> NDArray[np.uint32]:
    """The kernel's scalar arguments, in the order of `kernel.SCALARS`."""
    values = [
        run.program_address, run.program_length, run.position, run.chunk_tokens,
        run.steps, run.eos_token, run.mode, memory_words,
    ]  # fmt: skip
    return np.array(values, np.uint32)


class CsimDevice(Device):
    """The HLS kernel compiled for this machine, run to the end by `start`.

    Parameters
    ----------
    config
    ap_int
        On AMD's ap_int and hls::stream types (the default), else on native integers.
    """

    name = "csim"

    def __init__(
        self,
        config: CoreConfig,
        *,
        progress: Callable[[str], None] | None = None,
        ap_int: bool = True,
    ):
        self.config = config
        kind = Kind.AP_INT if ap_int else Kind.NATIVE
        self._library = build_library(config, kind, progress=progress)
        self._memory = np.zeros((0, config.word_bytes), np.uint8)
        self._status = np.zeros(_STATUS, np.uint32)
        self._counters = np.zeros(len(COUNTERS), np.uint64)
        self._started = False

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
        start = address * self.config.word_bytes
        if address < 0 or count < 0 or start + count > self._memory.size:
            raise ValueError(
                f"bytes {start} to {start + count} lie beyond the allocated {self._memory.size}"
            )
        return start

    def start(self, run: Run) -> None:
        values = register_values(run, len(self._memory))
        self._library.skipstone_csim(
            ctypes.c_void_p(self._memory.ctypes.data),
            ctypes.c_uint64(len(self._memory)),
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_void_p(self._status.ctypes.data),
            ctypes.c_void_p(self._counters.ctypes.data),
        )
        found = int(self._status[5]) | int(self._status[6]) << 32
        if self._status[4] != registers.VERSION or found != self.config.hash64:
            raise ConfigError(
                f"the kernel has version {self._status[4]} and configuration {found:016x}, not "
                f"{registers.VERSION} and {self.config.hash64:016x}"
            )
        self._started = True

    def wait(self, timeout_s: float | None = None) -> RunResult:
        if not self._started:
            raise RuntimeError("wait() without start()")
        self._started = False
        error, pc, done, token = (int(v) for v in self._status[:4])
        if error:
            raise DeviceError(CoreErrorCode(error), pc)
        return RunResult(tokens_done=done, next_token=token)

    def counters(self) -> dict[str, int]:
        """Those counters that do not depend on timing; the others are zero."""
        return dict(zip(COUNTERS, self._counters.tolist(), strict=True))

    def reset(self) -> None:
        self._started = False
