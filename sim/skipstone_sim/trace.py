"""What every instruction sends through the epilogue, and where a device first sends something else.

Each vector that the core computes passes the epilogue's output as pairs of binary32, in program
order. A probe there sees them all; the golden device reports the same vectors instruction by
instruction. Pairs carry no instruction, but golden's report says which come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from skipstone.spec import fp32
from skipstone.spec.isa import Epilogue, Instruction, Opcode, Select

__all__ = ["TRANSFER", "Departure", "Kind", "Recorder", "Tensor", "first_departure", "transfers"]

TRANSFER = np.dtype([(name, "<u4") for name in ("kind", "token", "index", "value0", "value1")])
"""A pair that left the epilogue: `skipstone_hw.layouts.FloatPairLayout`."""


class Kind(IntEnum):
    """Values of a pair's kind: `skipstone_hw.layouts.PairKind`, which needs Amaranth to import."""

    RESIDUAL = 0
    QUERY = 1
    KEY = 2
    VALUE = 3
    SWIGLU = 4
    LOGITS = 5
    EMBED = 6
    ATTENTION = 7


@dataclass(frozen=True)
class Tensor:
    """The vectors of an instruction.

    Attributes
    ----------
    pc : int
    instruction : Instruction
    kind : Kind
    tokens : int array (n,)
        Indices in the chunk.
    values : float32 array (n, length)
    """

    pc: int
    instruction: Instruction
    kind: Kind
    tokens: NDArray[np.int64]
    values: NDArray[np.float32]

    @property
    def bits(self) -> NDArray[np.uint32]:
        """The values' bit patterns."""
        return np.ascontiguousarray(self.values, np.float32).view(np.uint32)


@dataclass(frozen=True)
class Departure:
    """Where a stream of pairs leaves the expected one.

    Attributes
    ----------
    tensor : Tensor or None
        Due at that point; None if nothing was.
    token, element : int or None
        The first element that differs; None if another pair came, or none.
    expected, actual : int or None
        Its bit patterns.
    found : str
        What came, in words; empty if an element differs.
    """

    tensor: Tensor | None
    token: int | None = None
    element: int | None = None
    expected: int | None = None
    actual: int | None = None
    found: str = ""


@dataclass
class Recorder:
    """An observer for `GoldenDevice` that turns a run of one chunk into tensors.

    Parameters
    ----------
    program
    count
        Tokens of the chunk.
    """

    program: Sequence[Instruction]
    count: int
    tensors: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seen = 0  # instructions before this one have been looked at
        everyone = np.ones(self.count, np.bool_)
        self._routed = {"attention": everyone, "mlp": everyone}
        self._written = everyone.copy()  # since the router buffer was loaded
        self._residual = np.zeros((self.count, 0), np.float32)

    def __call__(
        self, pc: int, instruction: Instruction, wrote: dict[str, NDArray[np.generic]]
    ) -> None:
        """Take note of an executed instruction."""
        if any(i.opcode is Opcode.ROUTER for i in self.program[self._seen : pc]):
            self._written[:] = False
        self._seen = pc
        match instruction.opcode:
            case Opcode.EMBED:
                self._residual = np.array(wrote["residual"], np.float32)
                self._written[:] = True
                self._add(pc, instruction, Kind.EMBED, np.arange(self.count), self._residual)
            case Opcode.ROUTE:
                self._repass(pc, instruction)
                self._routed = {name: np.array(mask, np.bool_) for name, mask in wrote.items()}
            case Opcode.ATTEND:
                tokens = np.flatnonzero(self._routed["attention"])
                self._add(pc, instruction, Kind.ATTENTION, tokens, wrote["attention"])
            case Opcode.LINEAR:
                (values,) = wrote.values()
                tokens = self._selected(instruction.select, len(values))
                if instruction.epilogue is Epilogue.RESIDUAL:
                    self._residual[tokens] = values
                    self._written[tokens] = True
                self._add(pc, instruction, Kind(int(instruction.epilogue)), tokens, values)

    def _repass(self, pc: int, instruction: Instruction) -> None:
        """Tokens that wrote nothing since the router was loaded pass it with x + 0."""
        tokens = np.flatnonzero(~self._written)
        if tokens.size:
            x = self._residual[tokens]
            self._residual[tokens] = fp32.add(x, np.zeros_like(x))
            self._add(pc, instruction, Kind.RESIDUAL, tokens, self._residual[tokens])
        self._written[:] = True

    def _selected(self, select: Select, rows: int) -> NDArray[np.int64]:
        match select:
            case Select.ATTENTION:
                return np.flatnonzero(self._routed["attention"])
            case Select.MLP:
                return np.flatnonzero(self._routed["mlp"])
            case _:  # all, or the last
                return np.arange(self.count)[-rows:]

    def _add(
        self,
        pc: int,
        instruction: Instruction,
        kind: Kind,
        tokens: NDArray[np.int64],
        values: NDArray[np.generic],
    ) -> None:
        self.tensors.append(
            Tensor(pc, instruction, kind, tokens, np.array(values, np.float32, copy=True))
        )


