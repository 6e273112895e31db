"""The array of multipliers, and its three uses.

Every cycle the array takes one memory word, 4·R·C bits, and multiplies each nibble of it with a
12-bit operand in each of T lanes; the upper half of the lanes may be given a word of its own. What
differs between the uses is only where the operands come from and where the sum is tapped:

* ``LINEAR``: the word holds int4 weights; operand r meets row r of each column; columns are summed.
* ``SCORE``: the word holds int8 keys; each byte has an operand of its own; columns are summed.
* ``MIX``: the word holds int8 values; the bytes of a head share an operand; nothing is summed
  beyond the two halves of a byte.

An int8 is a low, unsigned nibble on an even row and a high, signed one on the odd row above it:
even rows multiply by 5 signed bits, odd rows by 4.
"""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS

__all__ = [
    "HEAD_DIM_LOG2_MAX",
    "HEAD_DIM_LOG2_MIN",
    "PRODUCT_BITS",
    "Array",
    "ArrayMode",
    "column_sum_shape",
    "upper_lane",
]

HEAD_DIM_LOG2_MIN, HEAD_DIM_LOG2_MAX = 5, 7
"""Head dimensions of 32, 64 and 128."""
PRODUCT_BITS = ACTIVATION_BITS + 8
"""Bits of an operand times an int8."""


