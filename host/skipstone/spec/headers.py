"""C++ headers of the specification: what the HLS sources share with Python, written once.

`spec_header` holds what every core has (instruction fields, registers, error codes, number formats,
tables) and is kept in ``hls/skipstone/spec.hpp``; a test holds the file against this text.
`config_header` holds one core's sizes and is written wherever that core is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from enum import Enum

import numpy as np

from . import formats, registers, tables
from .config import CoreConfig
from .errors import CoreErrorCode
from .isa import INSTRUCTION_BYTES, Epilogue, Flag, Opcode, Select, Source
from .layout import KV_BLOCK_TOKENS
from .legality import NEEDS
from .records import FORCE, INPUT_RECORD, OUTPUT_RECORD, RECORD_BYTES

__all__ = ["config_header", "spec_header"]

_FORMATS = (
    "ACTIVATION_BITS",
    "KV_BITS",
    "ROUTER_BITS",
    "EXPONENT_MIN",
    "EXPONENT_MAX",
    "LINEAR_GUARD_BITS",
    "SQUARE_GUARD_BITS",
    "ROUTER_GUARD_BITS",
    "SCORE_FRACTION_BITS",
    "PROBABILITY_FRACTION_BITS",
)
_TABLE_BITS = ("INPUT_BITS", "SEGMENT_BITS", "OFFSET_BITS", "OUTPUT_BITS", "EXP2_LIMIT")


def _constant(name: str, value: int) -> str:
    return f"constexpr int {name} = {value};"


def _enum(name: str, members: Iterable[Enum]) -> Iterator[str]:
    yield f"enum class {name} : unsigned {{"
    yield from (f"    {m.name} = {int(m.value)}," for m in members)
    yield "};"


def _array(kind: str, name: str, values: Iterable[int]) -> Iterator[str]:
    items = [str(v) for v in values]
    yield f"constexpr {kind} {name}[{len(items)}] = {{"
    yield from ("    " + ", ".join(items[n : n + 12]) + "," for n in range(0, len(items), 12))
    yield "};"


def _offsets(prefix: str, record: np.dtype[np.void]) -> Iterator[str]:
    for name, (_, offset, *_) in (record.fields or {}).items():
        if name != "reserved":
            yield _constant(f"{prefix}_{name.upper()}", int(offset))


def _file(doc: str, body: Iterable[str]) -> str:
    head = [f"// {doc}", "// Made by skipstone.spec.headers; do not edit.", "#pragma once", ""]
    return (
        "\n".join([*head, "namespace skipstone {", "", *body, "", "}  // namespace skipstone"])
        + "\n"
    )


def _spec() -> Iterator[str]:
    yield _constant("VERSION", registers.VERSION)
    yield _constant("INSTRUCTION_BYTES", INSTRUCTION_BYTES)
    for name, members in (("Opcode", Opcode), ("Epilogue", Epilogue), ("Select", Select)):
        yield from _enum(name, members)
    yield from _enum("Source", Source)
    yield from _enum("ErrorCode", CoreErrorCode)
    yield from (_constant(f"FLAG_{f.name}", int(f)) for f in Flag if f)
    yield from (_constant(f"MODE_{m.name}", int(m)) for m in registers.Mode)
    yield from ("", "// Bit m of NEEDS[o]: opcode o only after opcode m.")
    needs = [sum(1 << n for n in NEEDS.get(opcode, ())) for opcode in Opcode]
    yield from _array("unsigned short", "NEEDS", needs)
    yield _constant("KV_BLOCK_TOKENS", KV_BLOCK_TOKENS)
    yield from ("", "// Token records: byte offsets.")
    yield _constant("RECORD_BYTES", RECORD_BYTES)
    yield _constant("RECORD_FORCE", FORCE)
    yield from _offsets("INPUT", INPUT_RECORD)
    yield from _offsets("OUTPUT", OUTPUT_RECORD)
    yield from ("", "// Registers: byte offsets.")
    fixed = [r for r in registers.REGISTERS if r.offset < registers.PORT_BASE]
    yield from (_constant(f"REGISTER_{r.name}", r.offset) for r in fixed)
    yield _constant("REGISTER_PORT_BASE", registers.PORT_BASE)
    first = registers.counter_offset(registers.COUNTERS[0])
    yield _constant("REGISTER_COUNTERS", first)
    yield "enum class Counter : unsigned {"
    yield from (f"    {name}," for name in registers.COUNTERS)
    yield "};"
    yield _constant("COUNTERS", len(registers.COUNTERS))
    yield from ("", "// Number formats.")
    yield from (_constant(name, getattr(formats, name)) for name in _FORMATS)
    yield from ("", "// Piecewise linear tables.")
    yield from (_constant(name, getattr(tables, name)) for name in _TABLE_BITS)
    for table in (tables.EXP2, tables.RECIPROCAL, tables.RSQRT):
        yield from _array("unsigned", f"{table.name.upper()}_BASES", table.bases.tolist())
        yield from _array("int", f"{table.name.upper()}_SLOPES", table.slopes.tolist())


def spec_header() -> str:
    """The header that all cores share."""
    return _file("The specification: what every core has.", _spec())


def _config(config: CoreConfig) -> Iterator[str]:
    fields = dataclasses.asdict(config)
    for name, value in fields.items():
        if isinstance(value, int) and not isinstance(value, bool):  # sizes
            yield _constant(name.upper(), value)
    for name in (
        "word_bytes", "port_bytes", "steps_per_group", "groups_per_scale_word", "max_activation",
        "tile_blocks", "tile_words",
    ):  # fmt: skip
        yield _constant(name.upper(), getattr(config, name))
    yield _constant("HEAD_DIM_LOG2_MIN", config.head_dim_log2.start)
    yield _constant("HEAD_DIM_LOG2_MAX", config.head_dim_log2.stop - 1)
    yield f"constexpr unsigned long long CONFIG_HASH = 0x{config.hash64:016x}ull;"


def config_header(config: CoreConfig, *, tile_storage: str = "auto") -> str:
    """The header of one core: its fields and derived sizes, and its memory ports as macros.

    `tile_storage` is the kind of memory block that Vitis HLS makes the tile buffer of: "uram",
    "bram" or "auto".

    ``SKIPSTONE_PORTS`` lists the port arguments, ``SKIPSTONE_PORT_PARAMETERS`` declares them, and
    ``SKIPSTONE_FOR_PORTS(X)`` is X(0) X(1) … of each: an HLS kernel's ports are arguments
    throughout, never an array.
    """
    ports = range(config.ports)
    text = _file(f"Core {config.name}.", _config(config))
    return text + "\n".join(
        [
            "",
            "#define SKIPSTONE_PORTS " + ", ".join(f"port_{p}" for p in ports),
            "#define SKIPSTONE_PORT_PARAMETERS " + ", ".join(f"Beat* port_{p}" for p in ports),
            "#define SKIPSTONE_FOR_PORTS(X) " + " ".join(f"X({p})" for p in ports),
            f"#define SKIPSTONE_TILE_STORAGE {tile_storage}",
            "",
        ]
    )
