"""The fewest words a decoded token can cost: executed weights and the K and V that its attention
sees.

The core takes one word per cycle from memory, so this is also the fewest cycles. Counted from the
program and the output records, not from the core's counters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.spec.image import Image
from skipstone.spec.isa import Epilogue, Instruction, Opcode, Select, decode_program
from skipstone.spec.layout import KvLayout, matrix_words

__all__ = ["Bound", "DecodeBound"]


@dataclass(frozen=True)
class Bound:
    """Words of one token: weights with their scales; K, V and their exponents."""

    weights: int
    kv: int

    @property
    def words(self) -> int:
        """Both."""
        return self.weights + self.kv


def _executes(select: Select, layer: int, record: NDArray[np.void]) -> bool:
    """Whether an instruction is for the token of an output record."""
    if select in (Select.ATTENTION, Select.MLP):
        decisions = record["attention" if select is Select.ATTENTION else "mlp"]
        return bool(int(decisions) >> layer & 1)
    return True


class DecodeBound:
    """The bound of each token of a sequence.

    Parameters
    ----------
    image : Image
    """

    def __init__(self, image: Image):
        self._config = image.config
        program = decode_program(np.asarray(image.sections["program"].data).tobytes())
        self._linear = [i for i in program if i.opcode is Opcode.LINEAR]
        self._attend = [i for i in program if i.opcode is Opcode.ATTEND]
        self._stores = {i.layer: i for i in self._linear if i.epilogue is Epilogue.KEY}
        m = image.model
        self._kv = KvLayout(
            0,
            int(m["kv_capacity"]),
            int(m["head_dim"]),
            int(m["kv_heads"]),
            image.config.word_bytes,
        )

    def token(self, records: NDArray[np.void]) -> Bound:
        """Of the last of `records`, which are those of the whole sequence so far."""
        weights = sum(
            matrix_words(self._config, i.groups, i.blocks)
            for i in self._linear
            if _executes(i.select, i.layer, records[-1])
        )
        stored = self._stored(records)
        kv = sum(
            self._words(stored, i)
            for i in self._attend
            if _executes(i.select, i.layer, records[-1])
        )
        return Bound(weights, kv)

    def _stored(self, records: NDArray[np.void]) -> NDArray[np.bool_]:
        """(tokens, layers): which layers stored K and V of a token."""
        maps = [
            [_executes(self._stores[layer].select, layer, r) for layer in sorted(self._stores)]
            for r in records
        ]
        return np.array(maps)

    def _words(self, stored: NDArray[np.bool_], attend: Instruction) -> int:
        """Words of K, V and exponents of every token's version in a layer, each word once."""
        seen = stored[:, : attend.layer + 1]
        version = attend.layer - np.argmax(seen[:, ::-1], axis=1)
        rank: NDArray[np.int64] = (np.cumsum(seen, axis=0) - seen)[np.arange(len(seen)), version]
        exponent_word = rank // self._kv.tokens_per_exponent_word
        exponents = len(np.unique(np.stack([version, exponent_word]), axis=1).T)
        return self._kv.head_groups * (2 * len(seen) + exponents)
