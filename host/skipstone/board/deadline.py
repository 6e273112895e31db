"""How long a run may take: a generous bound, computed from its program.

Every instruction is counted as if nothing were skipped and nothing overlapped, then given
`MARGIN` times that for slow memory. A core that needs longer has stopped working.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..devices import Run
from ..spec.config import CoreConfig
from ..spec.errors import ImageError
from ..spec.isa import INSTRUCTION_BYTES, Instruction, Opcode, decode_program
from ..spec.layout import matrix_words

__all__ = ["MARGIN", "Programs", "most_cycles"]

MARGIN = 8
_INSTRUCTION_CYCLES = 2_000
"""Fixed phases of an instruction: latency of memory and pipelines, draining."""
_TOKEN_CYCLES = 64
"""Per token, of what an instruction does besides streaming words."""


def _kv_words(program: Sequence[Instruction], config: CoreConfig, tokens: int) -> int:
    """Words of all keys, values and exponents that one token of a layer can attend to."""
    geometry = next((i for i in program if i.opcode is Opcode.GEOMETRY), None)
    if geometry is None:
        return 0
    heads_per_word = max(1, config.word_bytes >> geometry.exponent)
    head_groups = -(-(geometry.a & 0xFFFF) // heads_per_word)
    return 3 * head_groups * tokens


def _pass_cycles(
    program: Sequence[Instruction], config: CoreConfig, tokens: int, position: int
) -> int:
    """One pass of `tokens` tokens, the last of them at `position`."""
    total = 0
    passes = -(-tokens // config.lanes)
    for i in program:
        total += _INSTRUCTION_CYCLES + _TOKEN_CYCLES * tokens
        if i.opcode is Opcode.LINEAR:
            total += passes * matrix_words(config, i.groups, i.blocks)
        elif i.opcode is Opcode.ATTEND:
            total += 2 * tokens * _kv_words(program, config, position + 1)
        elif i.opcode is Opcode.EMBED:
            total += tokens * config.max_hidden
    return total


def most_cycles(program: Sequence[Instruction], config: CoreConfig, run: Run) -> int:
    """Cycles of a run of this program that no working core exceeds."""
    chunk, steps = max(1, run.chunk_tokens), run.steps
    end = run.position + chunk
    cycles = _pass_cycles(program, config, chunk, end)
    if steps:
        cycles += steps * _pass_cycles(program, config, 1, end + steps)
    return MARGIN * cycles


class Programs:
    """The programs in a device's memory, decoded once and for as long as nobody overwrites them.

    Parameters
    ----------
    config
    read
        Bytes of memory: word address and count.
    """

    def __init__(self, config: CoreConfig, read: Callable[[int, int], NDArray[np.uint8]]):
        self._config, self._read = config, read
        self._known: dict[tuple[int, int], list[Instruction] | None] = {}

    def get(self, run: Run) -> list[Instruction] | None:
        """The program of a run; None if it cannot be decoded: the core will say why."""
        key = run.program_address, run.program_length
        if key not in self._known:
            try:
                raw = self._read(key[0], key[1] * INSTRUCTION_BYTES)
                self._known[key] = decode_program(raw.tobytes())
            except (ImageError, ValueError):
                self._known[key] = None
        return self._known[key]

    def written(self, address: int, count: int) -> None:
        """`count` bytes from word `address` on were overwritten."""
        width = self._config.word_bytes
        end = address + -(-count // width)
        self._known = {
            (first, length): program
            for (first, length), program in self._known.items()
            if end <= first or first + -(-length * INSTRUCTION_BYTES // width) <= address
        }
