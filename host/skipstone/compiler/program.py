"""The program: one pass over a chunk of tokens, the same for every length and position.

A barrier stands where an instruction reads what an earlier one writes on chip or in memory: the
core otherwise overlaps neighbours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..model import ModelConfig
from ..spec.config import CoreConfig
from ..spec.isa import Epilogue, Flag, Instruction, Opcode, Select, Source
from ..spec.layout import row_words

__all__ = ["KvStore", "Matrix", "build_program", "program_length"]

LOOP_START = 2
"""Where NEXT continues: behind the two set-up instructions."""


@dataclass(frozen=True)
class Matrix:
    """A placed matrix: word address, shape in tiles, largest scale exponent."""

    address: int
    groups: int
    blocks: int
    exponent: int


class KvStore(NamedTuple):
    """A layer's packed KV store: word address, and the tokens that it has room for."""

    address: int
    room: int


def _float_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def _linear(
    matrix: Matrix,
    epilogue: Epilogue,
    *,
    layer: int = 0,
    select: Select,
    flags: Flag = Flag.NONE,
    source: Source = Source.RESIDUAL,
    a: int = 0,
    b: int = 0,
) -> Instruction:
    return Instruction(
        opcode=Opcode.LINEAR,
        epilogue=epilogue,
        select=select,
        flags=flags,
        layer=layer,
        address=matrix.address,
        groups=matrix.groups,
        blocks=matrix.blocks,
        exponent=matrix.exponent,
        source=source,
        a=a,
        b=b,
    )


def _layer(
    model: ModelConfig,
    layer: int,
    matrices: Mapping[str, Matrix],
    routers: list[int],
    store: KvStore,
) -> Iterator[Instruction]:
    attention, mlp = Select.ATTENTION, Select.MLP
    # Layer 0 has K and V of every token; the recompute rule has them in all layers.
    stores = Select.ALL if layer == 0 or model.kv_rule == "kv_recompute" else attention
    barrier, norm = Flag.BARRIER, Flag.NORM

    def matrix(name: str) -> Matrix:
        return matrices[f"{layer}.{name}"]

    first = matrix("q")
    yield Instruction(
        opcode=Opcode.ROUTE,
        layer=layer,
        flags=barrier,
        address=first.address,
        groups=first.groups,
        blocks=first.blocks,
        a=store.address,
    )
    yield _linear(first, Epilogue.QUERY, layer=layer, select=attention, flags=norm)
    yield _linear(matrix("k"), Epilogue.KEY, layer=layer, select=stores, flags=norm, a=store.room)
    yield _linear(matrix("v"), Epilogue.VALUE, layer=layer, select=stores, flags=norm)
    # The next layer's routers are loaded while nothing writes the residual stream: no barrier.
    if layer + 1 < model.layers:
        yield Instruction(opcode=Opcode.ROUTER, layer=layer + 1, address=routers[layer + 1])
    yield Instruction(opcode=Opcode.ATTEND, layer=layer, select=attention, flags=barrier)
    yield _linear(
        matrix("o"),
        Epilogue.RESIDUAL,
        layer=layer,
        select=attention,
        flags=barrier,
        source=Source.ACTIVATION,
    )
    yield _linear(matrix("gate_up"), Epilogue.SWIGLU, layer=layer, select=mlp, flags=barrier | norm)
    yield _linear(
        matrix("down"),
        Epilogue.RESIDUAL,
        layer=layer,
        select=mlp,
        flags=barrier,
        source=Source.ACTIVATION,
    )


def program_length(layers: int) -> int:
    """Instructions of a model of so many layers."""
    return 9 * layers + 6


def build_program(
    model: ModelConfig,
    config: CoreConfig,
    *,
    matrices: Mapping[str, Matrix],
    addresses: Mapping[str, int],
    routers: list[int],
    kv_capacity: int,
    kv_stores: Sequence[KvStore],
) -> list[Instruction]:
    """Instructions of `model`.

    `matrices` holds "LAYER.NAME" for q, k, v, o, gate_up, down, and "head"; `addresses` the
    sections' words; `routers` each layer's router record, `kv_stores` its KV store; `kv_capacity`
    is the longest sequence in tokens.
    """
    barrier = Flag.BARRIER
    program = [
        Instruction(
            opcode=Opcode.GEOMETRY,
            groups=model.hidden // config.group,
            blocks=model.layers,
            exponent=model.head_dim.bit_length() - 1,
            source=model.heads // model.kv_heads,
            a=model.kv_heads | kv_capacity << 16,
            b=_float_bits(1 / model.hidden),
            c=_float_bits(model.rms_eps),
        ),
        Instruction(
            opcode=Opcode.TABLES,
            address=addresses["embedding"],
            groups=row_words(config, 2 * model.hidden),
            blocks=row_words(config, 4 * model.head_dim),
            a=addresses["rope"],
            b=addresses["records"],
            c=model.vocab,
        ),
        Instruction(opcode=Opcode.ROUTER, layer=0, address=routers[0], flags=barrier),
        Instruction(opcode=Opcode.EMBED, address=addresses["input"], flags=barrier),
    ]
    for layer in range(model.layers):
        program += _layer(model, layer, matrices, routers, kv_stores[layer])
    program += [
        _linear(
            matrices["head"],
            Epilogue.LOGITS,
            select=Select.OUTPUT,
            flags=barrier | Flag.NORM,
            a=model.vocab,
            b=addresses["logits"],
        ),
        Instruction(opcode=Opcode.NEXT, flags=barrier, a=LOOP_START),
        Instruction(opcode=Opcode.HALT, flags=barrier),
    ]
    assert len(program) == program_length(model.layers)
    return program
