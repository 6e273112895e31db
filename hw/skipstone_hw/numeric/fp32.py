"""binary32 arithmetic, the gateware of `skipstone.spec.fp32`, equal to it bit for bit.

Every unit is a free-running pipeline: it takes operands in every cycle and has no handshake.
Whoever must stop it wraps it in `EnableInserter`; side-band data is kept in step by
`pipeline.delay`. Operands are expected to come from registers, results do; there is no reset, since
a pipeline's content is meaningless until it has been filled.

Numbers are those of the specification: a number whose exponent field is zero is +0, the exponent
field 255 does not occur, results saturate to the largest finite number.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from .pipeline import delay

__all__ = ["ONE", "FpAdd", "FpMultiply", "FpToFixed", "IntToFp", "fp_greater", "fp_negate"]

ONE = 0x3F800000
"""1.0"""
_LARGEST = 0x7F7FFFFF
_BIAS = 127


def fp_negate(x: Value) -> Value:
    """−x as an operand of the units here (minus zero is read as zero)."""
    return Cat(x[:31], ~x[31])


def fp_greater(a: Value, b: Value) -> Value:
    """Whether a > b, for numbers without signed zeros."""

    def key(x: Value) -> Value:
        return Cat(x[:31] ^ x[31].replicate(31), ~x[31])

    return key(a) > key(b)


def _significand(x: Value) -> Value:
    """The 24 bits of a number's significand; zero for zero and subnormals."""
    normal = x[23:31].any()
    return Cat(x[:23] & normal.replicate(23), normal)


def _leading_zeros(m: Module, value: Value) -> Value:
    """Zeros above the highest one of `value`, by a tree of pairs; arbitrary for zero."""
    width = 1 << ceil_log2(max(2, len(value)))
    bits = Cat(Const(0, width - len(value)), value)
    nodes = [(~bits[i + 1] & ~bits[i], ~bits[i + 1]) for i in range(0, width, 2)]
    level = 0
    while len(nodes) > 1:
        merged = []
        for i in range(0, len(nodes), 2):
            (low_zero, low), (high_zero, high) = nodes[i], nodes[i + 1]
            zero = Signal(name=f"zero_{level}_{i // 2}")
            count = Signal(len(low) + 1, name=f"count_{level}_{i // 2}")
            m.d.comb += zero.eq(high_zero & low_zero)
            m.d.comb += count.eq(Cat(Mux(high_zero, low, high), high_zero))
            merged.append((zero, count))
        nodes, level = merged, level + 1
    return nodes[0][1]


def _round(m: Module, *, sign: Value, exponent: Value, fraction: Value) -> Signal:
    """Round to nearest even and pack, into a register.

    `fraction` is the significand, normalised to its highest bit (which is 0 only for zero), with
    bits to round away below the 24 to keep; `exponent` is its signed, biased exponent.
    """
    spare = len(fraction) - 24
    kept, guard, sticky = fraction[spare:], fraction[spare - 1], fraction[: spare - 1].any()
    increment = guard & (sticky | kept[0])
    wide = Signal(signed(len(exponent) + 24))
    # One carry chain: a significand that rounds up to 2.0 carries into the exponent.
    m.d.comb += wide.eq(Cat(kept[:23], exponent).as_signed() + increment)
    biased = wide[23:].as_signed()
    result = Signal(32, reset_less=True)
    with m.If(~fraction[-1] | (biased <= 0)):
        m.d.sync += result.eq(0)
    with m.Elif(biased >= 255):
        m.d.sync += result.eq(Cat(Const(_LARGEST, 31), sign))
    with m.Else():
        m.d.sync += result.eq(Cat(wide[:31], sign))
    return result


class FpMultiply(wiring.Component):
    """binary32 multiplier.

    One product per cycle, `PIPELINE_CYCLES` later: 24 × 17 and 24 × 7 bit products, their sum,
    normalisation, rounding. Tested on random bit patterns of all exponents, at overflow, underflow
    and ties.

    Members
    -------
    a, b : In(32)
        Factors.
    o : Out(32)
        ``fp32.mul(a, b)``.
    """

    PIPELINE_CYCLES = 4
    _LOW_BITS = 17
    """What a 27 × 18 bit signed multiplier takes of an unsigned factor."""

    a: Signal
    b: Signal
    o: Signal

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()

        factor, other = _significand(self.a), _significand(self.b)
        low = Signal(24 + self._LOW_BITS, reset_less=True)
        high = Signal(48 - self._LOW_BITS, reset_less=True)
        m.d.sync += [
            low.eq(factor * other[: self._LOW_BITS]),
            high.eq(factor * other[self._LOW_BITS :]),
        ]
        product = Signal(48, reset_less=True)
        m.d.sync += product.eq(low + (high << self._LOW_BITS))
        exponent = delay(
            m, (self.a[23:31] + self.b[23:31] - _BIAS)[:10].as_signed(), 2, name="exponent"
        )
        sign = delay(m, self.a[31] ^ self.b[31], 2, name="sign")

        # The product of two significands in [1, 2) is in [1, 4).
        carry = product[47]
        normal = Signal(26, reset_less=True)
        normal_exponent = Signal(signed(11), reset_less=True)
        normal_sign = Signal(reset_less=True)
        m.d.sync += [
            normal.eq(
                Mux(
                    carry,
                    Cat(product[:23].any(), product[23:]),
                    Cat(product[:22].any(), product[22:47]),
                )
            ),
            normal_exponent.eq(exponent + carry),
            normal_sign.eq(sign),
        ]

        m.d.comb += self.o.eq(
            _round(m, sign=normal_sign, exponent=normal_exponent, fraction=normal)
        )
        return m


