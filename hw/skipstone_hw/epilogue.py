"""Epilogue: what becomes of an accumulator once its dot product is complete.

The integer outputs of the array are scaled to binary32; then, by kind, they are added to the
residual stream, rotated by the token's position, gated, or passed. The residual stream and the
rotations of the chunk's tokens live in buffers here.

The pipeline never stops: a pair is let in only if the output FIFO has room for what it will become,
so back-pressure reaches the input through a counter, and no signal has to hold thousands of
registers.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig
from skipstone.spec.tables import EXP2_LIMIT

from .layouts import INDEX_BITS, FloatPairLayout, PairKind, PairLayout, token_shape
from .numeric.fp32 import ONE, FpAdd, FpMultiply, FpToFixed, IntToFp, fp_negate
from .numeric.pipeline import delay
from .numeric.tables import Exp2, Reciprocal

__all__ = ["Epilogue", "RopeWriteSignature"]

_MAX_PAIRS_LOG2 = 6
"""Pairs of a head of the largest head_dim, 128."""

# Cycles from a pair's acceptance to the registers at the end of each stage.
_SCALED = IntToFp.PIPELINE_CYCLES + FpMultiply.PIPELINE_CYCLES
_OPERANDS = _SCALED + 1
_PRODUCTS = _OPERANDS + FpMultiply.PIPELINE_CYCLES
_SUMS = _PRODUCTS + FpAdd.PIPELINE_CYCLES
_RESIDUAL_ADDRESS = _OPERANDS + 1
_SIGMOID = (
    _SCALED
    + FpToFixed.PIPELINE_CYCLES
    + Exp2.PIPELINE_CYCLES
    + FpAdd.PIPELINE_CYCLES
    + Reciprocal.PIPELINE_CYCLES
)
_GATED = _SIGMOID + FpMultiply.PIPELINE_CYCLES

_FIFO_PAIRS = 32
_FIFO_CYCLES = 2


class RopeWriteSignature(wiring.Signature):
    """Write port of the rotations: (cos, sin) as binary32 of one pair of a token's heads.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    en : Out(1)
    token : Out(token_shape(config))
    index : Out(6)
        Pair within the head.
    cos, sin : Out(32)
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "en": Out(1),
                "token": Out(token_shape(config)),
                "index": Out(_MAX_PAIRS_LOG2),
                "cos": Out(32),
                "sin": Out(32),
            }
        )


