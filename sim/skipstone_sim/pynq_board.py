"""A simulated PYNQ board: the unmodified pynq package finds it like any other device.

Import this module before pynq looks for devices, or call `plug_in`. Its programmable logic is
whatever the bitstream names (`overlay_files.write_overlay`): the simulated gateware or the golden
model. It runs in a thread of its own, so that registers, polling, interrupts and deadlines behave
as on a board, only slower. Memory on the host is a mirror of the board's: what is not flushed or
invalidated stays old. Addresses at which nothing answers raise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pynq.buffer import PynqBuffer
from pynq.interrupt import _InterruptController
from pynq.pl_server.device import Device
from pynq.pl_server.embedded_device import EmbeddedDevice, parse_bit_header
from pynq.pl_server.xclbin_parser import XclBin, parse_xclbin_header
from pynq.uio import UioController
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime import RuntimeMetadataParser

from skipstone.board.design import PL_INTERRUPT, VLNV
from skipstone.spec.errors import BitstreamError, SkipstoneError

from .board_logic import Logic, open_logic
from .board_parts import Bank, Buffer, InterruptController, KernelInterrupt, RegisterFile
from .overlay_files import unpack_bitstream

__all__ = ["AddressError", "SimulatedBoard", "SimulatedMemory", "has_board", "plug_in"]

_MEMORY_BYTES = 256 << 20
_FIRST_ADDRESS = 1 << 20
"""Below it nothing is given out: address 0 is never a buffer."""
_SLOWEST_CYCLES_PER_S = 50_000
"""Of the simulation, on a busy machine; deadlines are stretched accordingly."""
_BITSTREAM_SECTION = 0

_CRL_APB, _CRF_APB = 0xFF5E0000, 0xFD1A0000
_CLOCK_RANGE = 0x100
_PLL = 45 << 8
"""33.333 MHz times 45."""


class AddressError(SkipstoneError, OSError):
    """Nothing answers at a physical address: a real board would hang or kill the process."""


class SimulatedMemory:
    """A bank of the board's memory, for `pynq.allocate`."""

    def __init__(self, board: SimulatedBoard, bank: Bank):
        self._board, self._bank = board, bank

    def allocate(self, shape: Any, dtype: Any, cacheable: int = 0, **_: Any) -> Any:
        """A new buffer. Raises RuntimeError, as XRT does, if there is no room."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = self._bank.take(size)
        buffer = PynqBuffer(
            shape, dtype, buffer=raw.host.data, device=self._board, bo=raw,
            device_address=raw.address, coherent=False,
        )  # fmt: skip
        # What makes PynqBuffer.freebuffer, and its end, call return_pointer.
        buffer.memory, buffer.pointer, buffer.return_to = self, raw, self
        buffer.freed = True  # else a second end would unmap it, which is for real ones
        return buffer

    def return_pointer(self, raw: Buffer) -> None:
        """Free a buffer."""
        self._bank.give_back(raw)

    @property
    def free_bytes(self) -> int:
        """Bytes not given out."""
        return self._bank.free_bytes


class SimulatedBoard(Device):
    """A Kria KV260, as far as pynq can tell.

    Parameters
    ----------
    tag
        Unique name; boards with the same tag count as the same board to other processes.
    memory_bytes
        Memory for contiguous buffers, and all there is.
    progress
        Receives a line for each step while a simulation is built.

    Attributes
    ----------
    logic : Logic or None
        What the last bitstream put into the FPGA.
    kernel : KernelInterrupt
    paused : bool
        The logic's clock stands still while this is set.
    accesses : int
        Register accesses so far.
    """

    _probe_priority_ = 10

    @classmethod
    def _probe_(cls) -> list[SimulatedBoard]:
        return [] if has_board() else [cls()]

    def __init__(
        self,
        tag: str | None = None,
        *,
        memory_bytes: int = _MEMORY_BYTES,
        progress: Callable[[str], None] | None = None,
    ):
        super().__init__(tag or f"simulated-{os.getpid()}")
        self.capabilities = {"REGISTER_RW": True}
        self.arch = "aarch64"
        self.name = "simulated KV260"
        self.logic: Logic | None = None
        self.paused = False
        self.accesses = 0
        self._progress = progress
        self._memory = np.zeros(memory_bytes, np.uint8)
        self._ddr = Bank(self._memory, _FIRST_ADDRESS, memory_bytes - _FIRST_ADDRESS)
        self._banks: dict[str, Bank] = {}
        self._controller = InterruptController()
        # The processor's clock registers are there before any bitstream is.
        plls = {0x20: _PLL, 0x2C: _PLL, 0x30: _PLL, 0x38: _PLL}
        self._processor = [
            (base, _CLOCK_RANGE, RegisterFile(plls)) for base in (_CRL_APB, _CRF_APB)
        ]
        self._map: list[tuple[int, int, Any]] = list(self._processor)
        self._interrupts = threading.RLock()
        self._failure: BaseException | None = None
        self.kernel = _kernel_interrupt()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._closing = False
        self._sleeping = False  # the thread waits for something to do

    # -- bitstreams --------------------------------------------------------------------------------

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        """The parser of the ``.hwh`` beside a ``.bit``, or of an ``.xclbin``."""
        path = Path(bitfile_name)
        if path.suffix == ".xclbin":
            return XclBin(filename=str(path))
        handoff = path.with_suffix(".hwh")
        if not handoff.is_file():
            raise RuntimeError(f"Unable to find metadata for bitstream: {handoff} is not there")
        return RuntimeMetadataParser(Metadata(input=str(handoff)))

    def download(self, bitstream: Any, parser: Any = None) -> None:
        """Configure the FPGA. Raises BitstreamError for what was not made for this board."""
        path = Path(bitstream.bitfile_name)
        raw = path.read_bytes()
        if path.suffix == ".xclbin":
            sections, _ = parse_xclbin_header(raw)
            raw = bytes(sections.get(_BITSTREAM_SECTION, b""))
        try:
            payload = parse_bit_header(raw)["data"]
        except Exception as error:  # pynq's parser raises whatever the bytes make it raise
            raise BitstreamError(f"{path}: not a bitstream: {error!r}") from None
        config, kind = unpack_bitstream(payload)
        self._stop()
        self.logic = open_logic(kind, config, self._memory, self._progress)
        self._controller = InterruptController()
        self._connect(parser)
        self.kernel.lost = False
        self.post_download(bitstream, parser, self.name)
        self._closing = False
        self._thread = threading.Thread(
            target=_serve, args=(weakref.ref(self),), name=self.tag, daemon=True
        )
        self._thread.start()

    def _connect(self, parser: Any) -> None:
        """Address map and memory banks: what the metadata name."""
        self._map = list(self._processor)
        for entry in parser.ip_dict.values():
            part: Any = None
            if entry["type"] == VLNV:
                part = self.logic
            elif entry["type"].startswith("xilinx.com:ip:axi_intc:"):
                part = self._controller
            if part is not None:
                self._map.append((entry["phys_addr"], entry["addr_range"], part))
        self._banks = {
            name: Bank(self._memory, max(m["base_address"], _FIRST_ADDRESS), m["size"])
            for name, m in parser.mem_dict.items()
            if "base_address" in m
        }
        for name, bank in self._banks.items():
            bank.size -= bank.base - parser.mem_dict[name]["base_address"]

    def open_context(self, description: dict[str, Any]) -> int:
        """Index of a compute unit (Alveo style)."""
        return int(description["cu_index"])

    # -- registers ---------------------------------------------------------------------------------

    def _find(self, address: int, length: int) -> tuple[Any, int]:
        for base, size, part in self._map:
            if base <= address and address + length <= base + size:
                return part, address - base
        known = ", ".join(f"{b:#x} to {b + s - 1:#x}" for b, s, _ in sorted(self._map, key=_base))
        raise AddressError(
            f"nothing answers at address {address:#x}; mapped is {known or 'nothing'}"
        )

    def read_registers(self, address: int, length: int) -> bytes:
        """Bytes of consecutive 32-bit registers. Raises AddressError."""
        part, offset = self._find(address, length)
        out = bytearray()
        for at in range(offset, offset + length, 4):
            out += int(part.read(at)).to_bytes(4, "little")
        self._after_access(part)
        return bytes(out)

    def write_registers(self, address: int, data: Any) -> None:
        """Write consecutive 32-bit registers. Raises AddressError."""
        raw = bytes(data)
        part, offset = self._find(address, len(raw))
        for at in range(0, len(raw), 4):
            part.write(offset + at, int.from_bytes(raw[at : at + 4], "little"))
        self._after_access(part)

    def _after_access(self, part: Any) -> None:
        self.accesses += 1
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        logic = self.logic
        if logic is None:
            return
        if part is self._controller or logic.interrupt != self._controller.line:
            self._propagate()
        if self._sleeping and logic.busy:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # then it has been woken often enough
            os.write(self._wake_write, b"!")

    def _propagate(self) -> None:
        """Core → interrupt controller → kernel."""
        with self._interrupts:
            self._controller.sample(self.logic is not None and self.logic.interrupt)
            self.kernel.level(self._controller.output)

    # -- memory ------------------------------------------------------------------------------------

    @property
    def default_memory(self) -> SimulatedMemory:
        """The processor's memory."""
        return SimulatedMemory(self, self._ddr)

    def get_memory(self, description: dict[str, Any]) -> SimulatedMemory:
        """A bank of the metadata."""
        return self.get_memory_by_name(description["tag"])

    def get_memory_by_name(self, name: str) -> SimulatedMemory:
        """A bank by its tag. Raises RuntimeError if there is none."""
        if name not in self._banks:
            raise RuntimeError(f"Could not find memory {name}")
        return SimulatedMemory(self, self._banks[name])

    def flush(self, bo: Buffer, offset: int, ptr: int, size: int) -> None:
        """Host to device."""
        bo.flush(offset, size)

    def invalidate(self, bo: Buffer, offset: int, ptr: int, size: int) -> None:
        """Device to host."""
        bo.invalidate(offset, size)

    # -- time --------------------------------------------------------------------------------------

    @property
    def time_dilation(self) -> float:
        """Seconds here for a second on a board, at worst."""
        if self.logic is None:
            return 1.0
        return self.logic.config.clock_mhz * 1e6 / _SLOWEST_CYCLES_PER_S

    def _step(self) -> bool:
        """One turn of the board's thread; false when it is to end."""
        self._sleeping = True  # before the look that decides: whoever gives it work may see it
        busy = self.logic is not None and self.logic.busy and not self.paused
        self._sleeping = not busy
        wake = self._wake_read
        sources: list[Any] = [self.kernel, wake]
        ready, _, _ = select.select(sources, [], [], 0 if busy else 0.5)
        if wake in ready:
            os.read(wake, 4096)
        if self._closing:
            return False
        try:
            if self.kernel in ready:
                with self._interrupts:
                    self.kernel.listen()
            if busy and self.logic is not None and self._failure is None:
                self.logic.advance()
            self._propagate()
        except BaseException as error:  # shown to whoever touches the board next
            self._failure = error
        return True

    def _stop(self) -> None:
        if self._thread is not None:
            self._closing = True
            self._wake()
            self._thread.join()
            self._thread = None
        if self.logic is not None:
            self.logic.close()
            self.logic = None

    def unplug(self) -> None:
        """Stop the logic and forget the bitstream."""
        self._stop()
        self._map = list(self._processor)


