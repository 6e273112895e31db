"""Which instructions a core refuses: fields outside its sizes, and steps out of order.

The rules are written here once for software; `skipstone_hw.legality` is their gateware. What passes
may still compute nonsense, but no unit leaves its buffers or waits for words that never come.
"""

from __future__ import annotations

from collections.abc import Collection

from .config import CoreConfig
from .isa import Instruction, Opcode, Source

__all__ = ["NEEDS", "objection"]

NEEDS: dict[Opcode, tuple[Opcode, ...]] = {
    Opcode.TABLES: (Opcode.GEOMETRY,),
    Opcode.ROUTER: (Opcode.GEOMETRY,),
    Opcode.EMBED: (Opcode.GEOMETRY, Opcode.TABLES),
    Opcode.ROUTE: (Opcode.EMBED, Opcode.ROUTER),
    Opcode.LINEAR: (Opcode.EMBED, Opcode.ROUTER),
    Opcode.ATTEND: (Opcode.EMBED,),
    Opcode.NEXT: (Opcode.EMBED,),
}
"""Instructions that must have been executed earlier in the run."""


def objection(
    i: Instruction,
    config: CoreConfig,
    *,
    geometry: Instruction | None,
    met: Collection[Opcode],
    program_length: int,
) -> str | None:
    """Why core `config` refuses `i` (BAD_OPCODE), or None.

    `geometry` is the GEOMETRY in force, `met` the opcodes executed so far in the run.
    """
    missing = [need.name for need in NEEDS.get(i.opcode, ()) if need not in met]
    if missing:
        return f"{i.opcode.name} before {', '.join(missing)}"
    c = config
    match i.opcode:
        case Opcode.GEOMETRY:
            kv_heads = i.a & 0xFFFF
            if i.exponent not in c.head_dim_log2:
                return f"head_dim 2^{i.exponent}"
            query = (kv_heads * i.source) << i.exponent
            if not 1 <= i.source <= c.lanes:
                return f"{i.source} query heads per KV head"
            if not 1 <= query <= c.max_query or query % c.group:
                return f"{query} elements of query"
            if not 1 <= i.groups <= c.max_hidden // c.group:
                return f"{i.groups} groups of hidden"
            if not 1 <= i.blocks <= c.max_layers:
                return f"{i.blocks} layers"
        case Opcode.TABLES:
            assert geometry is not None
            row = -(-2 * geometry.groups * c.group // c.word_bytes)
            angles = -(-4 * (1 << geometry.exponent) // c.word_bytes)
            if (i.groups, i.blocks) != (row, angles):
                return f"rows of {i.groups} and {i.blocks} words, not {row} and {angles}"
        case Opcode.LINEAR:
            assert geometry is not None
            from_residual = i.source == Source.RESIDUAL
            most = geometry.groups if from_residual else c.max_activation // c.group
            if i.source > max(Source) or not 1 <= i.groups <= most or i.blocks == 0:
                return f"matrix of {i.groups} by {i.blocks} from source {i.source}"
        case Opcode.NEXT:
            if i.a >= program_length:
                return f"goto {i.a} of {program_length}"
    if i.layer >= c.max_layers:
        return f"layer {i.layer}"
    return None
