"""Reductions over the residual stream, taken while it is written: Σx² and the two router products.

So RMSNorm and routing cost no pass of their own. Both are formed per group on the mantissas,
exactly; when a token's last group has passed, its groups are aligned with its largest exponent and
added, which is `skipstone_sim.arithmetic.reduce_residual` to the bit.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import (
    ACTIVATION_BITS,
    ROUTER_BITS,
    ROUTER_GUARD_BITS,
    SQUARE_GUARD_BITS,
)

from .layouts import ACCUMULATOR_BITS, MantissaPairLayout, PairKind, token_shape
from .numeric.fp32 import FpAdd, FpMultiply, IntToFp
from .numeric.pipeline import delay
from .numeric.tables import Rsqrt
from .parts import PartsSignature
from .router_buffer import RouterBuffer

__all__ = ["Reductions"]

_SHIFT_MAX = 63


class Reductions(wiring.Component):
    """Sum of squares, 1 / rms and skip decisions of each token of the chunk.

    Takes a pair in every cycle and never stalls: RESIDUAL and EMBED pairs are used, others ignored.
    Groups come whole and a token's groups in ascending order; tokens may take turns at any group.
    When the last group of a token has passed, the token is queued; if no other is before it, it is
    finalised ``hidden_groups + FINALISE_CYCLES`` later. Tokens are finalised one at a time, each
    in ``hidden_groups`` and about twenty cycles. A token must not come again while it is queued.

    While a router record is loaded no residual may come. What was finalised before belongs to the
    old routers: `written` tells which tokens have seen the new ones.

    Tested with all tokens interleaved by group, exponents far apart, zero vectors, router records
    of every length, at full rate and with gaps.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : In(stream.Signature(MantissaPairLayout(config)))
        Always ready.
    load : In(PartsSignature(config))
        Router records, see `RouterBuffer`.
    hidden_groups : In(range(max_hidden / group + 1))
        Groups of the hidden dimension, at least 1.
    inv_hidden, epsilon : In(32)
        1 / hidden and RMSNorm's ε, binary32.
    clear_written : In(1)
        Clears `written`.
    norm_token : In(token_shape(config))
    norm : Out(32)
        1 / rms of `norm_token`, binary32, one cycle later.
    skip_attention, skip_mlp : Out(max_chunk)
        The routers' decisions on each token.
    written : Out(max_chunk)
        Tokens finalised since the last load began.
    idle : Out(1)
        No pair is in the pipeline, no token waits to be finalised and no record is incomplete.
    """

    i: stream.Interface
    load: wiring.PureInterface
    hidden_groups: Signal
    inv_hidden: Signal
    epsilon: Signal
    clear_written: Signal
    norm_token: Signal
    norm: Signal
    skip_attention: Signal
    skip_mlp: Signal
    written: Signal
    idle: Signal

    _PRODUCT_CYCLES = RouterBuffer.READ_CYCLES + 3
    _ALIGN_CYCLES = RouterBuffer.READ_CYCLES + 3
    # Steps of a token's finalisation, counted from the start of the conversions.
    _MEAN_STEP = IntToFp.PIPELINE_CYCLES + FpMultiply.PIPELINE_CYCLES
    _SUM_STEP = _MEAN_STEP + FpAdd.PIPELINE_CYCLES
    _NORM_STEP = _SUM_STEP + Rsqrt.PIPELINE_CYCLES
    FINALISE_CYCLES = _PRODUCT_CYCLES + 1 + _ALIGN_CYCLES + _NORM_STEP + 1

    def __init__(self, *, config: CoreConfig):
        self._config = config
        groups = config.max_hidden // config.group
        super().__init__(
            {
                "i": In(stream.Signature(MantissaPairLayout(config))),
                "load": In(PartsSignature(config)),
                "hidden_groups": In(range(groups + 1)),
                "inv_hidden": In(32),
                "epsilon": In(32),
                "clear_written": In(1),
                "norm_token": In(token_shape(config)),
                "norm": Out(32),
                "skip_attention": Out(config.max_chunk),
                "skip_mlp": Out(config.max_chunk),
                "written": Out(config.max_chunk),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        m.submodules.router = router = RouterBuffer(config=c)
        wiring.connect(m, wiring.flipped(self.load), router.load)
        m.d.comb += router.hidden_groups.eq(self.hidden_groups)

        token_count = 1 << token_shape(c).width
        group_bits = exact_log2(c.group)
        m.submodules.groups = groups = memory.Memory(
            shape=data.StructLayout(
                {
                    "square": 2 * (ACTIVATION_BITS - 1) + group_bits,
                    "dots": data.ArrayLayout(
                        signed(ACTIVATION_BITS + ROUTER_BITS - 1 + group_bits), 2
                    ),
                    "exponent": signed(8),
                }
            ),
            depth=(c.max_hidden // c.group) * token_count,
            init=[],
        )
        m.submodules.largest = largest = memory.Memory(shape=signed(8), depth=token_count, init=[])
        complete, token, busy = self._reduce(m, router, groups, largest)

        pending, waiting = Signal(c.max_chunk), Signal()  # is any?
        next_pending, clear = Signal.like(pending), Signal()
        done, chosen, working = self._finalise(m, router, groups, largest, pending, waiting, clear)
        m.d.comb += next_pending.eq(
            Mux(clear, pending & (pending - 1), pending) | (complete << token)
        )
        m.d.sync += [pending.eq(next_pending), waiting.eq(next_pending.any())]
        with m.If(done):
            m.d.sync += self.written.bit_select(chosen, 1).eq(1)
        with m.If(self.clear_written | router.begin):
            m.d.sync += self.written.eq(0)
        m.d.comb += self.idle.eq(~(busy | waiting | working | router.busy))
        return m

    def _reduce(self, m, router, groups, largest):
        """Sum each group's products; returns (token complete, which, busy)."""
        c = self._config
        pair_bits = exact_log2(c.group // 2)
        layout = MantissaPairLayout(c)
        m.d.comb += self.i.ready.eq(1)
        kind = self.i.p.kind
        wanted = self.i.valid & ((kind == PairKind.RESIDUAL) | (kind == PairKind.EMBED))
        valids, pairs = [wanted], [self.i.p]
        for n in range(1, self._PRODUCT_CYCLES + 1):
            valid = Signal(name=f"valid_{n}")
            pair = Signal(layout, name=f"pair_{n}", reset_less=True)
            m.d.sync += [valid.eq(valids[-1]), pair.eq(pairs[-1])]
            valids.append(valid)
            pairs.append(pair)

        # Products of both elements, then their sums, then the group's.
        at = RouterBuffer.READ_CYCLES
        m.d.comb += router.index.eq(self.i.p.index)
        elements = [pairs[at].mantissa[n] for n in range(2)]
        factors = {
            "square": elements,
            "dot_0": [router.mantissas[0], router.mantissas[2]],
            "dot_1": [router.mantissas[1], router.mantissas[3]],
        }
        totals = {}
        first = ~pairs[at + 2].index[:pair_bits].any()
        for name, others in factors.items():
            bits = ACTIVATION_BITS + len(others[0])
            products = []
            for n in range(2):
                product = Signal(signed(bits), name=f"{name}_product_{n}", reset_less=True)
                m.d.sync += product.eq(elements[n] * others[n])
                products.append(product)
            both = Signal(signed(bits + 1), name=f"{name}_both", reset_less=True)
            m.d.sync += both.eq(products[0] + products[1])
            total = Signal(signed(bits + pair_bits + 1), name=f"{name}_total", reset_less=True)
            with m.If(valids[at + 2]):
                m.d.sync += total.eq(Mux(first, 0, total) + both)
            totals[name] = total

        done, pair = valids[-1] & pairs[-1].last, pairs[-1]
        group = pair.index[pair_bits:]
        write = groups.write_port()
        m.d.comb += [
            write.en.eq(done),
            write.addr.eq(Cat(pair.token, group[: len(write.addr) - len(pair.token)])),
            write.data.square.eq(totals["square"]),
            write.data.dots[0].eq(totals["dot_0"]),
            write.data.dots[1].eq(totals["dot_1"]),
            write.data.exponent.eq(pair.exponent),
        ]
        previous, update = largest.read_port(), largest.write_port()
        higher = ~group.any() | (pair.exponent > previous.data)
        m.d.comb += [
            previous.addr.eq(pairs[-2].token),
            update.en.eq(done & higher),
            update.addr.eq(pair.token),
            update.data.eq(pair.exponent),
        ]
        return done & (group == self.hidden_groups - 1), pair.token, Cat(valids[1:]).any()

    def _finalise(self, m, router, groups, largest, pending, waiting, clear):
        """Work off `pending`, lowest token first; returns (token done, which, working)."""
        c = self._config
        token = Signal(token_shape(c))
        chosen = Signal(token_shape(c))
        for n in reversed(range(c.max_chunk)):
            with m.If(pending[n]):
                m.d.comb += chosen.eq(n)

        group = Signal(range(c.max_hidden // c.group))
        step = Signal(range(self._NORM_STEP + 1))
        issue, done = Signal(), Signal()
        in_flight = Signal(self._ALIGN_CYCLES - 1)
        m.d.sync += in_flight.eq(Cat(issue, in_flight))
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.sync += [token.eq(chosen), group.eq(0), step.eq(0)]
                with m.If(waiting):
                    m.d.comb += clear.eq(1)
                    m.next = "ALIGN"
            with m.State("ALIGN"):
                m.d.comb += issue.eq(1)
                m.d.sync += group.eq(group + 1)
                with m.If(group == self.hidden_groups - 1):
                    m.next = "SETTLE"
            with m.State("SETTLE"), m.If(~in_flight[:-1].any()):
                m.next = "CONVERT"
            with m.State("CONVERT"):
                m.d.sync += step.eq(step + 1)
                with m.If(step == self._NORM_STEP):
                    m.d.comb += done.eq(1)
                    m.next = "IDLE"

        sums, exponent = self._align(m, router, groups, largest, token, group, in_flight, clear)
        self._convert(m, router, sums, exponent, token, step, done)
        return done, token, ~fsm.ongoing("IDLE")

    def _align(self, m, router, groups, largest, token, group, in_flight, clear):
        """Shift each group's sums to the token's largest exponent and add; returns (sums, it)."""
        at = RouterBuffer.READ_CYCLES
        read, top = groups.read_port(), largest.read_port()
        m.d.comb += [
            read.addr.eq(Cat(token, group)),
            router.group.eq(group),
            top.addr.eq(token),
        ]
        record = delay(m, read.data, at - 1, name="record")
        down = Signal(9)
        m.d.comb += down.eq(top.data - record.exponent)
        distances = [down << 1]
        for n in range(2):
            distances.append(down + router.largest[n] - router.exponents[n])
        values = [
            Cat(Const(0, SQUARE_GUARD_BITS), record.square, Const(0, 1)),
            *(Cat(Const(0, ROUTER_GUARD_BITS), record.dots[n]) for n in range(2)),
        ]
        sums = []
        for n, (distance, value) in enumerate(zip(distances, values, strict=True)):
            wide = Signal(11, name=f"distance_{n}")
            shift = Signal(6, name=f"shift_{n}", reset_less=True)
            operand = Signal(signed(len(value)), name=f"operand_{n}", reset_less=True)
            shifted = Signal(signed(len(value)), name=f"shifted_{n}", reset_less=True)
            total = Signal(signed(ACCUMULATOR_BITS), name=f"sum_{n}", reset_less=True)
            m.d.comb += wide.eq(distance)
            m.d.sync += [
                shift.eq(Mux(wide > _SHIFT_MAX, _SHIFT_MAX, wide[:6])),
                operand.eq(value),
                shifted.eq(operand >> shift),
            ]
            with m.If(clear):
                m.d.sync += total.eq(0)
            with m.Elif(in_flight[-1]):
                m.d.sync += total.eq(total + shifted)
            sums.append(total)
        return sums, top.data

    def _convert(self, m, router, sums, exponent, token, step, done) -> None:
        """Norm and logits, one behind the other through one converter and one adder."""
        c = self._config
        m.submodules.convert = convert = IntToFp(bits=ACCUMULATOR_BITS)
        m.submodules.multiply = multiply = FpMultiply()
        m.submodules.add = add = FpAdd()
        m.submodules.rsqrt = rsqrt = Rsqrt()
        # The logits follow the mean so closely that all three meet the adder in consecutive steps.
        first_logit = FpMultiply.PIPELINE_CYCLES + 1
        m.d.comb += [
            convert.mantissa.eq(sums[0]),
            convert.exponent.eq((exponent << 1) - SQUARE_GUARD_BITS),
            multiply.a.eq(convert.o),
            multiply.b.eq(self.inv_hidden),
            add.a.eq(multiply.o),
            add.b.eq(self.epsilon),
            rsqrt.x.eq(add.o),
        ]
        positive = ~add.o[31] & add.o[:31].any()
        for n, skip in enumerate((self.skip_attention, self.skip_mlp)):
            with m.If(step == first_logit + n):
                m.d.comb += [
                    convert.mantissa.eq(sums[1 + n]),
                    convert.exponent.eq(exponent + router.largest[n] - ROUTER_GUARD_BITS),
                ]
            with m.If(step == self._MEAN_STEP + 1 + n):
                m.d.comb += [add.a.eq(convert.o), add.b.eq(router.bias[n])]
            with m.If(step == self._SUM_STEP + 1 + n):
                m.d.sync += skip.bit_select(token, 1).eq(positive)

        m.submodules.norms = norms = memory.Memory(
            shape=unsigned(32), depth=1 << token_shape(c).width, init=[]
        )
        write, read = norms.write_port(), norms.read_port()
        m.d.comb += [
            write.en.eq(done),
            write.addr.eq(token),
            write.data.eq(rsqrt.o),
            read.addr.eq(self.norm_token),
            self.norm.eq(read.data),
        ]