def _base(entry: tuple[int, int, Any]) -> int:
    return entry[0]


def _serve(reference: weakref.ref[SimulatedBoard]) -> None:
    """The board's thread; ends with the board."""
    while (board := reference()) is not None and board._step():
        del board


_kernel: KernelInterrupt | None = None


def _kernel_interrupt() -> KernelInterrupt:
    """The UIO device of this process, opened by pynq's own class."""
    global _kernel
    if _kernel is None:
        _kernel = KernelInterrupt()
        _ensure_event_loop()
        controller = UioController(_kernel.descriptor)
        # Where pynq looks before it searches /proc/interrupts and /sys/class/uio.
        _InterruptController._uio_devices[PL_INTERRUPT] = controller
    return _kernel


def _ensure_event_loop() -> None:
    """UioController registers itself with the thread's event loop, which may not exist yet."""
    try:
        asyncio.get_running_loop()
        return
    except RuntimeError:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on
            usable = not asyncio.get_event_loop_policy().get_event_loop().is_closed()
    except RuntimeError:
        usable = False
    if not usable:
        asyncio.set_event_loop(asyncio.new_event_loop())


def has_board() -> bool:
    """Whether this computer is a board with an FPGA."""
    return Path(EmbeddedDevice.BS_FPGA_MAN).exists()


def plug_in(tag: str | None = None, **options: Any) -> SimulatedBoard:
    """A new simulated board as pynq's active device; the previous one is unplugged."""
    previous = getattr(Device, "_active_device", None)
    if isinstance(previous, SimulatedBoard):
        previous.unplug()
    board = SimulatedBoard(tag, **options)
    Device.active_device = board
    return board
