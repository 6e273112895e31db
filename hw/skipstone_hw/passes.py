"""Passes of a matrix: which tokens of a LINEAR command share one, and in which lanes.

Up to T tokens share a pass over the whole matrix. More are gathered into full lane groups, and the
matrix is cut into tiles of `tile_blocks` blocks: every lane group passes a tile before the next
tile begins, so that each word is read from memory once and replayed from the tile buffer.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig

from .crossing import crossing_cycles
from .layouts import PairKind, token_shape
from .numeric.fp32 import ONE
from .numeric.pipeline import delay

__all__ = ["LinearCommand", "PassLayout", "PassPlanner"]


class LinearCommand(data.StructLayout):
    """Multiply a matrix of groups · G inputs, blocks · C outputs with the selected tokens' vectors.

    `exponent` is the matrix' exponent, not below any of its scales'; `norm` asks for 1 / rms as the
    pairs' scale; bit i of `select` (which is not zero) stands for token i.
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "groups": 16,
                "blocks": 16,
                "exponent": signed(8),
                "source": unsigned(1),  # `isa.Source`
                "kind": PairKind,
                "norm": 1,
                "select": config.max_chunk,
            }
        )


class PassLayout(data.StructLayout):
    """One pass over `blocks` blocks from `first_block` on: up to T tokens, ascending from lane 0;
    `lanes` has a bit for each. The words come from the tile buffer if it is `replayed`, otherwise
    from memory, and are put into the tile buffer if others follow (`kept`).
    """

    def __init__(self, config: CoreConfig):
        super().__init__(
            {
                "groups": 16,
                "first_block": 16,
                "blocks": 16,
                "kept": 1,
                "replayed": 1,
                "exponent": signed(8),
                "source": unsigned(1),
                "kind": PairKind,
                "lanes": config.lanes,
                "tokens": data.ArrayLayout(token_shape(config), config.lanes),
                "scales": data.ArrayLayout(32, config.lanes),
            }
        )


class PassPlanner(wiring.Component):
    """Planner that distributes a command's tokens over passes and lanes.

    A pass of n tokens is offered n + 2 cycles after its command was accepted, or after the pass
    before it was taken; later by what a norm takes longer. The next command is accepted when the
    last pass was taken.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    command : In(stream.Signature(LinearCommand(config)))
    o : Out(stream.Signature(PassLayout(config)))
    norm_token : Out(token_shape(config))
    norm : In(32)
        1 / rms of the token given in the cycle before, binary32; earlier by the way there and back
        if the norms lie in another region (`crossing_cycles`).
    idle : Out(1)
        No command is held.
    """

    command: stream.Interface
    o: stream.Interface
    norm_token: Signal
    norm: Signal
    idle: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "command": In(stream.Signature(LinearCommand(config))),
                "o": Out(stream.Signature(PassLayout(config))),
                "norm_token": Out(token_shape(config)),
                "norm": In(32),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        command = Signal(LinearCommand(c))
        remaining = Signal(c.max_chunk)  # tokens that have yet to pass the tile
        first_block, blocks = Signal(16), Signal(16)  # of the tile, and from there to the end
        begun = Signal()  # a lane group has passed the tile
        tokens = Signal.like(self.o.p.tokens)
        scales = Signal.like(self.o.p.scales)
        lane = Signal(c.lanes, init=1)  # one-hot
        lanes = Signal.like(lane)
        captured = Signal.like(lane)

        for token in reversed(range(len(remaining))):
            with m.If(remaining[token]):
                m.d.comb += self.norm_token.eq(token)
        m.d.sync += captured.eq(0)
        answered, underway = captured, []  # lanes whose norm is there, and on its way
        for n in range(2 * crossing_cycles(c)):
            underway.append(answered)
            answered = delay(m, answered, 1, name=f"captured_{n}", reset=True)
        for i in range(c.lanes):
            with m.If(answered[i]):
                m.d.sync += scales[i].eq(Mux(command.norm, self.norm, ONE))

        last_group, last_tile = Signal(), Signal()
        tiled = ~last_group | begun
        m.d.comb += [
            last_group.eq(~remaining.any()),
            last_tile.eq(~tiled | (blocks <= c.tile_blocks)),
            self.o.p.first_block.eq(first_block),
            self.o.p.blocks.eq(Mux(last_tile, blocks, c.tile_blocks)),
            self.o.p.kept.eq(~last_group & ~begun),
            self.o.p.replayed.eq(begun),
            self.o.p.lanes.eq(lanes),
            self.o.p.tokens.eq(tokens),
            self.o.p.scales.eq(scales),
        ]
        for name in ("groups", "exponent", "source", "kind"):
            m.d.comb += getattr(self.o.p, name).eq(getattr(command, name))

        with m.FSM() as fsm:
            m.d.comb += self.idle.eq(fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += [
                    command.eq(self.command.payload),
                    remaining.eq(self.command.payload.select),
                    first_block.eq(0),
                    blocks.eq(self.command.payload.blocks),
                    begun.eq(0),
                    lane.eq(1),
                    lanes.eq(0),
                ]
                with m.If(self.command.valid):
                    m.next = "ASSIGN"
            with m.State("ASSIGN"):
                rest = remaining & (remaining - 1)
                m.d.sync += [
                    remaining.eq(rest),
                    lane.eq(lane << 1),
                    lanes.eq(lanes | lane),
                    captured.eq(lane),
                ]
                for i in range(c.lanes):
                    with m.If(lane[i]):
                        m.d.sync += tokens[i].eq(self.norm_token)
                with m.If(lane[-1] | ~rest.any()):
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                m.next = "OFFER"
                if underway:
                    with m.If(Cat(underway).any()):
                        m.next = "SETTLE"
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [lane.eq(1), lanes.eq(0), begun.eq(~last_group)]
                    m.next = "ASSIGN"
                    with m.If(last_group):
                        m.d.sync += [
                            remaining.eq(command.select),
                            first_block.eq(first_block + c.tile_blocks),
                            blocks.eq(blocks - c.tile_blocks),
                        ]
                        with m.If(last_tile):
                            m.next = "IDLE"
        return m
