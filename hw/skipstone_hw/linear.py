"""LINEAR: streams a matrix past the tokens in the array's lanes.

The matrix is read once, however many tokens are selected: with more than T, tile after tile is
kept in the tile buffer and replayed for each further lane group, weights and scales side by side:
only on the way from memory do scales take a cycle of their own. Words take this way, one per
cycle::

    word and activations ─▶ array ─▶ dot product of the group ─▶ · scale ─▶ >> exponents
      ─▶ + accumulator ─▶ drain buffer ─▶ pairs

The exponents by which a group's dot product is shifted down are known when its last word enters, so
they travel beside it; nothing after the words' handshake ever waits. A block's last word is only
let in once a drain buffer is set aside for the block.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.formats import ACTIVATION_BITS, LINEAR_GUARD_BITS

from .activations import LaneRead, Region
from .array import Array, column_sum_shape
from .layouts import ACCUMULATOR_BITS, PairLayout, token_shape
from .numeric.pipeline import delay
from .passes import LinearCommand, PassLayout, PassPlanner

__all__ = ["Linear", "LinearCommand"]

_SCALE_BITS = 16
_SCALE_MANTISSA_BITS = 11
_SCALE_EXPONENT_BIAS = 25
_SHIFT_BITS = 6
_SHIFT_MAX = (1 << _SHIFT_BITS) - 1
"""Shifts beyond this leave the sign, as this one does."""


class _StageLayout(data.StructLayout):
    """What travels beside a weight word; `lanes` is zero if there is none."""

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "lanes": config.lanes,
                "group_first": 1,
                "group_last": 1,
                "block_first": 1,
                "block_last": 1,
                "buffer": 1,
            }
        )


class Linear(wiring.Component):
    """Unit that executes LINEAR commands.

    One word per cycle is taken without a gap: within a pass, and from pass to pass and command to
    command unless a pass has fewer words than planning the next one takes cycles (T + 3). A block
    leaves as columns / 2 pairs for each of its tokens, one pair per cycle, `PIPELINE_CYCLES` after
    its last word was taken at the earliest. Two blocks may be on their way out; a third one's last
    word is stalled. Activations and norms are read from when the command is accepted.

    Tested with vectors from one group to several runs of scales, all numbers of tokens, scales and
    exponents at their extremes, stalls on both sides and full rate.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    command : In(stream.Signature(LinearCommand(config)))
    words : In(stream.Signature(word_bits))
        The matrix (`skipstone.spec.layout`), once for each command.
    o : Out(stream.Signature(PairLayout(config)))
        Tile by tile, lane group by lane group, block by block, token by token.
    lanes : Out(LaneRead(config)).array(T)
    norm_token : Out(token_shape(config))
    norm : In(32)
        1 / rms of a token, binary32; see `PassPlanner`.
    array_valid : Out(1)
    array_lanes : Out(T)
    array_word : Out(word_bits)
    array_rows : Out(ArrayLayout(ArrayLayout(signed(12), R), T))
        To the array, for mode LINEAR.
    sums : In(ArrayLayout(ArrayLayout(column_sum_shape(config), C), T))
        From the array.
    busy : Out(1)
        A word was taken.
    stall_words : Out(1)
        A word was wanted and there was none.
    stall_drain : Out(1)
        A word waited for a drain buffer.
    idle : Out(1)
        No command in work, nothing left to send.
    """

    DRAIN_BUFFERS = 2

    command: stream.Interface
    words: stream.Interface
    o: stream.Interface
    lanes: list[wiring.PureInterface]
    norm_token: Signal
    norm: Signal
    array_valid: Signal
    array_lanes: Signal
    array_word: Signal
    array_rows: data.View
    sums: data.View
    busy: Signal
    stall_words: Signal
    stall_drain: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = c = config

        def by_lane(shape, count: int) -> data.ArrayLayout:
            return data.ArrayLayout(data.ArrayLayout(shape, count), c.lanes)

        super().__init__(
            {
                "command": In(stream.Signature(LinearCommand(c))),
                "words": In(stream.Signature(c.word_bits)),
                "o": Out(stream.Signature(PairLayout(c))),
                "lanes": Out(LaneRead(c)).array(c.lanes),
                "norm_token": Out(token_shape(c)),
                "norm": In(32),
                "array_valid": Out(1),
                "array_lanes": Out(c.lanes),
                "array_word": Out(c.word_bits),
                "array_rows": Out(by_lane(signed(ACTIVATION_BITS), c.rows)),
                "sums": In(by_lane(column_sum_shape(c), c.columns)),
                "busy": Out(1),
                "stall_words": Out(1),
                "stall_drain": Out(1),
                "idle": Out(1),
            }
        )
        # A dot product appears this long after its last word entered the array.
        self._dot_cycles = Array.PIPELINE_CYCLES + (c.steps_per_group > 1)

    @property
    def PIPELINE_CYCLES(self) -> int:
        """From a block's last word to its first pair."""
        return 1 + self._dot_cycles + 4

    def elaborate(self, platform):
        m = Module()
        m.submodules.planner = planner = PassPlanner(config=self._config)
        m.d.comb += [
            planner.command.payload.eq(self.command.payload),
            planner.command.valid.eq(self.command.valid),
            self.command.ready.eq(planner.command.ready),
            self.norm_token.eq(planner.norm_token),
            planner.norm.eq(self.norm),
        ]

        running = Signal()
        current = Signal(PassLayout(self._config))
        block = Signal(16)
        free = Signal(range(self.DRAIN_BUFFERS + 1), init=self.DRAIN_BUFFERS)
        reserved = Signal()  # by a block's last word
        returned = Signal()  # by its last pair
        m.d.sync += free.eq(free + returned - reserved)
        m.d.comb += self.idle.eq(
            planner.idle & ~running & (free == self.DRAIN_BUFFERS) & ~self.o.valid
        )

        entering, scales = self.build_words(m, planner.o, running, current, block, free, reserved)
        sizes = self.build_exponents(m, entering, current, scales)
        terms, arriving = self.build_terms(m, entering, *sizes)
        blocks = self.build_accumulators(m, terms, arriving)
        self.build_drain(m, blocks, arriving, current, block, reserved, entering, returned)
        return m

    def build_words(
        self,
        m: Module,
        passes: stream.Interface,
        running: Signal,
        current: data.View,
        block: Signal,
        free: Signal,
        reserved: Signal,
    ) -> tuple[data.View, Value]:
        """Take words; in the next cycle weights enter the array.

        Returns what travels beside them, and the scales of the group that the next word belongs to,
        one for each column.
        """
        c = self._config
        steps = c.steps_per_group
        group = Signal(16)
        word = Signal(16)  # of the block
        step = Signal(range(steps))
        place = Signal(range(c.groups_per_scale_word))  # of the group in its run
        wants_scales = Signal()
        scales = Signal(c.word_bits)

        from_memory = scales[: _SCALE_BITS * c.columns]
        ends_group, ends_pass = Signal(), Signal()
        replay, replayed_scales = self.build_tile(
            m, current, from_memory, weight := Signal(), ends_group, ends_pass
        )
        source = Mux(current.replayed, replay, self.words.payload)
        available = self.words.valid | current.replayed
        last_step = step == steps - 1
        group_end, block_end = Signal.like(group), Signal.like(block)
        last_group = group == group_end
        ends_block = Signal()
        blocked = Signal()
        taken = Signal()
        m.d.comb += [
            ends_group.eq(weight & last_step),
            ends_block.eq(~wants_scales & last_step & last_group),
            ends_pass.eq(ends_block & (block == block_end)),
            blocked.eq(ends_block & (free == 0)),
            self.words.ready.eq(running & ~blocked & ~current.replayed),
            taken.eq(running & ~blocked & available),
            weight.eq(taken & ~wants_scales),
            reserved.eq(taken & ends_block),
            self.busy.eq(taken),
            self.stall_words.eq(running & ~blocked & ~available),
            self.stall_drain.eq(running & blocked & available),
            passes.ready.eq(~running | (taken & ends_pass)),
        ]

        with m.If(taken):
            with m.If(wants_scales):
                m.d.sync += [wants_scales.eq(0), scales.eq(self.words.payload)]
            with m.Else():
                m.d.sync += [word.eq(word + 1), step.eq(step + 1)]
                with m.If(last_step):
                    m.d.sync += [
                        step.eq(0),
                        group.eq(group + 1),
                        place.eq(place + 1),
                        wants_scales.eq((place == c.groups_per_scale_word - 1) & ~current.replayed),
                        scales.eq(scales >> (_SCALE_BITS * c.columns)),
                    ]
            with m.If(ends_block):
                m.d.sync += [
                    block.eq(block + 1),
                    group.eq(0),
                    word.eq(0),
                    place.eq(0),
                    wants_scales.eq(~current.replayed),
                ]
            with m.If(ends_pass):
                m.d.sync += running.eq(0)
        with m.If(passes.valid & passes.ready):
            m.d.sync += [
                running.eq(1),
                current.eq(passes.payload),
                group_end.eq(passes.payload.groups - 1),
                block_end.eq(passes.payload.blocks - 1),
                block.eq(0),
                wants_scales.eq(~passes.payload.replayed),
            ]

        for i, lane in enumerate(self.lanes):
            m.d.comb += [
                lane.en.eq(weight & current.lanes[i]),
                lane.region.eq(Mux(current.source, Region.ACTIVATION, Region.RESIDUAL)),
                lane.token.eq(current.tokens[i]),
                lane.word.eq(word),
                lane.group.eq(group),
                self.array_rows[i].eq(lane.mantissas),
            ]
        entering = Signal(_StageLayout(c))
        buffer = Signal()
        m.d.sync += [
            buffer.eq(buffer ^ reserved),
            entering.lanes.eq(Mux(weight, current.lanes, 0)),
        ]
        with m.If(weight):
            m.d.sync += [
                self.array_word.eq(source),
                entering.group_first.eq(step == 0),
                entering.group_last.eq(last_step),
                entering.block_first.eq(group == 0),
                entering.block_last.eq(last_group),
                entering.buffer.eq(buffer),
            ]
        m.d.comb += [
            self.array_valid.eq(entering.lanes.any()),
            self.array_lanes.eq(entering.lanes),
        ]
        return entering, Mux(current.replayed, replayed_scales, from_memory)

    def build_tile(
        self,
        m: Module,
        current: data.View,
        scales: Value,
        weight: Signal,
        ends_group: Signal,
        ends_pass: Signal,
    ) -> tuple[Value, Value]:
        """The tile buffers, of weights and of groups' scales: written by a pass that is kept;
        returns what a replay takes of them."""
        c = self._config
        replays = []
        for name, of_memory, goes_on, depth in (
            ("tile", self.words.payload, weight, c.tile_groups * c.steps_per_group),
            ("tile_scales", scales, ends_group, c.tile_groups),
        ):
            if c.max_chunk <= c.lanes:
                replays.append(Const(0, len(of_memory)))
                continue
            m.submodules[name] = tile = memory.Memory(
                shape=unsigned(len(of_memory)), depth=depth, init=[]
            )
            write, read = tile.write_port(), tile.read_port()
            place = Signal(range(depth), name=f"{name}_place")
            after = Signal(range(depth), name=f"{name}_after")
            m.d.comb += [
                after.eq(place),
                write.addr.eq(place),
                write.data.eq(of_memory),
                write.en.eq(goes_on & current.kept),
                read.addr.eq(after),
            ]
            with m.If(goes_on):
                m.d.comb += after.eq(
                    Mux(ends_pass | ~(current.kept | current.replayed), 0, place + 1)
                )
            m.d.sync += place.eq(after)
            replays.append(read.data)
        words, groups = replays
        return words, groups

    def build_exponents(
        self, m: Module, entering: data.View, current: data.View, scales: Value
    ) -> tuple[list[Value], list[Value], list[Value]]:
        """Scale mantissas and shifts by column, shifts by lane, when the dot product appears."""
        c = self._config
        wait = self._dot_cycles - 1
        exponent = delay(m, current.exponent, 1, name="matrix_exponent")
        of_group = delay(m, scales, 1, name="group_scales")

        mantissas, column_shifts, lane_shifts = [], [], []
        for column in range(c.columns):
            scale = of_group.word_select(column, _SCALE_BITS)
            normal = scale[10:15].any()
            gap = exponent + _SCALE_EXPONENT_BIAS - Mux(normal, scale[10:15], 1)
            mantissa = Signal(_SCALE_MANTISSA_BITS, name=f"mantissa_{column}", reset_less=True)
            shift = Signal(_SHIFT_BITS, name=f"column_shift_{column}", reset_less=True)
            m.d.sync += [mantissa.eq(Cat(scale[:10], normal)), shift.eq(_saturate(gap))]
            mantissas.append(delay(m, mantissa, wait, name=f"mantissa_{column}"))
            column_shifts.append(delay(m, shift, wait, name=f"column_shift_{column}"))
        for i, lane in enumerate(self.lanes):
            shift = Signal(_SHIFT_BITS, name=f"lane_shift_{i}", reset_less=True)
            with m.If(entering.lanes[i]):
                m.d.sync += shift.eq(_saturate(lane.exponent_max - lane.exponent))
            lane_shifts.append(delay(m, shift, wait, name=f"lane_shift_{i}"))
        return mantissas, column_shifts, lane_shifts

    def build_terms(
        self,
        m: Module,
        entering: data.View,
        mantissas: list[Value],
        column_shifts: list[Value],
        lane_shifts: list[Value],
    ) -> tuple[list[list[Signal]], data.View]:
        """Dot products of groups, scaled and shifted; and what travels beside them."""
        c = self._config
        dot_shape = signed(ACTIVATION_BITS + 4 + exact_log2(c.group))
        scaled_shape = signed(dot_shape.width + _SCALE_MANTISSA_BITS)
        term_shape = signed(scaled_shape.width + LINEAR_GUARD_BITS)
        at_sums = delay(m, entering, Array.PIPELINE_CYCLES, name="at_sums", reset=True)
        at_dot = delay(
            m, at_sums, self._dot_cycles - Array.PIPELINE_CYCLES, name="at_dot", reset=True
        )
        at_scaled = delay(m, at_dot, 1, name="at_scaled", reset=True)
        at_terms = delay(m, at_scaled, 1, name="at_terms", reset=True)

        terms = []
        for i in range(c.lanes):
            row = []
            for column in range(c.columns):
                name = f"{i}_{column}"
                dot = self.sums[i][column]
                if c.steps_per_group > 1:
                    total = Signal(dot_shape, name=f"dot_{name}", reset_less=True)
                    with m.If(at_sums.lanes[i]):
                        m.d.sync += total.eq(Mux(at_sums.group_first, 0, total) + dot)
                    dot = total
                scaled = Signal(scaled_shape, name=f"scaled_{name}", reset_less=True)
                shift = Signal(_SHIFT_BITS, name=f"shift_{name}", reset_less=True)
                with m.If(at_dot.lanes[i] & at_dot.group_last):
                    m.d.sync += [
                        scaled.eq(dot[: dot_shape.width].as_signed() * mantissas[column]),
                        shift.eq(_saturate(lane_shifts[i] + column_shifts[column])),
                    ]
                term = Signal(term_shape, name=f"term_{name}", reset_less=True)
                with m.If(at_scaled.lanes[i] & at_scaled.group_last):
                    m.d.sync += term.eq((scaled << LINEAR_GUARD_BITS) >> shift)
                row.append(term)
            terms.append(row)
        return terms, at_terms

    def build_accumulators(
        self, m: Module, terms: list[list[Signal]], arriving: data.View
    ) -> list[list[Value]]:
        """Add up the groups; the sum with a block's last one goes to a drain buffer.

        Returns the buffers, the accumulators of each lane after lane.
        """
        buffers: list[list[Value]] = [[] for _ in range(self.DRAIN_BUFFERS)]
        for i, row in enumerate(terms):
            active = arriving.lanes[i] & arriving.group_last
            for column, term in enumerate(row):
                name = f"{i}_{column}"
                accumulator = Signal(
                    signed(ACCUMULATOR_BITS), name=f"accumulator_{name}", reset_less=True
                )
                total = Signal(signed(ACCUMULATOR_BITS), name=f"total_{name}")
                m.d.comb += total.eq(Mux(arriving.block_first, 0, accumulator) + term)
                with m.If(active & ~arriving.block_last):
                    m.d.sync += accumulator.eq(total)
                for b, buffer in enumerate(buffers):
                    drained = Signal(
                        signed(ACCUMULATOR_BITS), name=f"drained_{b}_{name}", reset_less=True
                    )
                    with m.If(active & arriving.block_last & (arriving.buffer == b)):
                        m.d.sync += drained.eq(total)
                    buffer.append(drained)
        return buffers

    def build_drain(
        self,
        m: Module,
        buffers: list[list[Value]],
        arriving: data.View,
        current: data.View,
        block: Signal,
        reserved: Signal,
        entering: data.View,
        returned: Signal,
    ) -> None:
        """Send the blocks in their order, pair by pair."""
        c = self._config
        pair_bits = exact_log2(c.columns // 2)
        passes, maxima, indices, full = [], [], [], Signal(self.DRAIN_BUFFERS)
        # What belongs to a block is kept when its last word is taken, exponents a cycle later.
        next_buffer = Signal()
        m.d.sync += next_buffer.eq(next_buffer ^ reserved)
        for b in range(self.DRAIN_BUFFERS):
            kept = Signal(PassLayout(c), name=f"pass_{b}")
            maximum = Signal(data.ArrayLayout(signed(8), c.lanes), name=f"maximum_{b}")
            index = Signal(16, name=f"block_{b}")
            with m.If(reserved & (next_buffer == b)):
                m.d.sync += [kept.eq(current), index.eq(current.first_block + block)]
            with m.If(entering.group_last & entering.block_last & (entering.buffer == b)):
                for i, lane in enumerate(self.lanes):
                    with m.If(entering.lanes[i]):
                        m.d.sync += maximum[i].eq(lane.exponent_max)
            with m.If(
                arriving.lanes.any()
                & arriving.group_last
                & arriving.block_last
                & (arriving.buffer == b)
            ):
                m.d.sync += full[b].eq(1)
            passes.append(kept)
            maxima.append(maximum)
            indices.append(index)

        buffer = Signal()
        place = Signal(max(1, ceil_log2(c.lanes)) + pair_bits)  # lane and pair
        pair, lane = place[:pair_bits], place[pair_bits:]
        moving = Signal()
        last_lane = Signal()
        m.d.comb += moving.eq(full.bit_select(buffer, 1) & (~self.o.valid | self.o.ready))
        out = self.o.payload
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(moving):
            m.d.sync += [self.o.valid.eq(1), place.eq(place + 1)]
            with m.Switch(buffer):
                for b in range(self.DRAIN_BUFFERS):
                    with m.Case(b):
                        m.d.sync += [
                            out.kind.eq(passes[b].kind),
                            out.index.eq(Cat(pair, indices[b])),
                        ]
                        with m.Switch(lane):
                            for i in range(c.lanes):
                                with m.Case(i):
                                    after = passes[b].lanes[i + 1 :]
                                    m.d.comb += last_lane.eq(~after.any())
                                    m.d.sync += [
                                        out.token.eq(passes[b].tokens[i]),
                                        out.scale.eq(passes[b].scales[i]),
                                        out.exponent.eq(
                                            maxima[b][i] + passes[b].exponent - LINEAR_GUARD_BITS
                                        ),
                                    ]
                        with m.Switch(place):
                            for n in range(c.lanes * c.columns // 2):
                                with m.Case(n):
                                    m.d.sync += [
                                        out.accumulator[0].eq(buffers[b][2 * n]),
                                        out.accumulator[1].eq(buffers[b][2 * n + 1]),
                                    ]
            with m.If(pair.all() & last_lane):
                m.d.comb += returned.eq(1)
                m.d.sync += [place.eq(0), buffer.eq(~buffer), full.bit_select(buffer, 1).eq(0)]


def _saturate(shift: Value) -> Value:
    """A shift that is not negative, in `_SHIFT_BITS` bits."""
    return Mux(shift[_SHIFT_BITS:].any(), _SHIFT_MAX, shift[:_SHIFT_BITS])
