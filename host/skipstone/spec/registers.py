"""The AXI4-Lite register map, in the `ap_ctrl_hs` convention of Vitis kernels (UG1393, UG1399).

One table; drivers, gateware, metadata and headers are all made from it. Every register is 32 bits
wide; 64-bit quantities are two registers, low half first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

__all__ = [
    "BY_NAME",
    "COUNTERS",
    "FIELDS",
    "PORT_BASE",
    "REGISTERS",
    "REGISTER_SPACE_BYTES",
    "VERSION",
    "Control",
    "Field",
    "Mode",
    "Register",
    "counter_offset",
]

VERSION = 2
"""Version of the instruction set, register map and numerics together."""

REGISTER_SPACE_BYTES = 4096


class Control(IntFlag):
    """Bits of CTRL."""

    START = 1 << 0
    DONE = 1 << 1
    IDLE = 1 << 2
    READY = 1 << 3
    AUTO_RESTART = 1 << 7
    RESET = 1 << 8


class Mode(IntFlag):
    """Bits of MODE."""

    LOGITS = 1 << 0
    ALL_LOGITS = 1 << 1
    NO_OUTPUT = 1 << 2
    """Nobody wants what follows these tokens: instructions for OUTPUT select none."""


@dataclass(frozen=True)
class Register:
    """A 32-bit register: byte offset, host access ("rw", "ro", "w1" self-clearing/toggle), one
    line."""

    name: str
    offset: int
    access: str
    doc: str


_FIXED = [
    ("CTRL", 0x00, "rw", "ap_start 0, ap_done 1 (clears on read), ap_idle 2, ap_ready 3, reset 8"),
    ("GIER", 0x04, "rw", "global interrupt enable: bit 0"),
    ("IP_IER", 0x08, "rw", "interrupt enable: bit 0 done, bit 1 ready"),
    ("IP_ISR", 0x0C, "rw", "interrupt status: bit 0 done, bit 1 ready; writing 1 toggles"),
    ("PROGRAM_ADDRESS", 0x10, "rw", "memory word of instruction 0"),
    ("PROGRAM_LENGTH", 0x18, "rw", "instructions in the program"),
    ("POSITION", 0x20, "rw", "sequence position of the chunk's first token"),
    ("CHUNK_TOKENS", 0x28, "rw", "tokens in the chunk, at least 1"),
    ("STEPS", 0x30, "rw", "further greedy steps to take after the chunk, without the host"),
    ("EOS_TOKEN", 0x38, "rw", "token id that ends greedy steps; 0xFFFFFFFF for none"),
    ("MODE", 0x40, "rw", "bit 0 write logits, bit 1 logits of every token of the chunk"),
    ("MEMORY_WORDS", 0x48, "rw", "words of memory the core may address"),
    ("WATCHDOG_CYCLES", 0x50, "rw", "cycles without progress until the core gives up; 0: never"),
    ("ERROR_CODE", 0x80, "ro", "why the last run stopped; 0 is success"),
    ("ERROR_PC", 0x84, "ro", "instruction that was executing when the error happened"),
    ("TOKENS_DONE", 0x88, "ro", "tokens whose output record was written in the last run"),
    ("NEXT_TOKEN", 0x8C, "ro", "argmax of the last logits"),
    ("VERSION", 0x90, "ro", "version of the instruction set"),
    ("CONFIG_HASH_LOW", 0x94, "ro", "core configuration hash, low half"),
    ("CONFIG_HASH_HIGH", 0x98, "ro", "core configuration hash, high half"),
]  # fmt: skip

PORT_BASE = 0x100
"""Byte address of each port's stripe: port p at PORT_BASE + 8·p, 64 bits."""

COUNTER_BASE = 0x400

_COUNTERS = [
    ("cycles", "cycles from start to done"),
    ("array_busy", "cycles in which the array consumed a word"),
    ("stall_memory", "cycles in which a consumer waited for the stream reader"),
    ("stall_epilogue", "cycles in which the array waited for its outputs to drain"),
    ("stall_barrier", "cycles of waiting at a barrier in which the array was idle"),
    ("stall_kv_write", "cycles in which the epilogue waited for the KV writer"),
    ("words_weights", "words read for weights and scales"),
    ("words_kv", "words read for keys, values and their exponents"),
    ("words_other", "words read for program, tables, routers and records"),
    ("words_unneeded", "words read for a matrix that no token needed after all"),
    ("words_written", "words written"),
    ("instructions", "instructions executed"),
    ("instructions_skipped", "instructions that selected no token"),
    ("attention_executed", "token-layers that executed attention"),
    ("attention_skipped", "token-layers that skipped attention"),
    ("mlp_executed", "token-layers that executed the MLP"),
    ("mlp_skipped", "token-layers that skipped the MLP"),
    ("errors", "errors since power-up"),
    ("history_hits", "K and V words served from the KV history buffer"),
    ("history_gaps", "K and V words read that another than the attending layer stored"),
    ("history_fresh", "K and V words read that the attending layer stored"),
]

COUNTERS = tuple(name for name, _ in _COUNTERS)
"""Counter names in register order; each counts one run, or since power-up, in 64 bits."""

SINCE_POWER_UP = ("errors",)
"""Counters that a new run does not clear."""

COUNTER_GROWTH = 64
"""Most that a counter gains in a cycle."""


def counter_offset(name: str) -> int:
    """Byte offset of a counter's low half."""
    return COUNTER_BASE + 8 * COUNTERS.index(name)


REGISTERS = (
    *(Register(*row) for row in _FIXED),
    *(
        Register(f"PORT_BASE_{p}_{half}", PORT_BASE + 8 * p + 4 * h, "rw", f"stripe of port {p}")
        for p in range(32)
        for h, half in enumerate(("LOW", "HIGH"))
    ),
    *(
        Register(f"{name.upper()}_{half}", COUNTER_BASE + 8 * i + 4 * h, "ro", doc)
        for i, (name, doc) in enumerate(_COUNTERS)
        for h, half in enumerate(("LOW", "HIGH"))
    ),
)

BY_NAME = {r.name: r for r in REGISTERS}


@dataclass(frozen=True)
class Field:
    """One bit of a register: position, host access ("rw", "ro", "w1"), one line."""

    name: str
    bit: int
    access: str
    doc: str


FIELDS = {
    "CTRL": (
        Field("AP_START", 0, "rw", "start a run; stays set until it ends"),
        Field("AP_DONE", 1, "ro", "a run has ended; cleared on read"),
        Field("AP_IDLE", 2, "ro", "no run is going on"),
        Field("AP_READY", 3, "ro", "the next run can be started; cleared on read"),
        Field("AUTO_RESTART", 7, "rw", "start again when a run ends without error"),
        Field("RESET", 8, "rw", "break the run off; stays set until the memory ports are quiet"),
    ),
    "GIER": (Field("ENABLE", 0, "rw", "drive the interrupt"),),
    "IP_IER": (
        Field("DONE", 0, "rw", "interrupt when a run ends"),
        Field("READY", 1, "rw", "interrupt when the next run can be started"),
    ),
    "IP_ISR": (
        Field("DONE", 0, "w1", "a run has ended; writing 1 toggles"),
        Field("READY", 1, "w1", "the next run can be started; writing 1 toggles"),
    ),
    "MODE": (
        Field("LOGITS", 0, "rw", "write the logits of the chunk's last token"),
        Field("ALL_LOGITS", 1, "rw", "write the logits of every token"),
    ),
}
"""Registers that are made of bits, and these."""
