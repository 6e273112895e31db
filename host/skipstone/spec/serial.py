"""The frames by which a host drives a core over a serial line; gateware and driver both use this.

The host sends a request and waits for its response; nothing is sent unasked. Everything is little
endian, a CRC is CRC-32 (ISO-HDLC, that of zlib) of all bytes before it since the start byte or,
for data, of the data alone::

    request    0xA5 · u8 operation · u8 tag · u32 address · u32 words · CRC   [data · CRC]
    response   0x5A · u8 status · u8 tag · u16 words · data · CRC

A request with a wrong CRC is not answered; one whose data have a wrong CRC changes nothing. The
bridge looks for a start byte after each request, so `MAX_REQUEST_BYTES` zeros bring it there from
any state.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, unique

__all__ = [
    "MAX_REQUEST_BYTES",
    "MAX_WORDS",
    "PROTOCOL_VERSION",
    "REQUEST_START",
    "RESPONSE_START",
    "Operation",
    "Response",
    "Status",
    "parse_response",
    "request",
]

PROTOCOL_VERSION = 1
REQUEST_START, RESPONSE_START = 0xA5, 0x5A
MAX_WORDS = 256
"""32-bit words of data in a frame."""


@unique
class Operation(IntEnum):
    """What a request asks for; addresses are in bytes, multiples of 4."""

    IDENTIFY = 0  # answers two words: PROTOCOL_VERSION and the bytes of memory
    READ_REGISTERS = 1
    WRITE_REGISTERS = 2  # consecutive registers
    READ_MEMORY = 3
    WRITE_MEMORY = 4
    CHECK_MEMORY = 5  # answers one word: the CRC of any number of words of memory
    RESET = 6  # resets everything but the bridge and memory


@unique
class Status(IntEnum):
    """How a request ended; with anything but OK it had no effect, except for BUS_ERROR."""

    OK = 0
    BAD_REQUEST = 1  # unknown operation, or words or addresses out of range
    BAD_DATA = 2  # the data's CRC does not match
    BUS_ERROR = 3  # the core's control port refused an access


_HEAD = struct.Struct("<BBII")
_ANSWER = struct.Struct("<BBH")
_CRC = struct.Struct("<I")
MAX_REQUEST_BYTES = 1 + _HEAD.size + _CRC.size + 4 * MAX_WORDS + _CRC.size


@dataclass(frozen=True)
class Response:
    """A whole response; `data` is of status OK's operation."""

    status: int
    tag: int
    data: bytes


def _checked(content: bytes) -> bytes:
    return content + _CRC.pack(zlib.crc32(content))


def request(
    operation: Operation, tag: int, address: int = 0, words: int = 0, data: bytes = b""
) -> bytes:
    """The bytes of a request; with `data`, `words` is theirs."""
    words = words or len(data) // 4
    head = bytes([REQUEST_START]) + _checked(_HEAD.pack(operation, tag, address, words))
    return head + (_checked(data) if data else b"")


def parse_response(stream: bytes) -> tuple[Response | None, int]:
    """The response at the start of `stream`, and how many bytes it takes.

    None with 0 bytes if more are needed, None with 1 if no valid response begins here.
    """
    if not stream:
        return None, 0
    if stream[0] != RESPONSE_START:
        return None, 1
    if len(stream) < 1 + _ANSWER.size:
        return None, 0
    status, tag, words = _ANSWER.unpack_from(stream, 1)
    if words > MAX_WORDS:
        return None, 1
    end = 1 + _ANSWER.size + 4 * words
    if len(stream) < end + _CRC.size:
        return None, 0
    if _CRC.unpack_from(stream, end)[0] != zlib.crc32(stream[1:end]):
        return None, 1
    return Response(status, tag, bytes(stream[1 + _ANSWER.size : end])), end + _CRC.size
