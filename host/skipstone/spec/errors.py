"""The errors a user can meet: one base class, one subclass per kind of cause.

Every message names what was wrong, the value met, and what is allowed.
"""

from __future__ import annotations

from enum import IntEnum, unique

__all__ = [
    "BitstreamError",
    "CheckpointError",
    "ConfigError",
    "CoreErrorCode",
    "DeviceBusyError",
    "DeviceError",
    "DeviceMemoryError",
    "DeviceTimeoutError",
    "ImageError",
    "InterruptLostError",
    "KvRoomError",
    "LinkError",
    "RequestError",
    "RunAbortedError",
    "SkipstoneError",
    "ToolError",
    "UnsupportedModelError",
]


class SkipstoneError(Exception):
    """Base of all errors that Skipstone raises on purpose."""


class ConfigError(SkipstoneError, ValueError):
    """A core configuration, or a model on it, that cannot be built."""


class CheckpointError(SkipstoneError, ValueError):
    """A checkpoint file that is damaged, contradictory or not finite."""


class UnsupportedModelError(SkipstoneError, ValueError):
    """A well-formed model outside the supported family; `reasons` lists every cause."""

    def __init__(self, reasons: list[str]):
        self.reasons = list(reasons)
        super().__init__("unsupported model:\n" + "\n".join(f"  - {r}" for r in self.reasons))


class ImageError(SkipstoneError, ValueError):
    """A memory image that is damaged or made for another core configuration."""


class RequestError(SkipstoneError, ValueError):
    """A request that the model or the device cannot serve (too long, empty, out of range)."""


class KvRoomError(RequestError):
    """A sequence executes attention in a layer more often than its KV store has room for.

    Attributes
    ----------
    layer : int
    room : int
        Tokens that the layer's store holds.
    """

    def __init__(self, layer: int, room: int, position: int):
        self.layer, self.room = layer, room
        super().__init__(
            f"layer {layer} has room for the keys and values of {room} tokens, and the tokens from "
            f"position {position} on need more; the sequence before them is kept. Compile the "
            "model with a lower kv_expected_skip (--kv-expected-skip) for that layer"
        )


class ToolError(SkipstoneError, RuntimeError):
    """A program that the action needs is missing or failed."""


@unique
class CoreErrorCode(IntEnum):
    """Values of the core's ERROR_CODE register."""

    NONE = 0
    BAD_OPCODE = 1  # opcode outside the instruction set, or a malformed field
    ADDRESS_RANGE = 2  # a word address at or beyond MEMORY_WORDS
    READ_RESPONSE = 3  # SLVERR or DECERR on a read channel
    WRITE_RESPONSE = 4  # SLVERR or DECERR on a write channel
    PROGRAM_CRC = 5  # an instruction's check word does not match
    WATCHDOG = 6  # no progress for WATCHDOG_CYCLES cycles
    TOKEN_RANGE = 7  # a token id at or beyond the vocabulary
    KV_OVERFLOW = 8  # position beyond the longest sequence, or a layer's KV store is full


class DeviceError(SkipstoneError, RuntimeError):
    """The core stopped with an error.

    Attributes
    ----------
    code : CoreErrorCode
    pc : int
        Index of the instruction that was executing.
    """

    def __init__(self, code: CoreErrorCode, pc: int, detail: str = ""):
        self.code, self.pc = CoreErrorCode(code), pc
        tail = f": {detail}" if detail else ""
        super().__init__(
            f"the core stopped with {self.code.name} ({int(code)}) at instruction {pc}{tail}"
        )


class DeviceTimeoutError(SkipstoneError, TimeoutError):
    """The device did not finish within its deadline."""


class InterruptLostError(DeviceTimeoutError):
    """The run ended in time, but the interrupt that should have said so never came."""


class RunAbortedError(SkipstoneError, RuntimeError):
    """A run ended before its time: by a reset, or by an error whose code cannot be read."""


class DeviceBusyError(SkipstoneError, RuntimeError):
    """Another process, or another object of this one, uses the device."""


class DeviceMemoryError(SkipstoneError, MemoryError):
    """The device's memory is exhausted; the message says what was asked for and what is free."""


class BitstreamError(SkipstoneError, ValueError):
    """A bitstream that is damaged, or is not the one that the host or its manifest expects."""


class LinkError(SkipstoneError, ConnectionError):
    """The line to a board cannot be opened, broke off, stays silent or carries nonsense."""