class FpAdd(wiring.Component):
    """binary32 adder.

    One sum per cycle, `PIPELINE_CYCLES` later: order by magnitude, align and add, count leading
    zeros, normalise, round.
    Tested on random bit patterns, cancellation, ties, and sums far apart.

    Members
    -------
    a, b : In(32)
        Summands; zeros of either sign.
    o : Out(32)
        ``fp32.add(a, b)``.
    """

    PIPELINE_CYCLES = 5

    a: Signal
    b: Signal
    o: Signal

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        a, b = self.a, self.b

        swap = Signal()
        distance = Signal(8)
        m.d.comb += [
            swap.eq(a[:31] < b[:31]),
            distance.eq(Mux(swap, b[23:31] - a[23:31], a[23:31] - b[23:31])),
        ]
        big = Signal(24, reset_less=True)
        small = Signal(24, reset_less=True)
        shift = Signal(5, reset_less=True)
        far = Signal(reset_less=True)
        subtract = Signal(reset_less=True)
        exponent = Signal(8, reset_less=True)
        sign = Signal(reset_less=True)
        m.d.sync += [
            big.eq(Mux(swap, _significand(b), _significand(a))),
            small.eq(Mux(swap, _significand(a), _significand(b))),
            shift.eq(distance),
            far.eq(distance[5:].any()),
            subtract.eq(a[31] ^ b[31]),
            exponent.eq(Mux(swap, b[23:31], a[23:31])),
            sign.eq(Mux(swap, b[31], a[31])),
        ]

        # Two bits below the significand and one that stands for everything lower round correctly.
        spread = Signal(24 + 2 + 31)
        aligned = Signal(27)
        m.d.comb += [
            spread.eq(Cat(Const(0, 33), small) >> shift),
            aligned.eq(Mux(far, small.any(), Cat(spread[:31].any(), spread[31:]))),
        ]
        total = Signal(28, reset_less=True)
        total_exponent = Signal(8, reset_less=True)
        total_sign = Signal(reset_less=True)
        shifted_big = Cat(Const(0, 3), big)
        m.d.sync += [
            total.eq(Mux(subtract, shifted_big - aligned, shifted_big + aligned)),
            total_exponent.eq(exponent),
            total_sign.eq(sign),
        ]

        zeros = Signal(5, reset_less=True)
        m.d.sync += zeros.eq(_leading_zeros(m, total))
        counted = delay(m, total, 1, name="counted")
        counted_exponent = delay(m, total_exponent, 1, name="counted_exponent")
        counted_sign = delay(m, total_sign, 1, name="counted_sign")
        normal = Signal(28, reset_less=True)
        normal_exponent = Signal(signed(10), reset_less=True)
        normal_sign = Signal(reset_less=True)
        m.d.sync += [
            normal.eq(counted << zeros),
            normal_exponent.eq(counted_exponent + 1 - zeros),
            normal_sign.eq(counted_sign),
        ]

        m.d.comb += self.o.eq(
            _round(m, sign=normal_sign, exponent=normal_exponent, fraction=normal)
        )
        return m


