"""The PYNQ device: a core in a loaded Overlay, behind the device contract.

The same code drives a real board and the simulated one; both come through the unmodified pynq
package.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..devices import Device, Run, RunResult
from ..spec.config import CoreConfig
from ..spec.errors import (
    BitstreamError,
    ConfigError,
    DeviceMemoryError,
    ToolError,
)
from ..spec.image import Image
from .deadline import Programs, most_cycles
from .design import VLNV
from .manifest import Manifest
from .ownership import Ownership
from .stripes import Stripes

if TYPE_CHECKING:
    from .driver import SkipstoneIP

__all__ = ["PynqDevice", "load_overlay"]

_ALIGNMENT = 4096
"""Of a port's buffer: the core's bursts never cross such a boundary."""
_LEAST_S = 0.5
"""Added to every deadline: Linux may be busy with something else."""
_UNKNOWN_S = 60.0
"""Deadline of a program that cannot be decoded; the core will say why."""

Progress = Callable[[str], None]


def load_overlay(bitstream: str | os.PathLike[str]) -> Any:
    """Check this bitstream against its manifest and load it: a `pynq.Overlay`.

    Raises ToolError without pynq, BitstreamError for a bitstream that is not what it should be.
    """
    manifest = Manifest.read(bitstream)
    try:
        import pynq
    except ImportError:
        raise ToolError(
            "the pynq device needs the package pynq: on the board, use its PYNQ image; for the "
            "simulated board, ./scripts/setup pynq"
        ) from None
    try:
        board = pynq.Device.active_device
    except RuntimeError:
        raise ToolError(
            "pynq finds no board here: run on one, as root, or plug in a simulated one "
            "(skipstone_sim.pynq_board.plug_in)"
        ) from None
    from . import driver

    assert driver.SkipstoneIP.bindto == [VLNV]  # importing it has registered it
    return pynq.Overlay(str(manifest.bitstream.absolute()), device=board)


def _default_bitstream() -> Path:
    if name := os.environ.get("SKIPSTONE_BITSTREAM"):
        return Path(name)
    raise BitstreamError(
        "no bitstream was given: name one (bitstream=…), or set SKIPSTONE_BITSTREAM"
    )


def _free_bytes(memory: Any) -> str:
    """What is left for contiguous buffers, in words."""
    if (free := getattr(memory, "free_bytes", None)) is not None:
        return f"{free:,} bytes are free"
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("CmaFree"))
    except (OSError, StopIteration, ValueError, IndexError):
        return "how much is free is not known"
    return f"{kib * 1024:,} bytes of contiguous memory are free"


class PynqDevice(Device):
    """The core of a PYNQ overlay.

    Parameters
    ----------
    config
        The core that is expected; None takes the one that the bitstream's manifest names.
    progress
        Receives a line for each step and, while an image is uploaded, how far it is.
    bitstream
        Path of the bitstream; default: ``$SKIPSTONE_BITSTREAM``. Beside it lie its ``.hwh`` and
        its manifest.
    overlay
        A `pynq.Overlay` made from that bitstream, to use instead of loading it again.
    watchdog_cycles
        Cycles without progress before the core gives up; 0 for never.

    Raises BitstreamError or ConfigError for the wrong bitstream, DeviceBusyError if the board is in
    use, ToolError without pynq.
    """

    name = "pynq"
    brings_config = True

    def __init__(
        self,
        config: CoreConfig | None = None,
        *,
        progress: Progress | None = None,
        bitstream: str | os.PathLike[str] | None = None,
        overlay: Any = None,
        watchdog_cycles: int = 1_000_000,
    ):
        self._say = progress or (lambda line: None)
        if bitstream is None:
            bitstream = _default_bitstream() if overlay is None else overlay.bitfile_name
        manifest = Manifest.read(bitstream)
        if config is not None and config.hash64 != manifest.config.hash64:
            raise ConfigError(
                f"the bitstream {manifest.bitstream} holds core {manifest.config.name!r} "
                f"({manifest.config.hash64:016x}), not {config.name!r} ({config.hash64:016x})"
            )
        self.config = manifest.config
        self._watchdog_cycles = watchdog_cycles
        self._buffers: list[Any] = []
        self._stripes: Stripes | None = None
        self._programs = Programs(self.config, self.read)
        self._seconds = 0.0
        self._ran = False
        self._ownership: Ownership | None = None
        if overlay is None:
            self._say(f"loading {manifest.bitstream}")
            overlay = load_overlay(manifest.bitstream)
        self._ownership = Ownership(str(overlay.device.tag))
        try:
            self.overlay = overlay
            self.ip = self._find_core(overlay)
            self.ip.check_identity(self.config)
            self.ip.reset()
            self.allocate(0)
        except BaseException:
            self._ownership.release()
            raise

    @staticmethod
    def _find_core(overlay: Any) -> SkipstoneIP:
        names = [n for n, entry in overlay.ip_dict.items() if entry["type"] == VLNV]
        if len(names) != 1:
            raise BitstreamError(
                f"the overlay {overlay.bitfile_name} must hold one {VLNV}, not {len(names)}; "
                f"it holds {', '.join(sorted(overlay.ip_dict)) or 'nothing'}"
            )
        ip: SkipstoneIP = getattr(overlay, names[0])
        return ip

    # -- memory ------------------------------------------------------------------------------------

    def allocate(self, words: int) -> None:
        self._idle("allocate")
        self._release()
        size = words * self.config.port_bytes
        buffers = []
        if size:
            for port in range(self.config.ports):
                buffers.append(self._allocate_port(port, size))
        self._buffers = buffers
        hosts = [np.asarray(b) for b in buffers] or [
            np.zeros(0, np.uint8) for _ in range(self.config.ports)
        ]
        self._stripes = Stripes(
            hosts, self.config.port_bytes, flush=self._flush, invalidate=self._invalidate
        )
        self._stripes.clear()

    def _allocate_port(self, port: int, size: int) -> Any:
        memory = self._memory(port)
        try:
            buffer = memory.allocate((size,), "u1")
        except (RuntimeError, MemoryError) as error:  # pynq raises either
            raise DeviceMemoryError(
                f"port {port} needs {size:,} contiguous bytes ({size * self.config.ports:,} for "
                f"all ports), but {_free_bytes(memory)}: {error}"
            ) from None
        if buffer.device_address % _ALIGNMENT:
            raise DeviceMemoryError(
                f"the buffer of port {port} must be aligned to {_ALIGNMENT} bytes, "
                f"but lies at {buffer.device_address:#x}"
            )
        return buffer

    def _memory(self, port: int) -> Any:
        """Where a port's buffer belongs: the bank it is wired to, or the board's memory."""
        argument = self.overlay.ip_dict[self._fullpath]["registers"].get(f"PORT_BASE_{port}", {})
        device = self.overlay.device
        if "memory" in argument:
            return device.get_memory_by_name(argument["memory"])
        return device.default_memory

    @property
    def _fullpath(self) -> str:
        name: str = self.ip._fullpath
        return name

    def _release(self) -> None:
        """Give the buffers back: views of them are gone, so this frees their memory."""
        self._stripes = None
        for buffer in self._buffers:
            buffer.freebuffer()
        self._buffers = []
        self._programs = Programs(self.config, self.read)

    def _flush(self, port: int, start: int, count: int) -> None:
        if count:
            _synchronize(self._buffers[port], start, count, to_device=True)

    def _invalidate(self, port: int, start: int, count: int) -> None:
        if count:
            _synchronize(self._buffers[port], start, count, to_device=False)

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        self._words().write(address, data)
        self._programs.written(address, data.size)

    def read(self, address: int, count: int) -> NDArray[np.uint8]:
        return self._words().read(address, count)

    def _words(self) -> Stripes:
        if self._stripes is None:
            raise RuntimeError("the device is closed")
        return self._stripes

    def load(self, image: Image) -> None:
        """Allocate the image's memory and upload its sections, straight from the file's mapping."""
        image.check_config(self.config)
        self.allocate(image.words)
        total = sum(s.data.size for s in image.sections.values())
        before = 0

        def report(done: int, _: int) -> None:
            self._say(f"uploading {(before + done) / 1e6:.1f} of {total / 1e6:.1f} MB")

        for section in image.sections.values():
            if section.data.size:
                self._words().write(section.address, np.asarray(section.data), report)
                before += section.data.size

    # -- runs --------------------------------------------------------------------------------------

    def start(self, run: Run) -> None:
        """Kick the core. Raises RuntimeError while a run is going on."""
        self._idle("start")
        self._seconds = self._deadline(run)
        self.ip.start(
            run,
            memory_words=self._words().words,
            bases=[int(b.device_address) for b in self._buffers] or [0] * self.config.ports,
            watchdog_cycles=self._watchdog_cycles,
        )
        self._ran = True

    def wait(self, timeout_s: float | None = None) -> RunResult:
        """Finish the run; see `SkipstoneIP.wait`.

        Without `timeout_s`, the deadline is computed from the program: see `most_cycles`.
        """
        return self.ip.wait(self._seconds if timeout_s is None else timeout_s)

    def _deadline(self, run: Run) -> float:
        """Seconds that this run may take."""
        program = self._programs.get(run)
        if program is None:
            return _UNKNOWN_S
        cycles = most_cycles(program, self.config, run) + self._watchdog_cycles
        return _LEAST_S + cycles / (self.config.clock_mhz * 1e6) * self.ip.time_dilation

    def counters(self) -> dict[str, int]:
        return self.ip.counters() if self._ran else {}

    def reset(self) -> None:
        self.ip.reset()

    def _idle(self, what: str) -> None:
        if self.ip.running:
            raise RuntimeError(f"{what}() while the core runs: wait() or reset() first")

    def close(self) -> None:
        """Stop the core, free its memory, let others use the board."""
        if self._ownership is None:
            return
        try:
            if self.ip.running:
                self.ip.reset()
        finally:
            self._release()
            self._ownership.release()
            self._ownership = None


def _synchronize(buffer: Any, start: int, count: int, *, to_device: bool) -> None:
    """Flush or invalidate a part of a buffer.

    PYNQ 4.0.0 hands XRT the whole buffer object, whatever part is asked for; of a model's weights
    that is far too much for each token, so an XRT buffer is asked directly.
    """
    bo = buffer.bo
    if type(bo).__module__ == "pyxrt":
        import pyxrt

        direction = pyxrt.xclBOSyncDirection
        way = direction.XCL_BO_SYNC_BO_TO_DEVICE if to_device else (
            direction.XCL_BO_SYNC_BO_FROM_DEVICE
        )  # fmt: skip
        bo.sync(way, count, buffer.offset + start)
        return
    part = buffer[start : start + count]
    if to_device:
        part.flush()
    else:
        part.invalidate()
