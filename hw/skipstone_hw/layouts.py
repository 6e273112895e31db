"""What flows between the units: one layout per stream, each field declared once.

Streams follow amaranth's transfer rules: a valid payload waits for ready, and valid never depends
on ready.
"""

from amaranth.hdl import Shape, signed, unsigned
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import Out
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import HEAD_DIM_LOG2, CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS

__all__ = [
    "ACCUMULATOR_BITS",
    "ADDRESS_BITS",
    "ERROR_CODE_BITS",
    "INDEX_BITS",
    "ErrorLayout",
    "FloatPairLayout",
    "MantissaPairLayout",
    "PairKind",
    "PairLayout",
    "ProbeSignature",
    "ReadCommandLayout",
    "ReadKind",
    "WordLayout",
    "WriteLayout",
    "piece_bytes",
    "token_shape",
]

ACCUMULATOR_BITS = 48
ADDRESS_BITS = 32
"""Bits of a memory word address."""
ERROR_CODE_BITS = 4
"""Bits of a `CoreErrorCode`."""
INDEX_BITS = 20
"""Bits of a pair's index in its output vector."""


def token_shape(config: CoreConfig) -> Shape:
    """Index of a token in its chunk."""
    return unsigned(max(1, bits_for(config.max_chunk - 1)))


class ReadKind(enum.Enum, shape=unsigned(2)):  # type: ignore[call-arg]
    """What a word was read for; also the counter it is charged to."""

    WEIGHTS = 0
    KV = 1
    OTHER = 2


class ReadCommandLayout(data.StructLayout):
    """Read `words` consecutive memory words (at least 1)."""

    def __init__(self):
        super().__init__({"address": ADDRESS_BITS, "words": 24, "kind": ReadKind})


class WordLayout(data.StructLayout):
    """A memory word, in the order of the read commands; `last` ends its command."""

    def __init__(self, config: CoreConfig):
        super().__init__({"data": config.word_bits, "kind": ReadKind, "last": 1})


def piece_bytes(config: CoreConfig) -> int:
    """Bytes that are written at a time: a word, or the largest head, and at least a port's beat."""
    return min(config.word_bytes, 1 << HEAD_DIM_LOG2[-1])


class WriteLayout(data.StructLayout):
    """Write the bytes that `strobe` selects of a piece of the memory word at `address`."""

    def __init__(self, config: CoreConfig):
        size = piece_bytes(config)
        super().__init__(
            {
                "address": ADDRESS_BITS,
                "piece": unsigned(exact_log2(config.word_bytes // size)),
                "data": 8 * size,
                "strobe": size,
            }
        )


class ErrorLayout(data.StructLayout):
    """An error report, `valid` for one cycle; `code` is a `CoreErrorCode`."""

    def __init__(self):
        super().__init__({"valid": 1, "code": ERROR_CODE_BITS})


class PairKind(enum.Enum, shape=unsigned(3)):  # type: ignore[call-arg]
    """What becomes of a pair of neighbouring outputs; the first six are `isa.Epilogue`."""

    RESIDUAL = 0
    QUERY = 1
    KEY = 2
    VALUE = 3
    SWIGLU = 4
    LOGITS = 5
    EMBED = 6  # x ← y
    ATTENTION = 7  # y → second activation buffer


class PairLayout(data.StructLayout):
    """Two neighbouring integer outputs of one token: value = scale · accumulator · 2^exponent.

    `index` counts pairs from the start of the output vector.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "accumulator": data.ArrayLayout(signed(ACCUMULATOR_BITS), 2),
                "exponent": signed(12),
                "scale": 32,  # binary32
                "kind": PairKind,
                "token": token_shape(config),
                "index": INDEX_BITS,
            }
        )


class FloatPairLayout(data.StructLayout):
    """Two neighbouring binary32 elements of one token's vector.

    `index` counts pairs from the start of the vector that is written: for SWIGLU, whose input pairs
    each give one element, it is half of the input's.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "value": data.ArrayLayout(unsigned(32), 2),
                "kind": PairKind,
                "token": token_shape(config),
                "index": INDEX_BITS,
            }
        )


class ProbeSignature(wiring.Signature):
    """A view of the pairs that leave the epilogue: in program order, each `valid` for the one cycle
    in which it moves on. The other members are those of `FloatPairLayout`.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "valid": Out(1),
                "value": Out(data.ArrayLayout(unsigned(32), 2)),
                "kind": Out(PairKind),
                "token": Out(token_shape(config)),
                "index": Out(INDEX_BITS),
            }
        )


class MantissaPairLayout(data.StructLayout):
    """Two neighbouring mantissas of a block floating point group.

    A group's pairs follow each other without other groups' between them; `last` marks its last
    pair.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "mantissa": data.ArrayLayout(signed(ACTIVATION_BITS), 2),
                "exponent": signed(8),
                "kind": PairKind,
                "token": token_shape(config),
                "index": INDEX_BITS,
                "last": 1,
            }
        )
