"""A simulated board at the other end of a pseudo-terminal.

The top level of a board (its Verilog, or the netlist that synthesis made of it) runs in a thread;
what a program writes to the terminal goes bit by bit into the receive pin. The pins are driven by
C++ (``harness/serial.cpp``); Python calls once per batch of cycles.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import threading
import tty
from collections.abc import Sequence
from ctypes import c_uint32, c_uint64, c_void_p
from pathlib import Path
from types import TracebackType

from skipstone.cache import cached, content_key
from skipstone.spec.errors import ToolError

from .compiled import HARNESS, Flags, Progress, compile_units, gather, link, tools_key, verilate
from .toolchain import find_compiler

__all__ = ["SimulatedBoard", "build_board"]

_LIBRARY = "board.so"
_OPTIONS = (
    "-O3", "--x-initial", "fast", "--output-split", "200000", "--output-split-cfuncs", "500",
)  # fmt: skip
_START_CYCLES = 1000
"""The board's reset after configuration is over by then; nobody opens a real one sooner."""
_BATCH_CYCLES = 1000
_QUIET_CYCLES = 100_000
"""After so many cycles without a byte the board only runs when one comes."""


def build_board(
    verilog: str | Sequence[str],
    *,
    top: str,
    options: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """The simulation of board `top` as a shared library, built or from the cache.

    `verilog` is one text, or several. Raises ToolError.
    """
    texts = [verilog] if isinstance(verilog, str) else list(verilog)
    flags = Flags(optimize=("-O1",) if find_compiler().is_clang else ("-O2",), shared=True)
    harness = HARNESS / "serial.cpp"
    say = progress or (lambda line: None)

    def build(folder: Path) -> None:
        say("verilating")
        source = folder / "top.v"
        source.write_text("\n".join(texts))
        verilate(source, top=top, out=folder, flags=flags, options=[*_OPTIONS, *options])
        objects = compile_units(
            [*gather(folder), harness], out=folder, flags=flags, include=[folder], progress=progress
        )
        say("linking")
        link(objects, folder / _LIBRARY, flags=flags)
        for leftover in (*folder.glob("*.o"), *folder.glob("*.cc"), *folder.glob("V*")):
            leftover.unlink()

    key = content_key(top, *texts, repr(flags), *options, *_OPTIONS, tools_key(),
                      harness.read_text())  # fmt: skip
    library = cached("board", key, build) / _LIBRARY
    if not library.is_file():
        raise ToolError(
            f"the build cache is damaged, {library} is missing: delete {library.parent}, try again"
        )
    return library


def _load(library: Path) -> ctypes.CDLL:
    dll = ctypes.CDLL(str(library))
    for name, result, arguments in (
        ("create", c_void_p, [c_uint32]),
        ("destroy", None, [c_void_p]),
        ("send", None, [c_void_p, ctypes.c_char_p, c_uint64]),
        ("pending", c_uint64, [c_void_p]),
        ("take", c_uint64, [c_void_p, ctypes.c_char_p, c_uint64]),
        ("run", None, [c_void_p, c_uint64]),
        ("cycles", c_uint64, [c_void_p]),
        ("press", None, [c_void_p, c_uint64]),
    ):
        function = getattr(dll, f"board_{name}")
        function.restype, function.argtypes = result, arguments
    return dll


class SimulatedBoard:
    """A board that was just configured, reachable at `place`; a context manager.

    Parameters
    ----------
    library
        From `build_board`.
    divisor
        Clock cycles per bit of the serial line, as the top level has it.

    Attributes
    ----------
    place : str
        Path of the pseudo-terminal.
    """

    def __init__(self, library: Path, *, divisor: int):
        self._dll = _load(library)
        self._handle = c_void_p(self._dll.board_create(divisor))
        self._dll.board_run(self._handle, _START_CYCLES)
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        os.set_blocking(self._ours, False)  # whoever does not read must not stop the board
        self.place = os.ttyname(self._theirs)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="board", daemon=True)
        self._thread.start()

    def __enter__(self) -> SimulatedBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _serve(self) -> None:
        buffer = ctypes.create_string_buffer(4096)
        quiet, sent = 0, b""
        while not self._stop.is_set():
            ready, _, _ = select.select([self._ours], [], [], 0 if quiet < _QUIET_CYCLES else 0.02)
            with self._lock:
                if data := self._read() if ready else b"":
                    self._dll.board_send(self._handle, data, len(data))
                    quiet = 0
                elif quiet >= _QUIET_CYCLES and not sent:
                    continue
                self._dll.board_run(self._handle, _BATCH_CYCLES)
                count = self._dll.board_take(self._handle, buffer, len(buffer))
                busy = count or self._dll.board_pending(self._handle)
            quiet = 0 if busy else quiet + _BATCH_CYCLES
            sent += buffer.raw[:count]
            with contextlib.suppress(BlockingIOError):
                sent = sent[os.write(self._ours, sent) :]

    def _read(self) -> bytes:
        """What came on the terminal; nothing if its user took it back since we were told."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._ours, 4096)
        return b""

    @property
    def cycles(self) -> int:
        """Clock cycles simulated so far."""
        with self._lock:
            return self._dll.board_cycles(self._handle)

    def press_reset(self) -> None:
        """Press and release the board's reset button."""
        with self._lock:
            self._dll.board_press(self._handle, 100)
            self._dll.board_run(self._handle, 400)

    def unplug(self) -> None:
        """Take the terminal away under whoever uses it."""
        self._stop.set()
        self._thread.join()
        for descriptor in (self._ours, self._theirs):
            if descriptor >= 0:
                os.close(descriptor)
        self._ours = self._theirs = -1

    def close(self) -> None:
        """Unplug and release the model."""
        self.unplug()
        if self._handle:
            self._dll.board_destroy(self._handle)
            self._handle = c_void_p()
