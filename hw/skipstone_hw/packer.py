"""Grouping of binary32 results into block floating point, the gateware of `BlockFloat.quantize`.

A group's exponent is known only with its last element, so groups are collected first and converted
on their way out. Outputs of the array arrive a block of columns at a time, token after token, so
groups of several tokens fill at once.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, signed, unsigned
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, ceil_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS, KV_BITS

from .layouts import FloatPairLayout, MantissaPairLayout, PairKind, token_shape
from .numeric.pipeline import delay

__all__ = ["Packer"]

_PAIRS_LOG2 = 6
"""A group has at most 2^6 pairs."""
_BIAS = 127
_FRACTION_BITS = 23
# A group's exponent is e = base − _OFFSET, where base is the shift distance that aligns a number of
# biased exponent 0 with the group; it is at least _BASE_MIN so that e is at least −128.
_OFFSET = _BIAS + ACTIVATION_BITS - 2
_BASE_MIN = _OFFSET - 128
_KV_EXTRA = ACTIVATION_BITS - KV_BITS


class Packer(wiring.Component):
    """Converter of binary32 pairs into block floating point groups.

    Residuals, embeddings, SWIGLU and attention outputs become BFP(12, group), queries
    BFP(12, head_dim), keys and values BFP(8, head_dim) with their mantissas sign-extended. Pairs of
    one vector must arrive in ascending index; pairs of up to `lanes` tokens may interleave in any
    way. Groups leave whole, one after another, in the order in which they were completed.

    A group is collected in one of `slots` parts of a memory, found by its token. One pair per cycle
    is sustained in both directions: completed groups drain while others fill. The input stalls only
    when a pair starts a group and every slot is still filling, queued or draining. A group's first
    pair leaves `PIPELINE_CYCLES` after its last one arrived, if none is queued before it.

    LOGITS pairs must not come here. Subnormal inputs are read as zero. Tested with all kinds and
    head sizes, with values of all exponents, and ties.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : In(stream.Signature(FloatPairLayout(config)))
    o : Out(stream.Signature(MantissaPairLayout(config)))
    head_dim_log2 : In(3)
        5 to 7; must not change while a group is inside.
    idle : Out(1)
        Nothing is inside. Falls in the cycle after a pair was accepted.
    """

    PIPELINE_CYCLES = 6

    i: stream.Interface
    o: stream.Interface
    head_dim_log2: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(FloatPairLayout(config))),
                "o": Out(stream.Signature(MantissaPairLayout(config))),
                "head_dim_log2": In(3),
                "idle": Out(1),
            }
        )

    @property
    def slots(self) -> int:
        """Groups that can be inside at once."""
        return max(2 * self._config.lanes, 3)

    def _queue_layout(self) -> data.StructLayout:
        """A completed group: where it is, what its exponent is, and where it goes."""
        index_bits = len(self.i.p.index)
        return data.StructLayout(
            {
                "slot": range(self.slots),
                "base": 9,
                "kind": PairKind,
                "token": token_shape(self._config),
                "index": index_bits,  # of its last pair
                "mask": _PAIRS_LOG2,  # pairs − 1
            }
        )

    def elaborate(self, platform):
        m = Module()
        slot_shape: Shape = unsigned(bits_for(self.slots - 1))

        m.submodules.pairs = pairs = memory.Memory(
            shape=unsigned(64), depth=self.slots << _PAIRS_LOG2, init=[]
        )
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(
            width=Shape.cast(self._queue_layout()).width, depth=1 << ceil_log2(self.slots)
        )
        released = Signal(slot_shape)
        release = Signal()
        occupied = self._fill(m, pairs.write_port(), queue, release, released)
        draining = self._drain(m, pairs.read_port(), queue, release, released)
        m.d.comb += self.idle.eq(~occupied & ~draining)
        return m

    def _fill(self, m, write, queue, release, released) -> Signal:
        """Collect pairs into slots; returns whether any slot is in use."""
        slots = self.slots
        pair = self.i.p
        used = Signal(slots)
        filling = Signal(slots)
        owner = Signal(data.ArrayLayout(token_shape(self._config), slots))
        top = Signal(data.ArrayLayout(unsigned(8), slots))

        is_kv = Signal()
        by_head = Signal()
        mask = Signal(_PAIRS_LOG2)
        m.d.comb += [
            is_kv.eq((pair.kind == PairKind.KEY) | (pair.kind == PairKind.VALUE)),
            by_head.eq(is_kv | (pair.kind == PairKind.QUERY)),
            mask.eq(
                Mux(
                    by_head,
                    Cat(1, 1, 1, 1, self.head_dim_log2 >= 6, self.head_dim_log2 >= 7),
                    self._config.group // 2 - 1,
                )
            ),
        ]

        # Find the token's slot, or the lowest free one.
        hits = Signal(slots)
        slot = Signal(bits_for(slots - 1))
        m.d.comb += hits.eq(Cat(filling[n] & (owner[n] == pair.token) for n in range(slots)))
        for n in reversed(range(slots)):
            with m.If(~used[n]):
                m.d.comb += slot.eq(n)
        for n in range(slots):
            with m.If(hits[n]):
                m.d.comb += slot.eq(n)
        first = Signal()
        last = Signal()
        accept = Signal()
        m.d.comb += [
            first.eq(~hits.any()),
            last.eq((pair.index[:_PAIRS_LOG2] & mask) == mask),
            self.i.ready.eq(~first | ~used.all()),
            accept.eq(self.i.valid & self.i.ready),
        ]
        with m.If(release):
            m.d.sync += used.bit_select(released, 1).eq(0)
        with m.If(accept):
            m.d.sync += [
                used.bit_select(slot, 1).eq(1),
                filling.bit_select(slot, 1).eq(~last),
                owner[slot].eq(pair.token),
            ]

        # A pair's own exponent: rounding to M − 1 significant bits carries where the M − 1 bits
        # below the leading one are all ones.
        tops: list[Signal] = []
        for value in pair.value:
            wide = value[_FRACTION_BITS - ACTIVATION_BITS + 1 : _FRACTION_BITS]
            narrow = value[_FRACTION_BITS - KV_BITS + 1 : _FRACTION_BITS]
            exponent = value[_FRACTION_BITS : _FRACTION_BITS + 8]
            element = Signal(8, name=f"element_top_{len(tops)}")
            carry = exponent.any() & Mux(is_kv, narrow.all(), wide.all())
            m.d.comb += element.eq(exponent + carry)
            tops.append(element)

        stored = delay(m, accept, 1, name="stored", reset=True)
        stored_pair = delay(m, pair, 1, name="stored_pair")
        stored_slot = delay(m, slot, 1, name="stored_slot")
        stored_first = delay(m, first, 1, name="stored_first")
        stored_last = delay(m, last, 1, name="stored_last")
        stored_mask = delay(m, mask, 1, name="stored_mask")
        stored_kv = delay(m, is_kv, 1, name="stored_kv")
        stored_top = delay(m, Mux(tops[0] > tops[1], tops[0], tops[1]), 1, name="stored_top")
        previous = Signal(8)
        highest = Signal(8)
        m.d.comb += [
            previous.eq(Mux(stored_first, 0, top[stored_slot])),
            highest.eq(Mux(stored_top > previous, stored_top, previous)),
            write.en.eq(stored),
            write.addr.eq(Cat(stored_pair.index[:_PAIRS_LOG2] & stored_mask, stored_slot)),
            write.data.eq(stored_pair.value.as_value()),
        ]
        with m.If(stored):
            m.d.sync += top[stored_slot].eq(highest)

        # One entry per slot: the queue always has room.
        aligned = Signal(9)
        entry = Signal(self._queue_layout())
        m.d.comb += [
            aligned.eq(highest + Mux(stored_kv, _KV_EXTRA, 0)),
            entry.slot.eq(stored_slot),
            entry.base.eq(Mux(aligned < _BASE_MIN, _BASE_MIN, aligned)),
            entry.kind.eq(stored_pair.kind),
            entry.token.eq(stored_pair.token),
            entry.index.eq(stored_pair.index),
            entry.mask.eq(stored_mask),
            queue.w_data.eq(entry),
            queue.w_en.eq(stored & stored_last),
        ]
        return used.any()

    def _drain(self, m, read, queue, release, released) -> Signal:
        """Convert completed groups; returns whether a pair is in the pipeline."""
        advance = Signal()
        entry = data.View(self._queue_layout(), queue.r_data)
        position = Signal(_PAIRS_LOG2)
        final = Signal()
        m.d.comb += [
            final.eq(position == entry.mask),
            read.en.eq(advance),
            read.addr.eq(Cat(position, entry.slot)),
            release.eq(queue.r_rdy & advance & final),
            queue.r_en.eq(release),
            released.eq(entry.slot),
        ]
        with m.If(queue.r_rdy & advance):
            m.d.sync += position.eq(Mux(final, 0, position + 1))

        # The pipeline stands still as a whole while the output waits.
        meta_layout = MantissaPairLayout(self._config)
        meta = Signal(meta_layout)
        mask = Cat(entry.mask, entry.index[_PAIRS_LOG2:] & 0)
        m.d.comb += [
            meta.exponent.eq(entry.base - _OFFSET),
            meta.kind.eq(entry.kind),
            meta.token.eq(entry.token),
            meta.index.eq((entry.index & ~mask) | position),
            meta.last.eq(final),
        ]
        valid = [queue.r_rdy, *(Signal(name=f"valid_{n}") for n in (1, 2, 3))]
        metas = [meta, *(Signal(meta_layout, name=f"meta_{n}", reset_less=True) for n in (1, 2, 3))]
        base = Signal(9, reset_less=True)
        with m.If(advance):
            for n in range(3):
                m.d.sync += [valid[n + 1].eq(valid[n]), metas[n + 1].eq(metas[n])]
            m.d.sync += base.eq(entry.base)
        m.d.comb += [
            advance.eq(~valid[3] | self.o.ready),
            self.o.valid.eq(valid[3]),
            self.o.p.eq(metas[3]),
        ]
        for n in range(2):
            value = Signal(32, name=f"value_{n}")
            m.d.comb += value.eq(read.data.word_select(n, 32))
            mantissa = self._mantissa(m, advance, base, value, str(n))
            m.d.comb += self.o.p.mantissa[n].eq(mantissa)
        return Cat(valid[1:]).any()

    @staticmethod
    def _mantissa(m, advance, base, value, name: str) -> Signal:
        """Round `value` to the group's exponent, nearest even, in two stages."""
        exponent = value[_FRACTION_BITS : _FRACTION_BITS + 8]
        distance = Signal(9, name=f"distance_{name}")
        m.d.comb += distance.eq(base - exponent)

        # Aligned with the exponent of the group's largest element, bit 0 is half a unit of M = 12.
        spare = _FRACTION_BITS + 1 - ACTIVATION_BITS
        head = Signal(ACTIVATION_BITS, name=f"head_{name}", reset_less=True)
        sticky = Signal(name=f"sticky_{name}", reset_less=True)
        shift = Signal(4, name=f"shift_{name}", reset_less=True)
        sign = Signal(name=f"sign_{name}", reset_less=True)
        result = Signal(signed(ACTIVATION_BITS), name=f"mantissa_{name}", reset_less=True)

        shifted = Signal(ACTIVATION_BITS, name=f"shifted_{name}")
        lost = Signal(15, name=f"lost_{name}")
        magnitude = Signal(ACTIVATION_BITS - 1, name=f"magnitude_{name}")
        m.d.comb += [
            Cat(lost, shifted).eq(Cat(Const(0, 15), head) >> shift),
            magnitude.eq(shifted[1:] + (shifted[0] & (sticky | lost.any() | shifted[1]))),
        ]
        with m.If(advance):
            m.d.sync += [
                head.eq(Mux(exponent.any(), Cat(value[spare:_FRACTION_BITS], 1), 0)),
                sticky.eq(exponent.any() & value[:spare].any()),
                shift.eq(Mux(distance > 15, 15, distance[:4])),
                sign.eq(value[31]),
                result.eq(Mux(sign, -magnitude, magnitude)),
            ]
        return result
