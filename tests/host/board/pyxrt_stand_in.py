"""What stands in for XRT's module pyxrt: the calls of ``pyxrt.pyi`` that the device makes.

Memory banks are separate, host and card side of a buffer are two arrays, and the kernel's arguments
reach registers as the ``.xclbin`` says. A golden core runs behind them.
"""

import enum
from types import ModuleType
from xml.etree import ElementTree

import numpy as np

from skipstone.board.manifest import Manifest
from skipstone.spec.registers import BY_NAME, Control
from skipstone_sim.board_logic import GoldenLogic

__all__ = ["stand_in"]

BANK_BYTES = 1 << 21


class SyncDirection(enum.Enum):
    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1


class CommandState(enum.Enum):
    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ABORT = 6
    ERT_CMD_STATE_TIMEOUT = 8


class Card:
    """One card: its memory, the loaded kernel, and what shall go wrong."""

    def __init__(self):
        self.memory = np.full(4 * BANK_BYTES, 0xA5, np.uint8)
        self.used = {}
        self.next_state = None
        self.logic = None


def sections(raw: bytes) -> dict[int, bytes]:
    """By hand, as ``struct axlf`` has them."""
    assert raw[:8] == b"xclbin2\0"
    count = int.from_bytes(raw[448:452], "little")
    out = {}
    for n in range(count):
        header = raw[456 + 40 * n :][:40]
        kind, offset, size = (int.from_bytes(header[a:b], "little") for a, b in
                              ((0, 4), (24, 32), (32, 40)))  # fmt: skip
        out[kind] = raw[offset : offset + size]
    return out


def stand_in(card: Card) -> ModuleType:
    """The module, for a computer with this card."""
    module = ModuleType("pyxrt")

    class device:
        def __init__(self, index):
            if index:
                raise RuntimeError(f"No such device with index '{index}'")

        def load_xclbin(self, path):
            with open(path, "rb") as f:
                self.sections = sections(f.read())
            card.logic = GoldenLogic(Manifest.read(path).config, card.memory)
            return "uuid"

    class kernel:
        exclusive = "exclusive"

        def __init__(self, device, uuid, name, mode):
            assert (uuid, name, mode) == ("uuid", "skipstone_core", "exclusive")
            xml = ElementTree.fromstring(device.sections[2])
            arguments = xml.findall(".//kernel/arg")
            self.offsets = {int(a.get("id")): int(a.get("offset"), 0) for a in arguments}
            wires = np.frombuffer(device.sections[7], "<i4")[1:].reshape(-1, 3)
            self.banks = {int(argument): int(bank) for argument, _, bank in wires}

        def group_id(self, index):
            return self.banks[index]

    class bo:
        normal = "normal"

        def __init__(self, device, size, flags, group):
            used = card.used.get(group, 4096)
            if used + size > BANK_BYTES:
                raise RuntimeError("std::bad_alloc")
            self.card_address = group * BANK_BYTES + used
            card.used[group] = used + -(-size // 4096) * 4096
            self.host = np.full(size, 0xA5, np.uint8)

        def map(self):
            return memoryview(self.host)

        def sync(self, direction, size, offset):
            there = card.memory[self.card_address + offset :][:size]
            here = self.host[offset : offset + size]
            assert there.size == here.size == size
            if direction is SyncDirection.XCL_BO_SYNC_BO_TO_DEVICE:
                there[:] = here
            else:
                here[:] = there

    class run:
        def __init__(self, kernel):
            self.offsets = kernel.offsets

        def set_arg(self, index, value):
            offset = self.offsets[index]
            if isinstance(value, bo):
                card.logic.write(offset, value.card_address & 0xFFFFFFFF)
                card.logic.write(offset + 4, value.card_address >> 32)
            else:
                assert 0 <= value < 1 << 32
                card.logic.write(offset, value)

        def start(self):
            card.logic.write(BY_NAME["CTRL"].offset, Control.START)

        def wait(self, timeout_ms):
            assert timeout_ms > 0
            if card.next_state is not None:
                state, card.next_state = card.next_state, None
                return state
            card.logic.advance()
            return CommandState.ERT_CMD_STATE_COMPLETED

    module.device, module.kernel, module.bo, module.run = device, kernel, bo, run
    module.xclBOSyncDirection, module.ert_cmd_state = SyncDirection, CommandState
    return module
