"""The array of multipliers, and its three uses.

Every cycle the array takes one memory word, 4·R·C bits, and multiplies each nibble of it with a
12-bit operand in each of T lanes; the upper half of the lanes may be given a word of its own. What
differs between the uses is only where the operands come from and where the sum is tapped:

* ``LINEAR``: the word holds int4 weights; operand r meets row r of each column; columns are summed.
* ``SCORE``: the word holds int8 keys; each byte has an operand of its own; columns are summed.
* ``MIX``: the word holds int8 values; the bytes of a head share an operand; nothing is summed
  beyond the two halves of a byte.

An int8 is a low, unsigned nibble on an even row and a high, signed one on the odd row above it.
The multipliers, which several products share, are `packing.ColumnGroup`.
"""

from functools import partial
from typing import Any

from amaranth.hdl import Cat, Module, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS

from .leaf import Leaf
from .packing import PRODUCT_BITS, ArrayMode, ColumnGroup, ColumnGroupSignature

__all__ = [
    "PRODUCT_BITS",
    "Array",
    "ArrayMode",
    "column_sum_shape",
    "upper_lane",
]


def column_sum_shape(config: CoreConfig) -> Shape:
    """The sum of a column: R/2 products with an int8."""
    return signed(PRODUCT_BITS + exact_log2(config.rows // 2))


def upper_lane(config: CoreConfig) -> int:
    """First of the upper half of the lanes; a lane in the middle belongs to the lower half."""
    return config.lanes - config.lanes // 2


class Array(wiring.Component):
    """R × C × T multipliers with their column adders.

    A free-running pipeline: one word per cycle, no handshake. `products` belong to the inputs of
    `PRODUCT_CYCLES` ago, `sums` to those of `PIPELINE_CYCLES` ago. Outputs of a lane that was not
    enabled, or of a cycle that was not `valid`, keep their last values, as do all registers on
    their way: an idle lane costs neither power nor simulation time. `sums` are not updated in
    MIX.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    valid : In(1)
        The other inputs are meant.
    lane_enable : In(T)
    mode : In(ArrayMode)
    head_dim_log2 : In(3)
        For MIX, one of `config.head_dim_log2`.
    word : In(4·R·C)
        Nibble c·R + r meets row r of column c; byte j is nibbles 2j (low) and 2j + 1 (high).
    upper_word : In(4·R·C)
        The word of the lanes from `upper_lane` on. Without a history buffer, which is what gives
        ATTEND a second word, all lanes meet `word`.
    rows : In(ArrayLayout(ArrayLayout(signed(12), R), T))
        LINEAR operand of each row.
    bytes : In(ArrayLayout(ArrayLayout(signed(12), R·C/2), T))
        SCORE operand of each byte, in the cycle after its word.
    heads : In(ArrayLayout(ArrayLayout(signed(12), heads_per_word), T))
        MIX operand of each head in the word: byte j meets ``heads[j >> head_dim_log2]``.
    products : Out(ArrayLayout(signed(20), R·C/2)).array(T)
        SCORE and MIX: operand · byte.
    sums : Out(ArrayLayout(ArrayLayout(signed(20 + log2(R/2)), C), T))
        LINEAR and SCORE: sum of each column.
    """

    PRODUCT_CYCLES = ColumnGroup.PRODUCT_CYCLES
    PIPELINE_CYCLES = ColumnGroup.PIPELINE_CYCLES

    valid: Signal
    lane_enable: Signal
    mode: Signal
    head_dim_log2: Signal
    word: Signal
    upper_word: Signal
    rows: data.View
    bytes: data.View
    heads: data.View
    products: list[data.View]
    sums: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = config
        operand = signed(ACTIVATION_BITS)
        heads = config.heads_per_word

        def lanes(shape, count: int) -> data.ArrayLayout:
            return data.ArrayLayout(data.ArrayLayout(shape, count), config.lanes)

        super().__init__(
            {
                "valid": In(1),
                "lane_enable": In(config.lanes),
                "mode": In(ArrayMode),
                "head_dim_log2": In(3),
                "word": In(config.word_bits),
                "upper_word": In(config.word_bits),
                "rows": In(lanes(operand, config.rows)),
                "bytes": In(lanes(operand, config.word_bytes)),
                "heads": In(lanes(operand, heads)),
                "products": Out(data.ArrayLayout(signed(PRODUCT_BITS), config.word_bytes)).array(
                    config.lanes
                ),
                "sums": Out(lanes(column_sum_shape(config), config.columns)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        enable = Signal(c.lanes)
        m.d.comb += enable.eq(self.lane_enable & self.valid.replicate(c.lanes))
        rows, heads = [], []
        for lane in range(c.lanes):
            rows.append(self.build_rows(m, lane, enable[lane]))
            heads.append(self.build_heads(m, lane, enable[lane]))
        upper = upper_lane(c) if c.history_words else c.lanes
        groups = [
            [
                self.build_columns(m, first, served, word, enable, rows, heads)
                for first in range(0, c.columns, c.products_per_dsp)
            ]
            for served, word in (
                (range(upper), self.word),
                (range(upper, c.lanes), self.upper_word),
            )
            if served
        ]

        # Whole ports in one statement each: a statement for every element takes Amaranth seconds.
        for half, first in zip(groups, (0, upper), strict=False):
            for n in range(len(half[0].rows)):
                lane = first + n
                m.d.comb += [
                    self.products[lane].as_value().eq(Cat(group.products[n] for group in half)),
                    self.sums[lane].as_value().eq(Cat(group.sums[n] for group in half)),
                ]
        return m

    def build_rows(self, m: Module, lane: int, enable: Value) -> list[Signal]:
        """The operands of LINEAR, which meet their weights a cycle after these came."""
        rows = [
            Signal(signed(ACTIVATION_BITS), reset_less=True, name=f"row_{lane}_{r}")
            for r in range(self._config.rows)
        ]
        with m.If(enable & (self.mode == ArrayMode.LINEAR)):
            m.d.sync += [row.eq(self.rows[lane][r]) for r, row in enumerate(rows)]
        return rows

    def build_heads(self, m: Module, lane: int, enable: Value) -> list[Signal]:
        """The operands of MIX, for the bytes of every `min_head_dim`, a cycle after they came."""
        first = self._config.head_dim_log2.start
        heads = [
            Signal(signed(ACTIVATION_BITS), reset_less=True, name=f"head_{lane}_{n}")
            for n in range(len(self.heads[lane]))
        ]
        with m.If(enable & (self.mode == ArrayMode.MIX)), m.Switch(self.head_dim_log2):
            for log2 in self._config.head_dim_log2:
                with m.Case(log2):
                    m.d.sync += [
                        head.eq(self.heads[lane][n >> (log2 - first)])
                        for n, head in enumerate(heads)
                    ]
        return heads

    def build_columns(
        self,
        m: Module,
        first: int,
        served: range,
        word: Signal,
        enable: Value,
        rows: list[list[Signal]],
        heads: list[list[Signal]],
    ) -> Any:
        """The columns from `first` on that share multipliers, for the lanes that share `word`."""
        c = self._config
        count = min(c.products_per_dsp, c.columns - first)
        size = {"columns": count, "rows": c.rows, "lanes": len(served)}
        m.submodules[f"columns_{first}_from_lane_{served.start}"] = leaf = Leaf(
            partial(ColumnGroup, packing=c.packing, **size),
            signature=ColumnGroupSignature(**size),
            name=f"skipstone_columns_{count}_by_{len(served)}",
        )
        group = leaf.pins
        column = c.rows // 2
        start, stop = first * column, (first + count) * column
        head_columns = c.min_head_dim // column
        m.d.comb += [
            group.mode.eq(self.mode),
            group.enable.eq(enable[served.start : served.stop]),
            group.nibbles.eq(word[8 * start : 8 * stop]),
        ]
        for n, lane in enumerate(served):
            m.d.comb += [port.eq(row) for port, row in zip(group.rows[n], rows[lane], strict=True)]
            m.d.comb += [
                group.bytes[n]
                .as_value()
                .eq(self.bytes[lane].as_value()[ACTIVATION_BITS * start : ACTIVATION_BITS * stop]),
                group.heads[n]
                .as_value()
                .eq(Cat(heads[lane][i // head_columns] for i in range(first, first + count))),
            ]
        return group
