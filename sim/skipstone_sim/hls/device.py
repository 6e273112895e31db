"""The C simulation of the HLS kernel as a device: slow, and exactly what Vitis would synthesize."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Run, RunResult
from skipstone.spec import registers
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import ConfigError, CoreErrorCode, DeviceError
from skipstone.spec.registers import COUNTERS

from ..array_device import ArrayDevice
from .build import Kind, build_library
from .kernel import SCALARS

__all__ = ["STATUS_REGISTERS", "CsimDevice", "register_values", "run_result"]

STATUS_REGISTERS = 8
"""ERROR_CODE and what follows it, as the kernel's array has them."""


def register_values(run: Run, memory_words: int) -> NDArray[np.uint32]:
    """The kernel's scalar arguments, in the order of `kernel.SCALARS`."""
    values = run.registers(memory_words, watchdog_cycles=0)
    return np.array([values[name] for name in SCALARS], np.uint32)


def run_result(status: NDArray[np.uint32], config: CoreConfig) -> RunResult:
    """What the status registers say.

    Raises ConfigError if the library is of another configuration, DeviceError with the core's
    error.
    """
    error, pc, done, token, version, low, high = (int(v) for v in status[:7])
    if version != registers.VERSION or low | high << 32 != config.hash64:
        raise ConfigError(
            f"the engine has version {version} and configuration {low | high << 32:016x}, not "
            f"{registers.VERSION} and {config.hash64:016x}"
        )
    if error:
        raise DeviceError(CoreErrorCode(error), pc)
    return RunResult(tokens_done=done, next_token=token)


class CsimDevice(ArrayDevice):
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
        self._status = np.zeros(STATUS_REGISTERS, np.uint32)
        self._counters = np.zeros(len(COUNTERS), np.uint64)
        self._started = False
        self.allocate(0)

    def start(self, run: Run) -> None:
        values = register_values(run, len(self._memory))
        self._library.skipstone_csim(
            ctypes.c_void_p(self._memory.ctypes.data),
            ctypes.c_uint64(len(self._memory)),
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_void_p(self._status.ctypes.data),
            ctypes.c_void_p(self._counters.ctypes.data),
        )
        self._started = True

    def wait(self, timeout_s: float | None = None) -> RunResult:
        if not self._started:
            raise RuntimeError("wait() without start()")
        self._started = False
        return run_result(self._status, self.config)

    def counters(self) -> dict[str, int]:
        """Those counters that do not depend on timing; the others are zero."""
        return dict(zip(COUNTERS, self._counters.tolist(), strict=True))

    def reset(self) -> None:
        self._started = False
