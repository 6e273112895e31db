"""The multipliers of a few columns, packed as the configuration says.

`skipstone.spec.packing` has the arithmetic. A key or value, an int8, is one operand of one
multiplier whatever the packing: with k weights to a multiplier, two rows of k columns have k int8
and two multipliers. For k = 3, the third int8 has a multiplier of its own, out of LUTs.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.formats import ACTIVATION_BITS, KV_BITS
from skipstone.spec.packing import MULTIPLIERS, WEIGHT_BITS, Packing

__all__ = ["PRODUCT_BITS", "ArrayMode", "ColumnGroup", "ColumnGroupSignature"]

PRODUCT_BITS = ACTIVATION_BITS + 8
"""Bits of an operand times an int8."""
_FAN_IN = 4
"""Terms added in one cycle; of exact packings, the length of a DSP cascade."""
_SUM_STAGES = 3


class ArrayMode(enum.Enum, shape=unsigned(2)):  # type: ignore[call-arg]
    """What the nibbles of a word are, and which operands they meet."""

    LINEAR = 0
    SCORE = 1
    MIX = 2


class ColumnGroupSignature(wiring.Signature):
    """The members of `ColumnGroup`, of the same parameters."""

    def __init__(self, *, columns: int, rows: int, lanes: int):
        column = rows // 2  # bytes
        operand = signed(ACTIVATION_BITS)

        def by_lane(shape, *dimensions: int) -> data.ArrayLayout:
            for length in reversed(dimensions):
                shape = data.ArrayLayout(shape, length)
            return data.ArrayLayout(shape, lanes)

        super().__init__(
            {
                "mode": In(ArrayMode),
                "enable": In(lanes),
                "nibbles": In(WEIGHT_BITS * rows * columns),
                "rows": In(operand).array(lanes, rows),
                "bytes": In(by_lane(operand, columns, column)),
                "heads": In(by_lane(operand, columns)),
                "products": Out(by_lane(signed(PRODUCT_BITS), columns, column)),
                "sums": Out(by_lane(signed(PRODUCT_BITS + exact_log2(column)), columns)),
            }
        )


class ColumnGroup(wiring.Component):
    """Multipliers and adders of up to `packing.products` columns, for lanes that share a word.

    `products` belong to the inputs of `PRODUCT_CYCLES` ago, `sums` to those of `PIPELINE_CYCLES`
    ago. What belongs to a lane that was not enabled keeps its values, `sums` in MIX as well. There
    is no reset: nothing here says that data is valid.

    Parameters
    ----------
    columns, rows, lanes : int
    packing : Packing
        Without overlap, its fields must hold `rows` / 2 terms.

    Members
    -------
    mode : In(ArrayMode)
    enable : In(lanes)
        Lanes that the inputs are for.
    nibbles : In(4·rows·columns)
        Nibble c·rows + r meets row r of column c; byte j is nibbles 2j (low) and 2j + 1 (high).
    rows : In(signed(12)).array(lanes, rows)
        LINEAR operand of each row, one cycle after its weights.
    bytes : In(ArrayLayout(ArrayLayout(ArrayLayout(signed(12), rows/2), columns), lanes))
        SCORE operand of each byte, one cycle after its word.
    heads : In(ArrayLayout(ArrayLayout(signed(12), columns), lanes))
        MIX operand of each column, one cycle after its word.
    products : Out(ArrayLayout(ArrayLayout(ArrayLayout(signed(20), rows/2), columns), lanes))
        SCORE and MIX: operand · byte.
    sums : Out(ArrayLayout(ArrayLayout(signed(20 + log2(rows/2)), columns), lanes))
        LINEAR and SCORE.
    """

    PRODUCT_CYCLES = 2
    PIPELINE_CYCLES = PRODUCT_CYCLES + _SUM_STAGES

    mode: Signal
    enable: Signal
    nibbles: Signal
    rows: Any
    bytes: data.View
    heads: data.View
    products: data.View
    sums: data.View

    def __init__(self, *, columns: int, rows: int, lanes: int, packing: Packing):
        if not 1 <= columns <= packing.products:
            raise ValueError(f"columns must be 1 to {packing.products}, not {columns}")
        if not packing.holds(rows // 2):
            raise ValueError(f"rows must be fewer than {rows} with {packing}")
        self._columns, self._rows, self._lanes, self._packing = columns, rows, lanes, packing
        super().__init__(ColumnGroupSignature(columns=columns, rows=rows, lanes=lanes))

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        any_lane = self.enable.any()
        linear = [Signal(name=f"linear_{i}") for i in range(1 + _SUM_STAGES)]
        summing = [Signal(name=f"summing_{i}") for i in range(2)]
        score = Signal()
        with m.If(any_lane):
            m.d.sync += [
                linear[0].eq(self.mode == ArrayMode.LINEAR),
                score.eq(self.mode == ArrayMode.SCORE),
                summing[0].eq(self.mode != ArrayMode.MIX),
            ]
        m.d.sync += [linear[i].eq(linear[i - 1]) for i in range(1, len(linear))]
        m.d.sync += summing[1].eq(summing[0])
        active, stage = [], self.enable
        for i in range(1 + _SUM_STAGES):
            late = Signal(lanes, name=f"active_{i}")
            # Behind the products, what is active has something to sum.
            m.d.sync += late.eq(stage & summing[1].replicate(lanes) if i == 2 else stage)
            active.append(late)
            stage = late

        wide, weights = self.build_wide(m, any_lane)
        for lane in range(lanes):
            with m.If(active[0][lane]):
                products = self.build_products(m, lane, linear[0], score, wide, weights)
            with m.If(active[1][lane] & summing[1]):
                chains = self.build_terms(m, lane, linear[1], *products)
                chains = [self.add_up(m, f"near_{lane}_{i}", c) for i, c in enumerate(chains)]
            with m.If(active[2][lane]):
                chains = [self.add_up(m, f"far_{lane}_{i}", c) for i, c in enumerate(chains)]
            with m.If(active[3][lane]):
                totals = [sum(chain[1:], chain[0]) for chain in chains]
                sums = self.build_sums(m, lane, linear[3], totals)
            even, odd, third = products[0][0::2], products[0][1::2], products[2]
            by_column = [even, odd, third][: self._columns]
            m.d.comb += [
                self.products[lane]
                .as_value()
                .eq(Cat(product[:PRODUCT_BITS] for column in by_column for product in column)),
                self.sums[lane].as_value().eq(Cat(sums)),
            ]
        return m

    def nibble(self, column: int, row: int) -> Value:
        """Bits of one row of a column."""
        n = column * self._rows + row
        return self.nibbles[WEIGHT_BITS * n : WEIGHT_BITS * (n + 1)]

    def byte(self, column: int, j: int) -> Value:
        """The int8 in rows 2j and 2j + 1 of a column."""
        return Cat(self.nibble(column, 2 * j), self.nibble(column, 2 * j + 1)).as_signed()

    def build_wide(self, m: Module, enable: Value) -> tuple[list[Signal], list[list[Signal]]]:
        """Stage 1: the multipliers' wide operands by row; the weights that a repair looks at."""
        packing = self._packing
        bits = MULTIPLIERS[packing.dsp].wide_bits if self._columns > 1 else KV_BITS
        linear = self.mode == ArrayMode.LINEAR
        wide, weights = [], []
        with m.If(enable):
            for row in range(self._rows):
                mine = [self.nibble(c, row).as_signed() for c in range(self._columns)]
                column = row % 2
                byte = self.byte(column, row // 2) if column < self._columns else 0
                operand = Signal(signed(bits), reset_less=True, name=f"wide_{row}")
                m.d.sync += operand.eq(Mux(linear, packing.pack(mine), byte))
                wide.append(operand)
                kept = []
                for c, weight in enumerate(mine[1:] if packing.overlap else [], 1):
                    register = Signal(signed(4), reset_less=True, name=f"weight_{row}_{c}")
                    m.d.sync += register.eq(weight)
                    kept.append(register)
                weights.append(kept)
        return wide, weights

    def build_products(
        self,
        m: Module,
        lane: int,
        linear: Signal,
        score: Signal,
        wide: list[Signal],
        weights: list[list[Signal]],
    ) -> tuple[list[Signal], list[list[Signal]], list[Signal]]:
        """Stage 2: products by row, tails for their repair, the third column's products."""
        packing = self._packing
        products, tails, third = [], [], []

        def byte_operand(column: int, j: int) -> Value:
            return Mux(score, self.bytes[lane][column][j], self.heads[lane][column])

        for row, operand in enumerate(wide):
            x = row_operand = self.rows[lane][row]
            if row % 2 < self._columns:
                x = Mux(linear, x, byte_operand(row % 2, row // 2))
            bits = len(operand) + ACTIVATION_BITS
            product = Signal(signed(bits), reset_less=True, name=f"product_{lane}_{row}")
            m.d.sync += product.eq(x * operand)
            products.append(product)
            mine = []
            for c, weight in enumerate(weights[row], 1):
                name = f"tail_{lane}_{row}_{c}"
                tail = Signal(packing.overlap, reset_less=True, name=name)
                m.d.sync += tail.eq(packing.tail(row_operand, weight))
                mine.append(tail)
            tails.append(mine)
        if self._columns == 3:
            for j in range(self._rows // 2):
                # The weights that the repair looks at are this byte's nibbles.
                byte = Cat(weights[2 * j][1], weights[2 * j + 1][1]).as_signed()
                product = Signal(signed(PRODUCT_BITS), reset_less=True, name=f"third_{lane}_{j}")
                with m.If(~linear):
                    m.d.sync += product.eq(byte_operand(2, j) * byte)
                third.append(product)
        return products, tails, third

    def build_terms(
        self,
        m: Module,
        lane: int,
        linear: Signal,
        products: list[Signal],
        tails: list[list[Signal]],
        third: list[Signal],
    ) -> list[list[Value]]:
        """What is to be added up: of even and of odd rows, packed products or repaired fields."""
        if not any(tails):
            return [list(products[0::2]), list(products[1::2])]
        chains: list[list[Value]] = []
        for parity in (0, 1):
            fields = [
                self._packing.repair(product, tail)
                for product, tail in zip(products[parity::2], tails[parity::2], strict=True)
            ]
            # The first field's adders serve the int8 as well.
            first = [
                Mux(linear, f[0], product[:PRODUCT_BITS].as_signed())
                for f, product in zip(fields, products[parity::2], strict=True)
            ]
            chains += [first, *([f[c] for f in fields] for c in range(1, self._columns))]
        return [*chains, list(third)] if third else chains

    def add_up(self, m: Module, name: str, terms: list[Value]) -> list[Value]:
        """Registered sums of up to `_FAN_IN` terms each."""
        out: list[Value] = []
        for i in range(0, len(terms), _FAN_IN):
            some = terms[i : i + _FAN_IN]
            total = sum(some[1:], some[0])
            register = Signal(total.shape(), reset_less=True, name=f"{name}_{i // _FAN_IN}")
            m.d.sync += register.eq(total)
            out.append(register)
        return out

    def build_sums(self, m: Module, lane: int, linear: Signal, totals: list[Value]) -> list[Signal]:
        """The last stage: column sums out of the chains' totals."""
        n = self._columns
        if not self._packing.overlap:
            even, odd = totals
            fields = zip(self._packing.split(even, n), self._packing.split(odd, n), strict=True)
            weights = [a + b for a, b in fields]
            bytes_ = [even, odd][:n]
        else:
            weights = [totals[c] + totals[n + c] for c in range(n)]
            bytes_ = [totals[0], totals[n], *totals[2 * n :]]
        sums = []
        for c in range(n):
            register = Signal(self.sums[lane][c].shape(), reset_less=True, name=f"sum_{lane}_{c}")
            m.d.sync += register.eq(Mux(linear, weights[c], bytes_[c]))
            sums.append(register)
        return sums
