"""The activation buffer: what the array multiplies, as block floating point, one copy per lane.

Lanes work on different tokens in the same cycle, so each has its own copy of everything: one write
reaches all of them, each is read on its own.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS

from .layouts import MantissaPairLayout, PairKind, token_shape
from .numeric.pipeline import delay

__all__ = ["Activations", "LaneRead", "Region"]


class Region(enum.Enum, shape=unsigned(2)):  # type: ignore[call-arg]
    """The vectors that are kept of each token of the chunk."""

    RESIDUAL = 0
    """The residual stream, BFP(12, group)."""
    ACTIVATION = 1
    """Attention output or FFN inner, BFP(12, group)."""
    QUERY = 2
    """Rotated queries, BFP(12, head_dim)."""


class LaneRead(wiring.Signature):
    """Read port of one lane, seen from the reader.

    Results appear in the cycle after the address and stay while `en` is low.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    en : Out(1)
    region : Out(Region)
    token : Out(token_shape(config))
    word : Out(range(words of the longest region))
        Elements word · rows to word · rows + rows - 1.
    group : Out(range(groups of the longest region))
        Group of RESIDUAL and ACTIVATION, head of QUERY.
    mantissas : In(ArrayLayout(signed(12), rows))
        Of `word`.
    exponent : In(signed(8))
        Of `group`.
    exponent_max : In(signed(8))
        Largest exponent of the token's whole vector; meaningless for QUERY.
    """

    def __init__(self, config: CoreConfig):
        longest = max(config.max_hidden, config.max_activation)
        groups = max(longest // config.group, config.max_query // config.min_head_dim)
        super().__init__(
            {
                "en": Out(1),
                "region": Out(Region),
                "token": Out(token_shape(config)),
                "word": Out(bits_for(longest // config.rows - 1)),
                "group": Out(bits_for(groups - 1)),
                "mantissas": In(data.ArrayLayout(signed(ACTIVATION_BITS), config.rows)),
                "exponent": In(signed(8)),
                "exponent_max": In(signed(8)),
            }
        )


class Activations(wiring.Component):
    """Activation buffer with one read port per lane.

    Takes a pair in every cycle and never stalls. Groups come whole and a vector's groups in
    ascending order; `rows` must not exceed a group or head_dim. What a pair completes (a word of
    `rows` mantissas; with a group's last pair its exponent and the running maximum) is returned to
    addresses given at least `WRITE_CYCLES` later. The maximum starts anew with the first group of
    a vector. KEY and VALUE pairs are ignored.

    Tested with all regions, head sizes and tokens, written at full rate and with gaps.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    i : In(stream.Signature(MantissaPairLayout(config)))
        Always ready.
    head_dim_log2 : In(3)
        5 to 7; must not change while queries come.
    lanes : In(LaneRead(config)).array(config.lanes)
    idle : Out(1)
        All that was accepted can be read.
    """

    WRITE_CYCLES = 3

    i: stream.Interface
    head_dim_log2: Signal
    lanes: list[wiring.PureInterface]
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(MantissaPairLayout(config))),
                "head_dim_log2": In(3),
                "lanes": In(LaneRead(config)).array(config.lanes),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        sizes = (c.max_hidden, c.max_activation, c.max_query)
        words = [size // c.rows for size in sizes]
        groups = [
            size // unit
            for size, unit in zip(sizes, (c.group, c.group, c.min_head_dim), strict=True)
        ]
        pair_bits = exact_log2(c.rows // 2)
        group_bits = exact_log2(c.group // 2)

        m.d.comb += self.i.ready.eq(1)
        region, wanted = _region(m, self.i.p.kind)
        stored = delay(m, self.i.valid & wanted, 1, name="stored", reset=True)
        pair = delay(m, self.i.p, 1, name="pair")
        pair_region = delay(m, region, 1, name="pair_region")

        # A word is put together in a shift register.
        older = Signal(2 * ACTIVATION_BITS * (c.rows // 2 - 1), reset_less=True)
        gathered = Cat(older, pair.mantissa.as_value())
        with m.If(stored):
            m.d.sync += older.eq(gathered[2 * ACTIVATION_BITS :])
        by_head = Signal(bits_for(c.max_query // c.min_head_dim - 1))
        in_query = pair_region == Region.QUERY
        m.d.comb += by_head.eq(pair.index >> (self.head_dim_log2 - 1).as_unsigned()[:3])
        group = Mux(in_query, by_head, pair.index[group_bits:])

        word_write = _Write(m, "word", ACTIVATION_BITS * c.rows)
        exponent_write = _Write(m, "exponent", 8)
        largest_write = _Write(m, "largest", 8)
        previous = Signal(signed(8))
        restart = ~pair.index[group_bits:].any()
        last = stored & pair.last
        word_write.put(
            stored & pair.index[:pair_bits].all(),
            _address(words, pair_region, pair.token, pair.index[pair_bits:]),
            gathered,
        )
        exponent_write.put(last, _address(groups, pair_region, pair.token, group), pair.exponent)
        largest_write.put(
            last & ~in_query,
            _largest_address(pair_region, pair.token),
            Mux(restart | (pair.exponent > previous), pair.exponent, previous),
        )
        busy = stored | word_write.en | exponent_write.en
        m.d.comb += self.idle.eq(~busy)

        token_count = 1 << token_shape(c).width

        def copy(name: str, write: _Write, depth: int, address: Value, en: Value | int) -> Value:
            storage = memory.Memory(shape=unsigned(len(write.data)), depth=depth, init=[])
            m.submodules[name] = storage
            port, read = storage.write_port(), storage.read_port()
            m.d.comb += [
                port.en.eq(write.en),
                port.addr.eq(write.address),
                port.data.eq(write.data),
                read.en.eq(en),
                read.addr.eq(address),
            ]
            return read.data

        depths = (sum(words) * token_count, sum(groups) * token_count, 2 * token_count)
        address = _largest_address(region, self.i.p.token)
        m.d.comb += previous.eq(copy("largest", largest_write, depths[2], address, 1))
        for n, lane in enumerate(self.lanes):
            where = lane.region, lane.token
            word = _address(words, *where, lane.word)
            group = _address(groups, *where, lane.group)
            largest = _largest_address(*where)
            m.d.comb += [
                lane.mantissas.eq(copy(f"words_{n}", word_write, depths[0], word, lane.en)),
                lane.exponent.eq(copy(f"exponents_{n}", exponent_write, depths[1], group, lane.en)),
                lane.exponent_max.eq(
                    copy(f"largest_{n}", largest_write, depths[2], largest, lane.en)
                ),
            ]
        return m


class _Write:
    """Registers in front of the copies' write ports."""

    def __init__(self, m: Module, name: str, data_bits: int):
        self._m = m
        self._name = name
        self.en = Signal(name=f"{name}_write_en")
        self.data = Signal(data_bits, name=f"{name}_write_data", reset_less=True)
        self.address: Signal

    def put(self, en: Value, address: Value, value: Value) -> None:
        """Write `value` in the next cycle if `en`."""
        self.address = Signal(len(address), name=f"{self._name}_write_address", reset_less=True)
        self._m.d.sync += [self.en.eq(en), self.address.eq(address), self.data.eq(value)]


def _region(m: Module, kind: Value) -> tuple[Signal, Signal]:
    """Where pairs of a kind belong, and whether they are kept here at all."""
    region, wanted = Signal(Region), Signal()
    m.d.comb += wanted.eq(1)
    with m.Switch(kind):
        with m.Case(PairKind.RESIDUAL, PairKind.EMBED):
            m.d.comb += region.eq(Region.RESIDUAL)
        with m.Case(PairKind.SWIGLU, PairKind.ATTENTION):
            m.d.comb += region.eq(Region.ACTIVATION)
        with m.Case(PairKind.QUERY):
            m.d.comb += region.eq(Region.QUERY)
        with m.Default():
            m.d.comb += wanted.eq(0)
    return region, wanted


def _address(counts: list[int], region: Value, token: Value, index: Value) -> Value:
    """Regions follow each other; the token comes lowest, so no length has to be a power of two."""
    start = Mux(
        region == Region.QUERY,
        counts[0] + counts[1],
        Mux(region == Region.ACTIVATION, counts[0], 0),
    )
    return Cat(token, (start + index)[: bits_for(sum(counts) - 1)])


def _largest_address(region: Value, token: Value) -> Value:
    return Cat(token, region == Region.ACTIVATION)