class ArrayMode(enum.Enum, shape=unsigned(2)):  # type: ignore[call-arg]
    """What the nibbles of a word are, and which operands they meet."""

    LINEAR = 0
    SCORE = 1
    MIX = 2


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
        For MIX, 5 to 7.
    word : In(4·R·C)
        Nibble c·R + r meets row r of column c; byte j is nibbles 2j (low) and 2j + 1 (high).
    upper_word : In(4·R·C)
        The word of the lanes from `upper_lane` on.
    rows : In(ArrayLayout(ArrayLayout(signed(12), R), T))
        LINEAR operand of each row.
    bytes : In(ArrayLayout(ArrayLayout(signed(12), R·C/2), T))
        SCORE operand of each byte.
    heads : In(ArrayLayout(ArrayLayout(signed(12), R·C/64), T))
        MIX operand of each head in the word: byte j meets ``heads[j >> head_dim_log2]``.
    products : Out(ArrayLayout(ArrayLayout(signed(20), R·C/2), T))
        SCORE and MIX: operand · byte.
    sums : Out(ArrayLayout(ArrayLayout(signed(20 + log2(R/2)), C), T))
        LINEAR and SCORE: sum of each column.
    """

    PRODUCT_CYCLES = 3
    PIPELINE_CYCLES = PRODUCT_CYCLES + 1

    valid: Signal
    lane_enable: Signal
    mode: Signal
    head_dim_log2: Signal
    word: Signal
    upper_word: Signal
    rows: data.View
    bytes: data.View
    heads: data.View
    products: data.View
    sums: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = config
        operand = signed(ACTIVATION_BITS)
        heads = config.word_bytes >> HEAD_DIM_LOG2_MIN

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
                "products": Out(lanes(signed(PRODUCT_BITS), config.word_bytes)),
                "sums": Out(lanes(column_sum_shape(config), config.columns)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, upper = self._config.lanes, upper_lane(self._config)

        # Words and modes are shared by the lanes; `active` says which lanes a stage serves.
        words = [
            Signal(self._config.word_bits, reset_less=True, name=name)
            for name in ("word", "upper_word")
        ]
        mode = [Signal(ArrayMode, reset_less=True, name=f"mode_{i}") for i in range(3)]
        active = [Signal(lanes, name=f"active_{i}") for i in range(3)]
        m.d.sync += active[0].eq(self.lane_enable & self.valid.replicate(lanes))
        with m.If(self.valid):
            m.d.sync += mode[0].eq(self.mode)
        for word, given, mine in (
            (words[0], self.word, self.lane_enable[:upper]),
            (words[1], self.upper_word, self.lane_enable[upper:]),
        ):
            with m.If(self.valid & mine.any()):
                m.d.sync += word.eq(given)
        for stage in (1, 2):
            m.d.sync += [mode[stage].eq(mode[stage - 1]), active[stage].eq(active[stage - 1])]

        products, sums = [], []
        for lane in range(lanes):
            rows, shared = self.build_operands(m, lane)
            word = words[lane >= upper]
            cells = self.build_products(m, lane, word, rows, shared, mode[0], active[0][lane])
            pairs = self.build_pairs(m, lane, cells, mode[1], active[1][lane])
            products += pairs
            sums += self.build_sums(m, lane, pairs, mode[2], active[2][lane])
        # Whole ports in one statement each: a statement for every element takes Amaranth seconds.
        m.d.comb += [
            self.products.as_value().eq(Cat(products)),
            self.sums.as_value().eq(Cat(sums)),
        ]
        return m

    def build_operands(self, m: Module, lane: int) -> tuple[list[Signal], list[Signal]]:
        """Stage 1: the operands of LINEAR by row, and those of SCORE or MIX by byte."""
        c = self._config
        rows = [
            Signal(signed(ACTIVATION_BITS), reset_less=True, name=f"row_{lane}_{r}")
            for r in range(c.rows)
        ]
        shared = [
            Signal(signed(ACTIVATION_BITS), reset_less=True, name=f"byte_{lane}_{j}")
            for j in range(c.word_bytes)
        ]
        with m.If(self.valid & self.lane_enable[lane]), m.Switch(self.mode):
            with m.Case(ArrayMode.LINEAR):
                m.d.sync += [row.eq(self.rows[lane][r]) for r, row in enumerate(rows)]
            with m.Case(ArrayMode.SCORE):
                m.d.sync += [byte.eq(self.bytes[lane][j]) for j, byte in enumerate(shared)]
            with m.Case(ArrayMode.MIX), m.Switch(self.head_dim_log2):
                for log2 in range(HEAD_DIM_LOG2_MIN, HEAD_DIM_LOG2_MAX + 1):
                    with m.Case(log2):
                        m.d.sync += [
                            byte.eq(self.heads[lane][j >> log2]) for j, byte in enumerate(shared)
                        ]
        return rows, shared

    def build_products(
        self,
        m: Module,
        lane: int,
        word: Signal,
        rows: list[Signal],
        shared: list[Signal],
        mode: Signal,
        active: Value,
    ) -> list[Signal]:
        """Stage 2: a product for each nibble."""
        c = self._config
        linear = mode == ArrayMode.LINEAR
        products = []
        with m.If(active):
            for n in range(c.rows * c.columns):
                nibble = word[4 * n : 4 * n + 4]
                operand = Mux(linear, rows[n % c.rows], shared[n // 2])
                # An even nibble is the unsigned low half of an int8, unless it is a weight.
                weight = nibble if n % 2 else Cat(nibble, nibble[3] & linear)
                product = Signal(
                    signed(ACTIVATION_BITS + len(weight)),
                    reset_less=True,
                    name=f"product_{lane}_{n}",
                )
                m.d.sync += product.eq(operand * weight.as_signed())
                products.append(product)
        return products

    def build_pairs(
        self, m: Module, lane: int, products: list[Signal], mode: Signal, active: Value
    ) -> list[Signal]:
        """Stage 3: the two products of a byte, added as weights or as halves of an int8."""
        linear = mode == ArrayMode.LINEAR
        pairs = []
        with m.If(active):
            for j, (low, high) in enumerate(zip(products[0::2], products[1::2], strict=True)):
                pair = Signal(signed(PRODUCT_BITS), reset_less=True, name=f"pair_{lane}_{j}")
                m.d.sync += pair.eq(low + Mux(linear, high, high << 4))
                pairs.append(pair)
        return pairs

    def build_sums(
        self, m: Module, lane: int, pairs: list[Signal], mode: Signal, active: Value
    ) -> list[Signal]:
        """Stage 4: the sum of each column."""
        c = self._config
        half = c.rows // 2
        totals = []
        with m.If(active & (mode != ArrayMode.MIX)):
            for column in range(c.columns):
                total = Signal(column_sum_shape(c), reset_less=True, name=f"sum_{lane}_{column}")
                terms = pairs[column * half : (column + 1) * half]
                m.d.sync += total.eq(_tree_sum(terms))
                totals.append(total)
        return totals


def _tree_sum(terms: list[Value]) -> Value:
    """Sum of a power of two of terms, as a balanced tree."""
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[0::2], terms[1::2], strict=True)]
    return terms[0]
