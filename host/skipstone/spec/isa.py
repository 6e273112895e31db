"""The instruction set: ten coarse instructions of 256 bits.

An instruction is eight little-endian 32-bit words. Word 0 names the operation, the tokens it is
for and how it is ordered; words 1-6 are its operands; word 7 is a CRC-32 of words 0-6. Lengths and
positions never appear: they come from registers, so one program serves every prompt and every
position.

======= ============================================================================
word 0  opcode 7:0 · epilogue 11:8 · select 15:12 · flags 23:16 · layer 31:24
word 1  address (memory word)
word 2  groups 15:0 (reduction length / group) · blocks 31:16 (column blocks)
word 3  exponent 7:0 (signed) · source 11:8
word 4  operand a
word 5  operand b
word 6  operand c
word 7  CRC-32 of words 0-6
======= ============================================================================

The meaning of each instruction stands beside its opcode. Executing them is the golden device's
business (`skipstone_sim.golden`) and the gateware's.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag, unique

from .errors import ImageError

__all__ = [
    "INSTRUCTION_BYTES",
    "Epilogue",
    "Flag",
    "Instruction",
    "Opcode",
    "Select",
    "Source",
    "decode_program",
    "disassemble",
    "encode_program",
]

INSTRUCTION_BYTES = 32


@unique
class Opcode(IntEnum):
    """Operations."""

    HALT = 0
    """End of the run: everything written is acknowledged, then ap_done."""
    GEOMETRY = 1
    """Model shape. groups: hidden / group · blocks: layers · exponent: log2 head_dim ·
    source: query heads per KV head · a: KV heads 15:0, longest sequence in tokens 31:16 ·
    b: 1 / hidden (binary32) · c: RMSNorm epsilon (binary32)."""
    TABLES = 2
    """Memory map. address: embedding table · a: RoPE table · b: output records ·
    c: vocabulary size. groups: embedding words per row · blocks: RoPE words per row."""
    ROUTER = 3
    """Load the two router vectors of `layer` from `address` into the router buffer."""
    EMBED = 4
    """For each token of the chunk: token record (from the input region at `address`) → embedding
    row → residual stream, and the RoPE row of its position → RoPE buffer."""
    ROUTE = 5
    """Fix both decisions of `layer` for each token of the chunk. A token whose residual was not
    written since the router buffer was loaded is passed over the router vectors first. `groups` ×
    `blocks` tiles at `address`: the matrix that follows if a token executes attention, which a core
    may begin to read before it knows; no blocks, nothing to read. a: first word of the layer's KV
    store, for this and all later layers of the run."""
    LINEAR = 6
    """y = W·v for the selected tokens, `groups` × `blocks` tiles at `address`, `exponent` the
    largest scale exponent of the matrix, then the epilogue."""
    ATTEND = 7
    """Attention of the selected tokens in `layer`: queries → second activation buffer."""
    NEXT = 8
    """Write the output record of each token of the chunk; the next token is 0 where no LOGITS was
    executed for it. If steps remain and the last token's
    argmax is not EOS: the argmax becomes the chunk, the position advances, and execution continues
    at instruction a."""


@unique
class Epilogue(IntEnum):
    """What LINEAR does with its outputs."""

    RESIDUAL = 0
    """x ← x + y; BFP of x, sum of squares and router products follow."""
    QUERY = 1
    """RoPE, then BFP(12, head_dim) into the query buffer."""
    KEY = 2
    """RoPE, then BFP(8, head_dim) into the K store of `layer`, which has room for a tokens: with
    more, the run ends in KV_OVERFLOW before anything is stored."""
    VALUE = 3
    """BFP(8, head_dim) into the V store of `layer`; ends the storing of these tokens."""
    SWIGLU = 4
    """Pairs (gate, up) → gate · sigmoid2(gate) · up → BFP(12, group) into the second buffer."""
    LOGITS = 5
    """Argmax over the first a (= vocabulary) outputs; written to b if the LOGITS mode bit asks."""


@unique
class Select(IntEnum):
    """The tokens of the chunk that an instruction is for."""

    ALL = 0
    ATTENTION = 1
    """Tokens that execute attention in the current layer."""
    MLP = 2
    """Tokens that execute the MLP in the current layer."""
    OUTPUT = 3
    """The last token; all tokens if the ALL_LOGITS mode bit is set, none if NO_OUTPUT is."""


class Flag(IntFlag):
    """Ordering and scaling."""

    NONE = 0
    BARRIER = 1
    """Start only when everything before has completed."""
    NORM = 2
    """Multiply outputs by the token's 1 / rms."""


