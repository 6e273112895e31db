"""The fewest words a sequence can cost: executed weights, and the K and V that attention sees.

The core takes one word per cycle from memory, so this is also the fewest cycles. Counted from the
program and the decision map, not from the core's counters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipstone.runtime import DecisionMap
from skipstone.runtime.kv_space import kv_layout, stored_versions
from skipstone.spec.image import Image
from skipstone.spec.isa import Opcode, Select, decode_program
from skipstone.spec.layout import matrix_words
from skipstone.spec.records import MODULES

__all__ = ["SequenceBound"]

_MODULE_OF = {Select.ATTENTION: MODULES.index("attention"), Select.MLP: MODULES.index("mlp")}


class SequenceBound:
    """Words that the tokens of one sequence cannot do without.

    Parameters
    ----------
    image : Image
    decisions : bool array (tokens, layers, modules)
        What each token of the sequence executed.
    """

    def __init__(self, image: Image, decisions: DecisionMap):
        self._config, self._decisions = image.config, decisions
        program = decode_program(np.asarray(image.sections["program"].data).tobytes())
        self._linear = [i for i in program if i.opcode is Opcode.LINEAR]
        self._stored = stored_versions(decisions, str(image.model["kv_rule"]))
        self._kv = kv_layout(image.model, image.config.word_bytes)

    def _executes(self, select: Select, layer: int) -> NDArray[np.bool_]:
        """(tokens,): for whom an instruction is; the last token of every pass has outputs."""
        if select in _MODULE_OF:
            return self._decisions[:, layer, _MODULE_OF[select]]
        return np.ones(len(self._decisions), np.bool_)

    def weights(self, tokens: range, *, output: bool = True) -> int:
        """Words of the weights and scales that a pass of these tokens needs, each once; of the head
        only with `output`."""
        return sum(
            matrix_words(self._config, i.groups, i.blocks)
            for i in self._linear
            if (output or i.select is not Select.OUTPUT)
            and self._executes(i.select, i.layer)[tokens.start : tokens.stop].any()
        )

    def kv(self, token: int) -> int:
        """Words of K, V and exponents that one token attends to, each layer for itself."""
        return self._kv_words(token, 0)

    def kv_new(self, token: int, positions: int | None = None) -> int:
        """The same, without versions that the token saw in a layer before: fresh and gaps. With
        `positions`, only so many are remembered."""
        return self._kv_words(token, token + 1 if positions is None else positions)

    @property
    def positions(self) -> int:
        """Positions that the core's history buffer remembers."""
        return self._config.history_words >> (self._kv.head_groups - 1).bit_length()

    def _kv_words(self, token: int, held: int) -> int:
        words, before = 0, -1
        for layer in np.flatnonzero(self._decisions[token, :, _MODULE_OF[Select.ATTENTION]]):
            seen = self._stored[: token + 1, : layer + 1]
            version = layer - np.argmax(seen[:, ::-1], axis=1)
            rank: NDArray[np.int64] = (np.cumsum(seen, axis=0) - seen)[
                np.arange(token + 1), version
            ]
            wanted = (version > before) | (np.arange(token + 1) >= held)
            places = np.stack([version, rank // self._kv.tokens_per_exponent_word])[:, wanted]
            words += 2 * int(wanted.sum()) + np.unique(places, axis=1).shape[1]
            before = int(layer)
        return self._kv.head_groups * words
