"""Programs that a core must refuse: fields that no unit could execute, one at a time.

The values lie beyond what the cores sim-tiny and sim-small hold, for models of a capacity of 64.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from skipstone.spec.isa import Epilogue, Instruction, Opcode, decode_program, encode_program

from .lockstep import Lockstep

__all__ = ["ADDRESSES", "MALFORMED", "find", "program", "rewrite"]

MALFORMED: dict[str, tuple[Opcode, Epilogue | None, dict[str, int]]] = {
    "head_dim 16": (Opcode.GEOMETRY, None, {"exponent": 4}),
    "head_dim 256": (Opcode.GEOMETRY, None, {"exponent": 8}),
    "head_dim negative": (Opcode.GEOMETRY, None, {"exponent": -3}),
    "head_dim wider than a word": (Opcode.GEOMETRY, None, {"exponent": 7}),
    "no queries": (Opcode.GEOMETRY, None, {"source": 0}),
    "more queries than lanes": (Opcode.GEOMETRY, None, {"source": 9}),
    "no heads": (Opcode.GEOMETRY, None, {"a": 64 << 16}),
    "more heads than the query buffer holds": (Opcode.GEOMETRY, None, {"a": 64 << 16 | 100}),
    "heads beyond count": (Opcode.GEOMETRY, None, {"a": 64 << 16 | 0xFFFF}),
    "no hidden": (Opcode.GEOMETRY, None, {"groups": 0}),
    "hidden beyond the buffer": (Opcode.GEOMETRY, None, {"groups": 9}),
    "hidden beyond count": (Opcode.GEOMETRY, None, {"groups": 0xFFFF}),
    "no layers": (Opcode.GEOMETRY, None, {"blocks": 0}),
    "layers beyond the core's": (Opcode.GEOMETRY, None, {"blocks": 17}),
    "embedding rows": (Opcode.TABLES, None, {"groups": 9}),
    "rope rows": (Opcode.TABLES, None, {"blocks": 0}),
    "route layer": (Opcode.ROUTE, None, {"layer": 16}),
    "attention layer": (Opcode.ATTEND, None, {"layer": 255}),
    "key layer": (Opcode.LINEAR, Epilogue.KEY, {"layer": 64}),
    "no groups": (Opcode.LINEAR, Epilogue.QUERY, {"groups": 0}),
    "no blocks": (Opcode.LINEAR, Epilogue.SWIGLU, {"blocks": 0}),
    "more groups than the residual has": (Opcode.LINEAR, Epilogue.LOGITS, {"groups": 3}),
    "more groups than the buffer holds": (Opcode.LINEAR, Epilogue.RESIDUAL, {"groups": 25}),
    "a source that does not exist": (Opcode.LINEAR, Epilogue.VALUE, {"source": 2}),
    "a jump past the end": (Opcode.NEXT, None, {"a": 1 << 16}),
}
"""Of each: the instruction, the first of its kind, and the fields that are wrong."""

ADDRESSES: dict[str, tuple[Opcode, Epilogue | None, str]] = {
    "weights": (Opcode.LINEAR, Epilogue.QUERY, "address"),
    "head": (Opcode.LINEAR, Epilogue.LOGITS, "address"),
    "routers": (Opcode.ROUTER, None, "address"),
    "input": (Opcode.EMBED, None, "address"),
    "embedding": (Opcode.TABLES, None, "address"),
    "rope": (Opcode.TABLES, None, "a"),
    "records": (Opcode.TABLES, None, "b"),
    "logits": (Opcode.LINEAR, Epilogue.LOGITS, "b"),
    "kv": (Opcode.ROUTE, None, "a"),
}
"""By what lies there: the instruction, and its field that holds the address."""


def program(pair: Lockstep) -> list[Instruction]:
    """The image's program."""
    assert pair.image is not None, "load() comes first"
    return decode_program(np.asarray(pair.image.sections["program"].data).tobytes())


def find(pair: Lockstep, opcode: Opcode, epilogue: Epilogue | None = None) -> int:
    """Index of the first such instruction."""
    return next(
        n
        for n, i in enumerate(program(pair))
        if i.opcode is opcode and epilogue in (None, i.epilogue)
    )


def rewrite(pair: Lockstep, pc: int, **fields: Any) -> None:
    """Let both devices have the image's program with these fields of one instruction changed."""
    instructions = program(pair)
    instructions[pc] = replace(instructions[pc], **fields)
    pair.write("program", np.frombuffer(encode_program(instructions), np.uint8))