def transfers(tensors: Sequence[Tensor]) -> NDArray[np.void]:
    """The pairs of these tensors, token by token."""
    parts = [np.zeros(0, TRANSFER)]
    for t in tensors:
        half = t.values.shape[1] // 2
        part = np.zeros((len(t.tokens), half), TRANSFER)
        part["kind"], part["token"], part["index"] = t.kind, t.tokens[:, None], np.arange(half)
        part["value0"], part["value1"] = t.bits[:, 0::2], t.bits[:, 1::2]
        parts.append(part.reshape(-1))
    return np.concatenate(parts)


def _describe(transfer: np.void) -> str:
    kind = int(transfer["kind"])
    name = Kind(kind).name.lower() if kind in list(Kind) else f"kind {kind}"
    return f"pair {transfer['index']} of {name}, token {transfer['token']}"


def _compare(t: Tensor, part: NDArray[np.void]) -> Departure | None:
    """Hold the pairs that came against those of a tensor, whatever their order."""
    half = t.values.shape[1] // 2
    rows = np.full(int(max(t.tokens.max(), part["token"].max(initial=0))) + 1, -1)
    rows[t.tokens] = np.arange(len(t.tokens))
    row, index = rows[part["token"]], part["index"].astype(np.int64)
    due = (part["kind"] == t.kind) & (row >= 0) & (index < half)
    once = np.zeros(len(part), np.bool_)
    once[np.unique(row * half + index, return_index=True)[1]] = True
    due &= once
    at = np.where(due, row, 0), 2 * np.where(due, index, 0)
    wrong = np.stack([t.bits[at] != part["value0"], t.bits[at[0], at[1] + 1] != part["value1"]])
    bad = np.flatnonzero(~due | wrong.any(axis=0))
    if not bad.size:
        return None
    first = bad[0]
    if not due[first]:
        return Departure(t, found=_describe(part[first]))
    which = int(not wrong[0, first])
    return Departure(
        t,
        token=int(part["token"][first]),
        element=2 * int(index[first]) + which,
        expected=int(t.bits[row[first], 2 * index[first] + which]),
        actual=int(part[f"value{which}"][first]),
    )


def first_departure(expected: Sequence[Tensor], actual: NDArray[np.void]) -> Departure | None:
    """The first pair of `actual` that is not one of those due, None if all came and no more.

    A tensor's pairs may come in any order, tensors only in theirs.
    """
    at = 0
    for t in expected:
        count = t.values.size // 2
        part = actual[at : at + count]
        if (departure := _compare(t, part)) is not None:
            return departure
        if len(part) < count:
            return Departure(t, found=f"only {len(part)} of {count} pairs")
        at += count
    return None if at == len(actual) else Departure(None, found=_describe(actual[at]))