@unique
class Source(IntEnum):
    """Input vector of LINEAR."""

    RESIDUAL = 0
    ACTIVATION = 1


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction; fields as in the module's table."""

    opcode: Opcode
    epilogue: Epilogue = Epilogue.RESIDUAL
    select: Select = Select.ALL
    flags: Flag = Flag.NONE
    layer: int = 0
    address: int = 0
    groups: int = 0
    blocks: int = 0
    exponent: int = 0
    source: int = 0
    a: int = 0
    b: int = 0
    c: int = 0

    def encode(self) -> bytes:
        """The 32 bytes. Raises struct.error if a field does not fit."""
        head = struct.pack(
            "<BBBBIHHbBHIII",
            self.opcode,
            self.epilogue | self.select << 4,
            self.flags,
            self.layer,
            self.address,
            self.groups,
            self.blocks,
            self.exponent,
            self.source,
            0,
            self.a,
            self.b,
            self.c,
        )
        return head + struct.pack("<I", zlib.crc32(head))

    @classmethod
    def decode(cls, data: bytes) -> Instruction:
        """The instruction in 32 bytes. Raises ImageError on a bad CRC, opcode or field."""
        head, (crc,) = data[:28], struct.unpack("<I", data[28:32])
        if zlib.crc32(head) != crc:
            raise ImageError(
                f"instruction CRC is 0x{crc:08x}, but its words give 0x{zlib.crc32(head):08x}"
            )
        (opcode, modes, flags, layer, address, groups, blocks, exponent, source, _, a, b, c) = (
            struct.unpack("<BBBBIHHbBHIII", head)
        )
        try:
            return cls(
                opcode=Opcode(opcode),
                epilogue=Epilogue(modes & 0xF),
                select=Select(modes >> 4),
                flags=Flag(flags),
                layer=layer,
                address=address,
                groups=groups,
                blocks=blocks,
                exponent=exponent,
                source=source,
                a=a,
                b=b,
                c=c,
            )
        except ValueError as error:
            raise ImageError(f"malformed instruction: {error}") from None


def encode_program(program: Iterable[Instruction]) -> bytes:
    """Instructions back to back."""
    return b"".join(i.encode() for i in program)


def decode_program(data: bytes) -> list[Instruction]:
    """Every instruction of `data`. ImageError names the index of the first bad one."""
    if len(data) % INSTRUCTION_BYTES:
        raise ImageError(f"program length must be a multiple of 32 bytes, not {len(data)}")
    program = []
    for index in range(len(data) // INSTRUCTION_BYTES):
        chunk = data[index * INSTRUCTION_BYTES : (index + 1) * INSTRUCTION_BYTES]
        try:
            program.append(Instruction.decode(chunk))
        except ImageError as error:
            raise ImageError(f"instruction {index}: {error}") from None
    return program


def _as_float(bits: int) -> str:
    return f"{struct.unpack('<f', struct.pack('<I', bits))[0]:.8g}"


def _operands(i: Instruction) -> str:
    at = f"@{i.address:#x}"
    match i.opcode:
        case Opcode.GEOMETRY:
            return (
                f"hidden_groups={i.groups} layers={i.blocks} head_dim={1 << i.exponent} "
                f"kv_heads={i.a & 0xFFFF} gqa={i.source} kv_capacity={i.a >> 16} "
                f"1/hidden={_as_float(i.b)} eps={_as_float(i.c)}"
            )
        case Opcode.TABLES:
            return (
                f"embedding={at} row_words={i.groups} rope=@{i.a:#x} row_words={i.blocks} "
                f"records=@{i.b:#x} vocabulary={i.c}"
            )
        case Opcode.ROUTER:
            return f"{at} layer={i.layer}"
        case Opcode.EMBED:
            return f"input={at}"
        case Opcode.ROUTE:
            ahead = f" ahead={at} groups={i.groups} blocks={i.blocks}" if i.blocks else ""
            return f"layer={i.layer} store=@{i.a:#x}{ahead}"
        case Opcode.LINEAR:
            text = (
                f"{i.epilogue.name.lower()} {at} groups={i.groups} blocks={i.blocks} "
                f"exponent={i.exponent} from={Source(i.source).name.lower()} layer={i.layer}"
            )
            if i.epilogue is Epilogue.KEY:
                text += f" room={i.a}"
            if i.epilogue is Epilogue.LOGITS:
                text += f" vocabulary={i.a} to=@{i.b:#x}"
            return text
        case Opcode.ATTEND:
            return f"layer={i.layer}"
        case Opcode.NEXT:
            return f"goto={i.a}"
    return ""


def disassemble(program: Iterable[Instruction]) -> str:
    """One line an instruction: index, operation, operands, selection, flags."""
    lines = []
    for index, i in enumerate(program):
        flags = " ".join(f.name.lower() for f in Flag if f and f in i.flags and f.name)
        select = "" if i.select is Select.ALL else f"for {i.select.name.lower()}"
        line = f"{index:4d}  {i.opcode.name.lower():9s}{_operands(i)} {select} {flags}"
        lines.append(line.rstrip())
    return "\n".join(lines)