class Epilogue(wiring.Component):
    """Scaling, residual addition, rotary embedding and gating of pairs of outputs.

    With ``y = fp32.mul(fp32.from_int(accumulator, exponent), scale)`` for both of a pair, it emits,
    and for the first two kinds also writes to the residual buffer:

    ============================  ======================================================
    RESIDUAL                      ``add(x, y)``, x from the residual buffer
    EMBED                         y
    QUERY, KEY                    y rotated by the token's angle
    SWIGLU                        t · u · sigmoid2(t) of (t, u) = y: one element
    VALUE, ATTENTION, LOGITS      y
    ============================  ======================================================

    Two consecutive SWIGLU elements of a token, at indices 2j and 2j + 1, leave as pair j; a token's
    SWIGLU pairs come in runs of even length that start at an even index. Order is kept.

    One pair per cycle is accepted and, SWIGLU halved, emitted. Pairs leave `PIPELINE_CYCLES`
    after they enter, SWIGLU elements `SWIGLU_PIPELINE_CYCLES`; another kind waits at the input
    until the SWIGLU elements before it have left the pipeline. While `o` is blocked pairs are
    accepted until everything under way fills the output FIFO.

    A RESIDUAL pair may enter `HAZARD_CYCLES` after the pair that last wrote its elements, not
    earlier. The buffers are not cleared by a reset. Tested with all kinds, alone and mixed, stalled
    on both sides at random and at full rate.

    Parameters
    ----------
    config : CoreConfig
        Sizes of the buffers: `max_chunk` tokens of `max_hidden` elements.

    Members
    -------
    i : In(stream.Signature(PairLayout(config)))
    o : Out(stream.Signature(FloatPairLayout(config)))
    head_dim_log2 : In(3)
        Size of a head, 1 to 7; stable while pairs of QUERY and KEY are under way.
    rope_write : In(RopeWriteSignature(config))
        Fills the rotation buffer; not while pairs of that token are under way.
    idle : Out(1)
        Nothing is under way: everything accepted has been emitted, and written.
    """

    PIPELINE_CYCLES = _SUMS + _FIFO_CYCLES
    SWIGLU_PIPELINE_CYCLES = _GATED + _FIFO_CYCLES
    HAZARD_CYCLES = _SUMS + 1 - _RESIDUAL_ADDRESS

    i: stream.Interface
    o: stream.Interface
    head_dim_log2: Signal
    rope_write: wiring.PureInterface
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(PairLayout(config))),
                "o": Out(stream.Signature(FloatPairLayout(config))),
                "head_dim_log2": In(3),
                "rope_write": In(RopeWriteSignature(config)),
                "idle": Out(1),
            }
        )

    @property
    def config(self) -> CoreConfig:
        """The core this is part of."""
        return self._config

    def elaborate(self, platform):
        m = Module()

        meta = Signal(
            data.StructLayout(
                {
                    "kind": PairKind,
                    "token": token_shape(self._config),
                    "index": INDEX_BITS,
                }
            )
        )
        m.d.comb += [
            meta.kind.eq(self.i.p.kind),
            meta.token.eq(self.i.p.token),
            meta.index.eq(self.i.p.index),
        ]
        at_rope_read = delay(m, meta, _SCALED - 1, name="at_rope_read")
        at_scaled = delay(m, at_rope_read, 1, name="at_scaled")
        at_operands = delay(m, at_scaled, _OPERANDS - _SCALED, name="at_operands")
        at_products = delay(m, at_operands, _PRODUCTS - _OPERANDS, name="at_products")
        at_sums = delay(m, at_products, _SUMS - _PRODUCTS, name="at_sums")
        at_gated = delay(m, at_sums, _GATED - _SUMS, name="at_gated")
        has_sums = delay(m, self.i.valid & self.i.ready, _SUMS, name="has_sums", reset=True)
        has_gated = delay(m, has_sums, _GATED - _SUMS, name="has_gated", reset=True)

        sums = Signal(data.ArrayLayout(32, 2))
        scaled = self._build_scaling(m)
        angle = self._build_rope_buffer(m, at_rope_read)
        products = self._build_products(m, scaled, angle, at_scaled)
        old = self._build_residual_buffer(m, sums, has_sums, at_operands, at_sums)
        m.d.comb += sums.eq(self._build_sums(m, scaled, products, old, at_products))
        gated = self._build_gate(m, scaled[0], products[0])
        self._build_output(m, sums, gated, has_sums, has_gated, at_sums, at_gated)
        return m

    def _build_scaling(self, m: Module) -> list[Value]:
        """y of both elements at _SCALED."""
        scale = delay(m, self.i.p.scale, IntToFp.PIPELINE_CYCLES, name="scale")
        scaled = []
        for k in range(2):
            m.submodules[f"to_fp_{k}"] = to_fp = IntToFp(
                bits=len(self.i.p.accumulator[k]), exponent_bits=len(self.i.p.exponent)
            )
            m.submodules[f"scale_{k}"] = multiply = FpMultiply()
            m.d.comb += [
                to_fp.mantissa.eq(self.i.p.accumulator[k]),
                to_fp.exponent.eq(self.i.p.exponent),
                multiply.a.eq(to_fp.o),
                multiply.b.eq(scale),
            ]
            scaled.append(multiply.o)
        return scaled

    def _build_rope_buffer(self, m: Module, at_read) -> data.View:
        """(cos, sin) of the pair at _SCALED, straight from the memory."""
        angle_layout = data.StructLayout({"cos": 32, "sin": 32})
        m.submodules.rope = rope = Memory(
            shape=angle_layout, depth=self._config.max_chunk << _MAX_PAIRS_LOG2, init=[]
        )
        write, read = rope.write_port(), rope.read_port()
        mask = Cat(self.head_dim_log2 > k + 1 for k in range(_MAX_PAIRS_LOG2))
        m.d.comb += [
            write.en.eq(self.rope_write.en),
            write.addr.eq(Cat(self.rope_write.index, self.rope_write.token)),
            write.data.cos.eq(self.rope_write.cos),
            write.data.sin.eq(self.rope_write.sin),
            read.addr.eq(Cat(at_read.index[:_MAX_PAIRS_LOG2] & mask, at_read.token)),
        ]
        return read.data

    def _build_products(self, m: Module, y: list[Value], angle, at_scaled) -> list[Value]:
        """y₀·cos (for SWIGLU: y₀·y₁), y₁·sin, y₀·sin, y₁·cos at _PRODUCTS."""
        swiglu = at_scaled.kind == PairKind.SWIGLU
        factors = [
            (y[0], Mux(swiglu, y[1], angle.cos)),
            (y[1], angle.sin),
            (y[0], angle.sin),
            (y[1], angle.cos),
        ]
        products = []
        for k, (a, b) in enumerate(factors):
            m.submodules[f"multiply_{k}"] = multiply = FpMultiply()
            m.d.comb += multiply.a.eq(delay(m, a, 1, name=f"factor_a{k}"))
            m.d.comb += multiply.b.eq(delay(m, b, 1, name=f"factor_b{k}"))
            products.append(multiply.o)
        return products

    def _build_residual_buffer(
        self, m: Module, sums, has_sums: Value, at_operands, at_sums
    ) -> list[Value]:
        """What to add to y at _PRODUCTS: the old pair for RESIDUAL, else zero. Writes the sums."""
        pairs = self._config.max_hidden // 2
        depth = self._config.max_chunk * pairs
        m.submodules.residual = residual = Memory(
            shape=data.ArrayLayout(32, 2), depth=depth, init=[]
        )
        write, read = residual.write_port(), residual.read_port()

        address = Signal(range(depth), reset_less=True)
        m.d.sync += address.eq(at_operands.token * pairs + at_operands.index)
        m.d.comb += read.addr.eq(address)
        at_read = delay(m, at_operands, _RESIDUAL_ADDRESS + 1 - _OPERANDS, name="at_read")
        is_residual = at_read.kind == PairKind.RESIDUAL

        stored = (at_sums.kind == PairKind.RESIDUAL) | (at_sums.kind == PairKind.EMBED)
        m.d.comb += [
            write.addr.eq(delay(m, address, _SUMS - _RESIDUAL_ADDRESS, name="write_address")),
            write.en.eq(has_sums & stored),
            write.data.eq(sums),
        ]
        return [
            delay(
                m,
                Mux(is_residual, read.data[k], 0),
                _PRODUCTS - _RESIDUAL_ADDRESS - 1,
                name=f"old_{k}",
            )
            for k in range(2)
        ]

    def _build_sums(
        self, m: Module, y: list[Value], products: list[Value], old: list[Value], at_products
    ) -> Value:
        """Both results of every kind but SWIGLU at _SUMS, from the same two adders."""
        rotates = (at_products.kind == PairKind.QUERY) | (at_products.kind == PairKind.KEY)
        summands = [(products[0], fp_negate(products[1])), (products[2], products[3])]
        sums = []
        for k, (a, b) in enumerate(summands):
            passed = delay(m, y[k], _PRODUCTS - _SCALED, name=f"passed_{k}")
            m.submodules[f"add_{k}"] = add = FpAdd()
            m.d.comb += [
                add.a.eq(Mux(rotates, a, passed)),
                add.b.eq(Mux(rotates, b, old[k])),
            ]
            sums.append(add.o)
        return Cat(sums)

    def _build_gate(self, m: Module, t: Value, product: Value) -> Value:
        """product · sigmoid2(t) at _GATED, from t at _SCALED and t·u at _PRODUCTS."""
        m.submodules.to_fixed = to_fixed = FpToFixed(fraction_bits=16, limit=EXP2_LIMIT)
        m.submodules.exp2 = exp2 = Exp2()
        m.submodules.one_plus = one_plus = FpAdd()
        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.submodules.gate = gate = FpMultiply()
        m.d.comb += [
            to_fixed.x.eq(fp_negate(t)),
            exp2.x.eq(to_fixed.o),
            one_plus.a.eq(Const(ONE, 32)),
            one_plus.b.eq(exp2.o),
            reciprocal.x.eq(one_plus.o),
            gate.a.eq(delay(m, product, _SIGMOID - _PRODUCTS, name="gated")),
            gate.b.eq(reciprocal.o),
        ]
        return gate.o

    def _build_output(
        self, m: Module, sums, gated: Value, has_sums: Value, has_gated: Value, at_sums, at_gated
    ) -> None:
        """Pair the SWIGLU elements, queue the results, and admit what the queue has room for."""
        layout = FloatPairLayout(self._config)
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=layout.size, depth=_FIFO_PAIRS)

        sums_leave = has_sums & (at_sums.kind != PairKind.SWIGLU)
        gated_leaves = has_gated & (at_gated.kind == PairKind.SWIGLU)
        is_first = ~at_gated.index[0]
        first = Signal(32, reset_less=True)
        with m.If(gated_leaves & is_first):
            m.d.sync += first.eq(gated)

        result = Signal(layout)
        with m.If(gated_leaves):
            m.d.comb += [
                result.value.eq(Cat(first, gated)),
                result.kind.eq(at_gated.kind),
                result.token.eq(at_gated.token),
                result.index.eq(at_gated.index >> 1),
            ]
        with m.Else():
            m.d.comb += [
                result.value.eq(sums),
                result.kind.eq(at_sums.kind),
                result.token.eq(at_sums.token),
                result.index.eq(at_sums.index),
            ]
        m.d.comb += [
            queue.w_data.eq(result),
            queue.w_en.eq(sums_leave | (gated_leaves & ~is_first)),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
        ]

        # Every pair under way has a place in the queue; the first SWIGLU element of two gives its
        # own back.
        places = Signal(range(_FIFO_PAIRS + 1))
        gating = Signal(range(_FIFO_PAIRS + 1))
        is_swiglu = self.i.p.kind == PairKind.SWIGLU
        enters = self.i.valid & self.i.ready
        leaves = self.o.valid & self.o.ready
        m.d.sync += [
            places.eq(places + enters - leaves - (gated_leaves & is_first)),
            gating.eq(gating + (enters & is_swiglu) - gated_leaves),
        ]
        m.d.comb += [
            self.i.ready.eq((places != _FIFO_PAIRS) & (is_swiglu | (gating == 0))),
            self.idle.eq(places == 0),
        ]
