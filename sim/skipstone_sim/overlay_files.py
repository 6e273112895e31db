"""Overlays for the simulated board: the files that Vivado or Vitis would leave for a real one.

The bitstream is a true ``.bit`` or ``.xclbin`` container; its payload names the core configuration
and what stands in for the FPGA.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Literal

from skipstone.board.handoff import hardware_handoff
from skipstone.board.manifest import Manifest
from skipstone.board.xclbin import Bank, device_binary
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import BitstreamError

__all__ = ["LogicKind", "pack_bitstream", "unpack_bitstream", "write_overlay"]

LogicKind = Literal["rtl", "golden"]

_MAGIC = b"SKIPSIM\0"
_PREAMBLE = bytes.fromhex("0ff00ff00ff00ff000") + b"\x00\x01"
BANK_BYTES = 64 << 20
"""Of each memory bank of an Alveo-style overlay."""


def _text(key: bytes, value: str) -> bytes:
    raw = value.encode("ascii") + b"\0"
    return key + struct.pack(">H", len(raw)) + raw


def pack_bitstream(config: CoreConfig, logic: LogicKind) -> bytes:
    """A ``.bit`` file."""
    document = json.dumps({"config": json.loads(config.to_json()), "logic": logic}, sort_keys=True)
    payload = _MAGIC + document.encode()
    payload += b" " * (-len(payload) % 4)
    head = struct.pack(">H", len(_PREAMBLE) - 2) + _PREAMBLE
    head += _text(b"a", "skipstone;UserID=0XFFFFFFFF;Version=2024.1")
    head += _text(b"b", "xck26-sfvc784-2LV-c") + _text(b"c", "2024/01/01") + _text(b"d", "00:00:00")
    return head + b"e" + struct.pack(">I", len(payload)) + payload


def unpack_bitstream(payload: bytes) -> tuple[CoreConfig, LogicKind]:
    """What the data of a ``.bit`` file say. Raises BitstreamError for any other bitstream."""
    if not payload.startswith(_MAGIC):
        raise BitstreamError(
            f"the simulated board takes only bitstreams made for it; this one begins with "
            f"{payload[:8]!r}"
        )
    try:
        document = json.loads(payload[len(_MAGIC) :])
        return CoreConfig(**document["config"]), document["logic"]
    except (ValueError, KeyError, TypeError) as error:
        raise BitstreamError(f"malformed bitstream: {error}") from None


def write_overlay(
    folder: str | os.PathLike[str],
    config: CoreConfig,
    *,
    logic: LogicKind = "rtl",
    style: Literal["zynq", "alveo"] = "zynq",
) -> Path:
    """Write ``skipstone.bit`` and ``.hwh``, or ``skipstone.xclbin``, with a manifest; the
    bitstream.

    `logic` is what runs: the simulated gateware, or the golden model.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    bit = pack_bitstream(config, logic)
    if style == "zynq":
        path = target / "skipstone.bit"
        path.write_bytes(bit)
        path.with_suffix(".hwh").write_text(hardware_handoff(config), encoding="utf-8")
    else:
        banks = [Bank(f"HBM[{p}]", p * BANK_BYTES, BANK_BYTES) for p in range(config.ports)]
        path = target / "skipstone.xclbin"
        path.write_bytes(device_binary(config, banks, bitstream=bit))
    Manifest.write(path, config, f"simulated-{style}")
    return path
