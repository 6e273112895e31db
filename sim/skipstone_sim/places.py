"""What a byte of an image's memory stands for: which matrix element, which key of which token."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skipstone.spec.image import Image
from skipstone.spec.isa import Epilogue, Instruction, Opcode, decode_program
from skipstone.spec.layout import KV_BLOCK_TOKENS, KvLayout, matrix_words
from skipstone.spec.records import INPUT_RECORD, OUTPUT_RECORD, RECORD_BYTES

__all__ = ["Atlas", "Place"]


@dataclass(frozen=True)
class Place:
    """A byte of memory.

    Attributes
    ----------
    section : str
    word, byte : int
        Word within the section, byte within the word.
    instruction : int or None
        The instruction that writes it, or reads it if none writes it.
    fields : dict
        What the byte is part of, by names that depend on the section.
    """

    section: str
    word: int
    byte: int
    instruction: int | None = None
    fields: dict[str, int | str] = field(default_factory=dict)

    def __str__(self) -> str:
        what = ", ".join(f"{name} {value}" for name, value in self.fields.items())
        return f"{self.section} word {self.word}, byte {self.byte}" + (f" ({what})" if what else "")


class Atlas:
    """The meaning of every byte of an image's memory.

    Parameters
    ----------
    image : Image

    Attributes
    ----------
    program : list of Instruction
    kv : KvLayout
    stores : list of int
        First word of each layer's KV store.
    """

    def __init__(self, image: Image):
        self.image = image
        self._word_bytes = image.config.word_bytes
        self.program = decode_program(np.asarray(image.sections["program"].data).tobytes())
        geometry = next(i for i in self.program if i.opcode is Opcode.GEOMETRY)
        kv_heads = geometry.a & 0xFFFF
        self.kv = KvLayout(1 << geometry.exponent, kv_heads, self._word_bytes)
        self.stores = [i.a for i in self.program if i.opcode is Opcode.ROUTE]
        self._writers: dict[tuple[int, Epilogue], int] = {
            (i.layer, i.epilogue): pc
            for pc, i in enumerate(self.program)
            if i.opcode is Opcode.LINEAR and i.epilogue in (Epilogue.KEY, Epilogue.VALUE)
        }

    def route(self, layer: int) -> int | None:
        """Index of the ROUTE of a layer."""
        return self._find(Opcode.ROUTE, layer=layer)

    def _find(self, opcode: Opcode, **fields: int) -> int | None:
        for pc, i in enumerate(self.program):
            if i.opcode is opcode and all(getattr(i, n) == v for n, v in fields.items()):
                return pc
        return None

    def place(self, section: str, offset: int) -> Place:
        """The byte at `offset` of a section."""
        word, byte = divmod(offset, self._word_bytes)
        describe = {
            "program": self._program,
            "weights": self._weights,
            "kv": self._kv,
            "logits": self._logits,
            "records": self._records,
            "input": self._input,
        }.get(section)
        if describe is None:
            return Place(section, word, byte)
        instruction, fields = describe(word, byte)
        return Place(section, word, byte, instruction, fields)

    def first_written(self, section: str, offsets: NDArray[np.int64]) -> Place:
        """Of the bytes at these ascending offsets, the one that the program writes first."""
        if section != "kv":
            return self.place(section, int(offsets[0]))
        # A layer's keys, values and exponents have different writers: look at one byte of each.
        words = offsets // self._word_bytes
        kind = np.minimum(words % self.kv.group_words // KV_BLOCK_TOKENS, 2)
        half = np.where(kind == 2, self._is_value_exponent(offsets % self._word_bytes), kind)
        _, firsts = np.unique(self._layer(words) * 2 + half, return_index=True)
        places = [self.place(section, int(offsets[n])) for n in firsts]
        return min(
            places, key=lambda p: len(self.program) if p.instruction is None else p.instruction
        )

    def _layer(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whose KV store these words of the section are of."""
        starts = np.array(self.stores) - self.image.sections["kv"].address
        return np.searchsorted(starts, words, side="right") - 1

    def _is_value_exponent(self, byte: NDArray[np.int64]) -> NDArray[np.bool_]:
        return byte % (2 * self.kv.heads_per_word) >= self.kv.heads_per_word

    # -- one section each ---------------------------------------------------------------------

    def _program(self, word: int, byte: int) -> tuple[int | None, dict[str, int | str]]:
        return (word * self._word_bytes + byte) // 32, {}

    def _weights(self, word: int, byte: int) -> tuple[int | None, dict[str, int | str]]:
        c = self.image.config
        address = self.image.sections["weights"].address + word
        for pc, i in enumerate(self.program):
            if i.opcode is not Opcode.LINEAR:
                continue
            words = matrix_words(c, i.groups, i.blocks)
            if i.address <= address < i.address + words:
                block, at = divmod(address - i.address, words // i.blocks)
                return pc, {"layer": i.layer} | self._weight(i, block, at, byte)
        return None, {}

    def _weight(self, i: Instruction, block: int, at: int, byte: int) -> dict[str, int | str]:
        """Byte of word `at` of a block: a scale, or the first of two weights."""
        c = self.image.config
        run, step = divmod(at, 1 + c.groups_per_scale_word * c.steps_per_group)
        if step == 0:
            group, column = divmod(byte // 2, c.columns)
            output = block * c.columns + column
            return {"output": output, "scale of group": run * c.groups_per_scale_word + group}
        column, row = divmod(2 * byte, c.rows)
        steps = run * c.groups_per_scale_word * c.steps_per_group + step - 1
        return {"output": block * c.columns + column, "input": steps * c.rows + row}

    def _kv(self, word: int, byte: int) -> tuple[int | None, dict[str, int | str]]:
        kv = self.kv
        layer = int(self._layer(np.array([word]))[0])
        first = self.stores[layer] - self.image.sections["kv"].address
        block, within = divmod(word - first, kv.block_words)
        head_group, at = divmod(within, kv.group_words)
        rank = block * KV_BLOCK_TOKENS
        if at < 2 * KV_BLOCK_TOKENS:
            is_value, slot = divmod(at, KV_BLOCK_TOKENS)
            rank += slot
            head, element = divmod(byte, kv.head_dim)
            what: dict[str, int | str] = {"element": element}
        else:
            tokens, lane = divmod(byte, 2 * kv.heads_per_word)
            rank += (at - 2 * KV_BLOCK_TOKENS) * kv.tokens_per_exponent_word + tokens
            is_value, head = divmod(lane, kv.heads_per_word)
            what = {"element": "exponent"}
        epilogue = Epilogue.VALUE if is_value else Epilogue.KEY
        return self._writers.get((layer, epilogue)), {
            "tensor": epilogue.name.lower(),
            "layer": layer,
            "head group": head_group,
            "rank": rank,
            "head": head_group * kv.heads_per_word + head,
            **what,
        }

    def _logits(self, word: int, byte: int) -> tuple[int | None, dict[str, int | str]]:
        stride = 4 * int(self.image.model["logits_stride"])
        row, column = divmod(word * self._word_bytes + byte, stride)
        pc = self._find(Opcode.LINEAR, epilogue=Epilogue.LOGITS)
        return pc, {"tensor": "logits", "row": row, "element": column // 4}

    def _records(self, word: int, byte: int) -> tuple[int | None, dict[str, int | str]]:
        return self._find(Opcode.NEXT), self._record(OUTPUT_RECORD, "position", word, byte)

    def _input(self, word: int, byte: int) -> tuple[int | None, dict[str, int | str]]:
        return self._find(Opcode.EMBED), self._record(INPUT_RECORD, "token", word, byte)

    def _record(
        self, layout: np.dtype[np.void], index: str, word: int, byte: int
    ) -> dict[str, int | str]:
        number, at = divmod(word * self._word_bytes + byte, RECORD_BYTES)
        starts = {n: f[1] for n, f in (layout.fields or {}).items()}
        name = [n for n in starts if starts[n] <= at][-1]
        return {"tensor": "record", index: number, "field": name}