class IntToFp(wiring.Component):
    """Converter from an integer with a binary exponent to binary32.

    One number per cycle, `PIPELINE_CYCLES` later: magnitude, leading zeros, normalisation,
    rounding. Tested with 48 + 12 and 20 + 8 bits, with random lengths, ties, over- and underflow.

    Parameters
    ----------
    bits
        Width of the signed mantissa, at least 2.
    exponent_bits
        Width of the signed exponent, at least 2.

    Members
    -------
    mantissa : In(signed(bits))
    exponent : In(signed(exponent_bits))
    o : Out(32)
        ``fp32.from_int(mantissa, exponent)``.
    """

    PIPELINE_CYCLES = 4

    mantissa: Signal
    exponent: Signal
    o: Signal

    def __init__(self, *, bits: int = 48, exponent_bits: int = 12):
        for name, value in (("bits", bits), ("exponent_bits", exponent_bits)):
            if value < 2:
                raise ValueError(f"{name} must be at least 2, not {value!r}")
        self._bits = bits
        self._exponent_bits = exponent_bits
        super().__init__(
            {
                "mantissa": In(signed(bits)),
                "exponent": In(signed(exponent_bits)),
                "o": Out(32),
            }
        )

    @property
    def bits(self) -> int:
        """Width of the signed mantissa."""
        return self._bits

    @property
    def exponent_bits(self) -> int:
        """Width of the signed exponent."""
        return self._exponent_bits

    def elaborate(self, platform):
        m = Module()
        # The biased exponent of the mantissa's highest bit still has to fit.
        exponent_shape = signed(max(self._exponent_bits, bits_for(_BIAS + self._bits) + 1) + 1)

        magnitude = Signal(self._bits, reset_less=True)
        sign = Signal(reset_less=True)
        exponent = Signal(exponent_shape, reset_less=True)
        m.d.sync += [
            magnitude.eq(Mux(self.mantissa[-1], -self.mantissa, self.mantissa)),
            sign.eq(self.mantissa[-1]),
            exponent.eq(self.exponent + (_BIAS + self._bits - 1)),
        ]

        zeros_bits = ceil_log2(max(2, self._bits))
        counted = Signal(self._bits, reset_less=True)
        zeros = Signal(zeros_bits, reset_less=True)
        counted_sign = Signal(reset_less=True)
        counted_exponent = Signal(exponent_shape, reset_less=True)
        m.d.sync += [
            counted.eq(magnitude),
            zeros.eq(_leading_zeros(m, magnitude)),
            counted_sign.eq(sign),
            counted_exponent.eq(exponent),
        ]

        pad = max(0, 27 - self._bits)
        shifted = Signal(self._bits + pad)
        m.d.comb += shifted.eq(Cat(Const(0, pad), counted) << zeros)
        normal = Signal(26, reset_less=True)
        normal_sign = Signal(reset_less=True)
        normal_exponent = Signal(exponent_shape, reset_less=True)
        m.d.sync += [
            normal.eq(Cat(shifted[:-25].any(), shifted[-25:])),
            normal_sign.eq(counted_sign),
            normal_exponent.eq(counted_exponent - zeros),
        ]

        m.d.comb += self.o.eq(
            _round(m, sign=normal_sign, exponent=normal_exponent, fraction=normal)
        )
        return m


class FpToFixed(wiring.Component):
    """Converter from binary32 to saturated fixed point, rounding down.

    One number per cycle, `PIPELINE_CYCLES` later: alignment, then sign and saturation. Tested with
    the argument format of exp2, a narrower and a wider one.

    Parameters
    ----------
    fraction_bits
        Bits below the binary point.
    limit
        Largest magnitude of the result, at least 1.

    Members
    -------
    x : In(32)
    o : Out(signed(bits_for(limit) + 1))
        ``fp32.to_fixed(x, fraction_bits=fraction_bits, limit=limit)``.
    """

    PIPELINE_CYCLES = 2

    x: Signal
    o: Signal

    def __init__(self, *, fraction_bits: int, limit: int):
        if not 0 <= fraction_bits <= 64:
            raise ValueError(f"fraction_bits must be 0 to 64, not {fraction_bits!r}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit!r}")
        self._fraction_bits = fraction_bits
        self._limit = limit
        super().__init__({"x": In(32), "o": Out(signed(bits_for(limit) + 1))})

    @property
    def fraction_bits(self) -> int:
        """Bits below the binary point."""
        return self._fraction_bits

    @property
    def limit(self) -> int:
        """Largest magnitude of the result."""
        return self._limit

    def elaborate(self, platform):
        m = Module()
        bits = bits_for(self._limit)
        width = max(bits, 24)

        # Place the leading one at the top of the result, then shift it down to where it belongs.
        room = Signal(signed(10))
        amount = Signal(range(bits + 1))
        shifted = Signal(width)
        lost = Signal(bits)
        m.d.comb += [
            room.eq(bits - 1 + _BIAS - self._fraction_bits - self.x[23:31]),
            amount.eq(Mux(room > bits, bits, room[: len(amount)])),
            Cat(lost, shifted).eq(Cat(Const(0, bits + width - 24), _significand(self.x)) >> amount),
        ]
        magnitude = Signal(bits, reset_less=True)
        inexact = Signal(reset_less=True)
        huge = Signal(reset_less=True)
        sign = Signal(reset_less=True)
        m.d.sync += [
            magnitude.eq(shifted[width - bits :]),
            inexact.eq(lost.any() | shifted[: width - bits].any()),
            huge.eq((room < 0) & self.x[23:31].any()),
            sign.eq(self.x[31]),
        ]

        result = Signal(signed(bits + 1), reset_less=True)
        with m.If(huge | (magnitude >= self._limit)):
            m.d.sync += result.eq(Mux(sign, -self._limit, self._limit))
        with m.Elif(sign):
            # −(magnitude + inexact)
            m.d.sync += result.eq((~Cat(magnitude, Const(0, 1))).as_signed() + ~inexact)
        with m.Else():
            m.d.sync += result.eq(magnitude)
        m.d.comb += self.o.eq(result)
        return m
