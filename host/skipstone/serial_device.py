"""The serial device: a board whose bridge answers the frames of `skipstone.spec.serial`.

Registers and memory are read and written by requests, each answered before the next is sent. What
memory should hold is compared by CRC first, so an image that is already there (it can be part of
the bitstream) is not sent again.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .devices import Device, Run, RunResult, first_byte
from .spec import registers
from .spec.config import CoreConfig
from .spec.errors import (
    ConfigError,
    CoreErrorCode,
    DeviceError,
    DeviceTimeoutError,
    LinkError,
    ToolError,
)
from .spec.image import Image
from .spec.registers import BY_NAME, COUNTERS, Control, counter_offset
from .spec.serial import (
    MAX_REQUEST_BYTES,
    MAX_WORDS,
    PROTOCOL_VERSION,
    Operation,
    Response,
    Status,
    parse_response,
    request,
)

__all__ = ["BAUD", "SerialDevice"]

BAUD = 1_000_000
_BLOCK_BYTES = 4 * MAX_WORDS
_PARAMETERS = ("PROGRAM_ADDRESS", "WATCHDOG_CYCLES")
"""First and last register that `start` writes, in one request."""
_RESULTS = ("ERROR_CODE", "ERROR_PC", "TOKENS_DONE", "NEXT_TOKEN")
_POLL_S = 0.001


def _open(place: str, baud: int) -> Any:
    """The port, opened. Raises ToolError without pyserial, LinkError if it cannot be opened."""
    try:
        import serial
    except ImportError:
        raise ToolError(
            "pyserial is missing: install it with `pip install 'skipstone[serial]'`"
        ) from None
    try:
        port = serial.Serial(place, baudrate=baud, timeout=0, write_timeout=5, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        raise LinkError(f"cannot open serial port {place!r}: {error}") from None
    # Without it, it is slower by the converter's own buffering.
    with contextlib.suppress(AttributeError, NotImplementedError, OSError, ValueError):
        port.set_low_latency_mode(True)
    return port


class SerialDevice(Device):
    """A core on a board at the other end of a serial line.

    Parameters
    ----------
    config
        What the board's bitstream must have been built for.
    progress
        Receives a line for each long step.
    place
        The serial port, such as ``/dev/ttyUSB0``.
    baud
    timeout_s
        Longest silence within a response.
    watchdog_cycles
        Cycles without progress before the core gives up; 0 for never.

    Raises LinkError if the port cannot be opened or no board answers, ConfigError if its bitstream
    was built for another configuration.
    """

    name = "serial"

    def __init__(
        self,
        config: CoreConfig,
        *,
        progress: Callable[[str], None] | None = None,
        place: str,
        baud: int = BAUD,
        timeout_s: float = 2.0,
        watchdog_cycles: int = 10_000_000,
    ):
        self.config = config
        self._say = progress or (lambda line: None)
        self._timeout_s, self._watchdog_cycles = timeout_s, watchdog_cycles
        self._place = place
        self._tag = 0
        self._bytes = 0
        self._running = self._ran = self._astray = False
        self._port = _open(place, baud)
        try:
            self._resynchronise()
            self._identify()
        except BaseException:
            self._port.close()
            raise

    def _identify(self) -> None:
        version, self.memory_bytes = self._words(Operation.IDENTIFY, 0, 0)
        if version != PROTOCOL_VERSION:
            raise ConfigError(
                f"the bitstream at {self._place} speaks version {version} of the serial protocol, "
                f"the host version {PROTOCOL_VERSION}"
            )
        isa, low, high = self._words(Operation.READ_REGISTERS, BY_NAME["VERSION"].offset, 3)
        found = low | high << 32
        if isa != registers.VERSION or found != self.config.hash64:
            raise ConfigError(
                f"the bitstream at {self._place} was built for configuration {found:016x} and "
                f"instruction set {isa}, the host wants {self.config.hash64:016x} "
                f"({self.config.name!r}) and {registers.VERSION}"
            )

    # -- the line ---------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except OSError as error:  # SerialException is one
            raise LinkError(f"serial port {self._place} is gone: {error}") from None

    def _receive(self, tag: int, *, skip: bool = False) -> Response:
        """The response with this tag; with `skip`, whatever stands before it is passed over."""
        stream, passed = b"", 0
        deadline = time.monotonic() + self._timeout_s
        while True:
            response, used = parse_response(stream)
            if response is not None and response.tag == tag:
                return response
            if used and not skip:
                raise LinkError(
                    f"serial port {self._place} answered nonsense: {stream[:16].hex(' ')}"
                )
            if used:
                stream, passed = stream[used:], passed + used
                continue
            try:
                more = self._port.read(max(1, self._port.in_waiting))
            except OSError as error:
                raise LinkError(f"serial port {self._place} is gone: {error}") from None
            if more:
                stream += more
                if not skip:
                    deadline = time.monotonic() + self._timeout_s
            elif time.monotonic() > deadline:
                seen = passed + len(stream)
                said = f"only {seen} bytes of nonsense" if seen else "nothing"
                raise LinkError(
                    f"no Skipstone board answers at {self._place}: {said} came within "
                    f"{self._timeout_s:g} s"
                )
            else:
                time.sleep(0.0002)

    def _request(
        self, operation: Operation, address: int, words: int, data: bytes = b"", *,
        skip: bool = False,
    ) -> Response:  # fmt: skip
        self._tag = (self._tag + 1) & 0xFF
        self._astray = True  # until the response is in
        self._send(request(operation, self._tag, address, words, data))
        response = self._receive(self._tag, skip=skip)
        self._astray = False
        return response

    def _resynchronise(self) -> None:
        """Bring the bridge from any state to where it waits for a request."""
        self._send(bytes(MAX_REQUEST_BYTES))
        self._request(Operation.IDENTIFY, 0, 0, skip=True)

    def _exchange(self, operation: Operation, address: int, words: int, data: bytes = b"") -> bytes:
        """Data of the response. Raises LinkError if it is refused."""
        if self._astray:
            self._resynchronise()
        response = self._request(operation, address, words, data)
        if response.status != Status.OK:
            known = response.status in list(Status)
            status = Status(response.status).name if known else response.status
            raise LinkError(
                f"the board at {self._place} refused {operation.name} of {words} words at "
                f"{address:#x}: {status}"
            )
        return response.data

    def _words(self, operation: Operation, address: int, words: int) -> list[int]:
        expected = {Operation.IDENTIFY: 2, Operation.CHECK_MEMORY: 1}.get(operation, words)
        data = self._exchange(operation, address, words)
        if len(data) != 4 * expected:
            raise LinkError(
                f"the board at {self._place} answered {operation.name} with {len(data)} bytes, "
                f"not {4 * expected}"
            )
        return [int(word) for word in np.frombuffer(data, "<u4")]

    # -- memory -----------------------------------------------------------------------------------

    def allocate(self, words: int) -> None:
        self._idle("allocate")
        self._claim(words)
        self._update(np.zeros(self._bytes, np.uint8))

    def load(self, image: Image) -> None:
        self._idle("load")
        image.check_config(self.config)
        self._claim(image.words)
        content = np.zeros(self._bytes, np.uint8)
        for section in image.sections.values():
            start = section.address * self.config.word_bytes
            content[start : start + section.data.size] = section.data
        self._update(content)

    def _claim(self, words: int) -> None:
        wanted = words * self.config.word_bytes
        if wanted > self.memory_bytes:
            raise MemoryError(
                f"the board at {self._place} has {self.memory_bytes} bytes of memory, "
                f"{wanted} are needed"
            )
        self._bytes = wanted

    def _differs(self, start: int, content: NDArray[np.uint8]) -> bool:
        (found,) = self._words(Operation.CHECK_MEMORY, start, content.size // 4)
        return found != zlib.crc32(content.tobytes())

    def _update(self, content: NDArray[np.uint8]) -> None:
        """Let memory hold `content`, sending only blocks that differ."""
        if content.size == 0 or not self._differs(0, content):
            return
        blocks = range(0, content.size, _BLOCK_BYTES)
        for number, start in enumerate(blocks):
            block = content[start : start + _BLOCK_BYTES]
            if self._differs(start, block):
                self._exchange(Operation.WRITE_MEMORY, start, block.size // 4, block.tobytes())
            if number % 64 == 0:
                self._say(f"loading {100 * number // len(blocks)} %")
        if self._differs(0, content):
            raise LinkError(f"the memory of the board at {self._place} does not keep its content")

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        self._idle("write")
        start = self._locate(address, data.size)
        content = np.ascontiguousarray(data).tobytes()
        if rest := len(content) % 4:
            kept = self._exchange(Operation.READ_MEMORY, start + len(content) - rest, 1)
            content += kept[rest:]
        for at in range(0, len(content), _BLOCK_BYTES):
            block = content[at : at + _BLOCK_BYTES]
            self._exchange(Operation.WRITE_MEMORY, start + at, len(block) // 4, block)

    def read(self, address: int, count: int) -> NDArray[np.uint8]:
        self._idle("read")
        start = self._locate(address, count)
        content = b""
        for at in range(0, count, _BLOCK_BYTES):
            words = min(MAX_WORDS, -(-(count - at) // 4))
            content += np.array(
                self._words(Operation.READ_MEMORY, start + at, words), "<u4"
            ).tobytes()
        return np.frombuffer(content[:count], np.uint8).copy()

    def _locate(self, address: int, count: int) -> int:
        return first_byte(address, count, self.config.word_bytes, self._bytes)

    # -- runs -------------------------------------------------------------------------------------

    def _write_registers(self, first: str, values: list[int]) -> None:
        data = np.array(values, "<u4").tobytes()
        self._exchange(Operation.WRITE_REGISTERS, BY_NAME[first].offset, len(values), data)

    def _read_registers(self, first: str, count: int = 1) -> list[int]:
        return self._words(Operation.READ_REGISTERS, BY_NAME[first].offset, count)

    def start(self, run: Run) -> None:
        self._idle("start")
        first, last = (BY_NAME[name].offset for name in _PARAMETERS)
        words = self._bytes // self.config.word_bytes
        block = [0] * ((last - first) // 4 + 1)
        for name, value in run.registers(words, self._watchdog_cycles).items():
            block[(BY_NAME[name].offset - first) // 4] = value
        self._write_registers(_PARAMETERS[0], block)
        self._write_registers("PORT_BASE_0_LOW", [0, 0])
        # What IP_ISR still holds toggles away; the end of the run is seen there.
        (pending,) = self._read_registers("IP_ISR")
        self._write_registers("GIER", [0, 1, pending])
        self._write_registers("CTRL", [int(Control.START)])
        self._running = self._ran = True

    def wait(self, timeout_s: float | None = None) -> RunResult:
        """Finish the run.

        Raises DeviceError with the core's error, DeviceTimeoutError after `timeout_s` seconds,
        LinkError if the line fails. After the latter two, and after Ctrl-C, only `reset` helps.
        """
        if not self._running:
            raise RuntimeError("wait() without start()")
        begin = time.monotonic()
        while not self._read_registers("IP_ISR")[0] & 1:
            if timeout_s is not None and time.monotonic() - begin > timeout_s:
                raise DeviceTimeoutError(f"the run did not finish within {timeout_s:g} s")
            time.sleep(_POLL_S)
        code, pc, done, token = self._read_registers(_RESULTS[0], len(_RESULTS))
        self._running = False
        if code:
            if code not in list(CoreErrorCode):
                raise LinkError(f"ERROR_CODE must be a CoreErrorCode, not {code}")
            raise DeviceError(CoreErrorCode(code), pc)
        return RunResult(tokens_done=done, next_token=token)

    def counters(self) -> dict[str, int]:
        if not self._ran:
            return {}
        data = self._words(Operation.READ_REGISTERS, counter_offset(COUNTERS[0]), 2 * len(COUNTERS))
        pairs = zip(data[::2], data[1::2], strict=True)
        return dict(zip(COUNTERS, (low | high << 32 for low, high in pairs), strict=True))

    def reset(self) -> None:
        """Pull the core's reset line; memory is kept."""
        self._exchange(Operation.RESET, 0, 0)
        self._running = False

    def _idle(self, what: str) -> None:
        if self._running:
            raise RuntimeError(f"{what}() while the core runs: wait() or reset() first")

    def close(self) -> None:
        self._port.close()
