"""The XRT device: the core as a kernel of an Alveo card, through XRT's own Python module pyxrt.

Written against XRT's documented interface (docs: "XRT Native APIs", ``pyxrt.pyi``) and tested
against a stand-in for that module only: it has not run on a card.

pyxrt reaches kernel arguments, buffers and the state of a run, but no registers. So how far a run
got is read from its output records, which are marked before it starts, and there are no counters.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..devices import Device, Run, RunResult
from ..spec.config import CoreConfig
from ..spec.errors import (
    BitstreamError,
    ConfigError,
    DeviceMemoryError,
    DeviceTimeoutError,
    RunAbortedError,
    ToolError,
)
from ..spec.isa import Opcode
from ..spec.records import OUTPUT_RECORD, RECORD_BYTES
from .deadline import Programs, most_cycles
from .design import kernel_arguments
from .manifest import Manifest
from .ownership import Ownership
from .stripes import Stripes
from .xclbin import KERNEL

__all__ = ["XrtDevice"]

_NOT_WRITTEN = 0xFFFFFFFF
"""Position in an output record that the core has not written."""
_LEAST_S = 0.5
_UNKNOWN_S = 60.0
_UNFINISHED = ("NEW", "QUEUED", "SUBMITTED", "RUNNING", "TIMEOUT", "NORESPONSE")


class XrtDevice(Device):
    """The core on an XRT card.

    Parameters
    ----------
    config
        The core that is expected; None takes the one that the manifest names.
    bitstream
        Path of the ``.xclbin``, beside its manifest; default: ``$SKIPSTONE_BITSTREAM``.
    index
        Of the card.
    watchdog_cycles
        Cycles without progress before the core gives up; 0 for never.

    Raises ToolError without pyxrt, BitstreamError or ConfigError for the wrong bitstream,
    DeviceBusyError if the card is in use.
    """

    name = "xrt"
    brings_config = True

    def __init__(
        self,
        config: CoreConfig | None = None,
        *,
        progress: Callable[[str], None] | None = None,
        bitstream: str | os.PathLike[str] | None = None,
        index: int = 0,
        watchdog_cycles: int = 1_000_000,
    ):
        path = bitstream or os.environ.get("SKIPSTONE_BITSTREAM")
        if path is None:
            raise BitstreamError(
                "no bitstream was given: name one (bitstream=…), or set SKIPSTONE_BITSTREAM"
            )
        manifest = Manifest.read(path)
        if config is not None and config.hash64 != manifest.config.hash64:
            raise ConfigError(
                f"the bitstream {path} holds core {manifest.config.name!r}, not {config.name!r}"
            )
        try:
            import pyxrt
        except ImportError:
            raise ToolError(
                "the xrt device needs XRT's Python module pyxrt: install XRT, then "
                "`source /opt/xilinx/xrt/setup.sh`"
            ) from None
        self._xrt: Any = pyxrt
        self.config = manifest.config
        self._arguments = kernel_arguments(self.config)
        self._watchdog_cycles = watchdog_cycles
        self._run: Any = None
        self._parameters: Run | None = None
        self._buffers: list[Any] = []
        self._stripes: Stripes | None = None
        if progress is not None:
            progress(f"loading {path}")
        self._ownership: Ownership | None = Ownership(f"xrt{index}")
        try:
            self._device = self._xrt.device(index)
            uuid = self._device.load_xclbin(str(Path(path)))
            self._kernel = self._xrt.kernel(self._device, uuid, KERNEL, self._xrt.kernel.exclusive)
        except Exception as error:  # pyxrt raises whatever XRT's C++ did
            self._ownership.release()
            raise BitstreamError(f"XRT does not load {path}: {error}") from error
        self._programs = Programs(self.config, self.read)
        self.allocate(0)

    # -- memory ------------------------------------------------------------------------------------

    def allocate(self, words: int) -> None:
        self._idle("allocate")
        self._stripes, self._buffers = None, []
        size = words * self.config.port_bytes
        ports = [a for a in self._arguments if a.port is not None]
        for argument in ports if size else ():
            bank = self._kernel.group_id(argument.index)
            try:
                buffer = self._xrt.bo(self._device, size, self._xrt.bo.normal, bank)
            except Exception as error:  # std::bad_alloc, or XRT's own
                raise DeviceMemoryError(
                    f"port {argument.port} needs {size:,} bytes in memory bank {bank} "
                    f"({size * len(ports):,} for all ports): {error}"
                ) from None
            self._buffers.append(buffer)
        hosts = [np.frombuffer(b.map(), np.uint8, size) for b in self._buffers]
        empty = [np.zeros(0, np.uint8) for _ in ports]
        self._programs = Programs(self.config, self.read)
        self._stripes = Stripes(
            hosts or empty, self.config.port_bytes, flush=self._flush, invalidate=self._invalidate
        )
        self._stripes.clear()

    def _flush(self, port: int, start: int, count: int) -> None:
        if count:
            direction = self._xrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
            self._buffers[port].sync(direction, count, start)

    def _invalidate(self, port: int, start: int, count: int) -> None:
        direction = self._xrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE
        self._buffers[port].sync(direction, count, start)

    def _words(self) -> Stripes:
        if self._stripes is None:
            raise RuntimeError("the device is closed")
        return self._stripes

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        self._words().write(address, data)
        self._programs.written(address, data.size)

    def read(self, address: int, count: int) -> NDArray[np.uint8]:
        return self._words().read(address, count)

    # -- runs --------------------------------------------------------------------------------------

    def start(self, run: Run) -> None:
        self._idle("start")
        self._mark(run)
        values = run.registers(self._words().words, self._watchdog_cycles)
        job = self._xrt.run(self._kernel)
        for argument in self._arguments:
            if argument.port is None:
                job.set_arg(argument.index, values[argument.name])
            else:
                job.set_arg(argument.index, self._buffers[argument.port])
        job.start()
        self._run, self._parameters = job, run

    def wait(self, timeout_s: float | None = None) -> RunResult:
        """Finish the run.

        Raises DeviceTimeoutError, and RunAbortedError if XRT ended the run or the core stopped with
        an error, whose code pyxrt cannot read.
        """
        if self._run is None or self._parameters is None:
            raise RuntimeError("wait() without start()")
        run = self._parameters
        seconds = self._deadline(run) if timeout_s is None else timeout_s
        state = self._run.wait(max(1, round(seconds * 1e3)))
        name = getattr(state, "name", str(state)).removeprefix("ERT_CMD_STATE_")
        if name in _UNFINISHED:
            raise DeviceTimeoutError(f"the run did not end within {seconds:.3g} s; XRT says {name}")
        self._run = None
        if name != "COMPLETED":
            raise RunAbortedError(f"XRT ended the run: {name}")
        return self._result(run)

    def _records(self, run: Run) -> tuple[int, NDArray[np.uint8]] | None:
        """First word and present bytes of the records that the run writes, if it can be known."""
        program = self._programs.get(run) or []
        table = next((i.b for i in program if i.opcode is Opcode.TABLES), None)
        if table is None:
            return None
        first = table * self.config.word_bytes + run.position * RECORD_BYTES
        count = (run.chunk_tokens + run.steps) * RECORD_BYTES
        word, skip = divmod(first, self.config.word_bytes)
        available = self._words().words * self.config.word_bytes - first
        raw = self.read(word, skip + min(count, max(0, available)))
        return word, np.ascontiguousarray(raw)

    def _mark(self, run: Run) -> None:
        """Overwrite the records of the run, so that those it writes can be told."""
        if (found := self._records(run)) is None:
            return
        word, raw = found
        skip = (run.position * RECORD_BYTES) % self.config.word_bytes
        records = raw[skip:].view(OUTPUT_RECORD)
        records["position"] = _NOT_WRITTEN
        self._words().write(word, raw)

    def _result(self, run: Run) -> RunResult:
        if (found := self._records(run)) is None:
            return RunResult(tokens_done=0, next_token=0)
        skip = (run.position * RECORD_BYTES) % self.config.word_bytes
        records = found[1][skip:].view(OUTPUT_RECORD)
        written = records["position"] == run.position + np.arange(len(records))
        done = int(np.argmin(written)) if not written.all() else len(records)
        if done < run.chunk_tokens:
            raise RunAbortedError(
                f"the core stopped after {done} of {run.chunk_tokens} tokens; its ERROR_CODE "
                "cannot be read through pyxrt"
            )
        return RunResult(tokens_done=done, next_token=int(records["next_token"][done - 1]))

    def _deadline(self, run: Run) -> float:
        program = self._programs.get(run)
        if program is None:
            return _UNKNOWN_S
        cycles = most_cycles(program, self.config, run) + self._watchdog_cycles
        return _LEAST_S + cycles / (self.config.clock_mhz * 1e6)

    def counters(self) -> dict[str, int]:
        """Empty: pyxrt reads no registers."""
        return {}

    def reset(self) -> None:
        """Forget the run. A core that hangs needs ``xrt-smi reset``: XRT cannot break a run off."""
        self._run = None

    def _idle(self, what: str) -> None:
        if self._run is not None:
            raise RuntimeError(f"{what}() while the core runs: wait() or reset() first")

    def close(self) -> None:
        """Release buffers and card."""
        self._stripes, self._buffers, self._run = None, [], None
        if self._ownership is not None:
            self._ownership.release()
            self._ownership = None
