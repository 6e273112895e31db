"""The routers' decisions of the chunk: who executes what, and what was executed in all layers."""

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig
from skipstone.spec.records import FORCE

from .embed import InputRecordLayout
from .layouts import token_shape

__all__ = ["Decisions"]


class Decisions(wiring.Component):
    """Decision masks of the current layer, and maps of each token over the layers.

    `route` fixes the masks of `layer` from the routers, or from a token's input record where that
    forces them (SkipDecode, arXiv 2307.02628, and FiRST, arXiv 2410.12513, are such maps). Masks
    and maps show it in the next cycle.

    Tested with whole chunks of all lengths, forced and free tokens mixed.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    clear : In(1)
        Pulse: a chunk begins; forgets its records and maps. The masks stay.
    count : In(range(max_chunk + 1))
        Tokens of the chunk; `present` follows a cycle later.
    record : In(InputRecordLayout())
    record_index : In(token_shape(config))
    record_valid : In(1)
        `record` is that of token `record_index`; tokens without one are free.
    route : In(1)
        Pulse: fix the decisions of `layer`.
    layer : In(range(max_layers))
    skip_attention, skip_mlp : In(max_chunk)
        What the routers say of each token.
    present : Out(max_chunk)
        Tokens of the chunk.
    attention, mlp : Out(max_chunk)
        Tokens that execute attention or the MLP in the layer fixed last.
    executed_attention, executed_mlp : Out(range(max_chunk + 1))
        How many these are.
    report_index : In(token_shape(config))
    attention_map, mlp_map : Out(64)
        Layers in which token `report_index` executed, combinationally.
    """

    clear: Signal
    count: Signal
    record: data.View
    record_index: Signal
    record_valid: Signal
    route: Signal
    layer: Signal
    skip_attention: Signal
    skip_mlp: Signal
    present: Signal
    attention: Signal
    mlp: Signal
    executed_attention: Signal
    executed_mlp: Signal
    report_index: Signal
    attention_map: Signal
    mlp_map: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = c = config
        count = unsigned(bits_for(c.max_chunk))
        super().__init__(
            {
                "clear": In(1),
                "count": In(count),
                "record": In(InputRecordLayout()),
                "record_index": In(token_shape(c)),
                "record_valid": In(1),
                "route": In(1),
                "layer": In(range(c.max_layers)),
                "skip_attention": In(c.max_chunk),
                "skip_mlp": In(c.max_chunk),
                "present": Out(c.max_chunk),
                "attention": Out(c.max_chunk),
                "mlp": Out(c.max_chunk),
                "executed_attention": Out(count),
                "executed_mlp": Out(count),
                "report_index": In(token_shape(c)),
                "attention_map": Out(64),
                "mlp_map": Out(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tokens = range(self._config.max_chunk)
        recorded = [Signal(name=f"recorded_{n}") for n in tokens]
        forced = [Signal(name=f"forced_{n}") for n in tokens]
        for n in tokens:
            m.d.sync += self.present[n].eq(self.count > n)
            m.d.comb += [
                recorded[n].eq(self.record_valid & (self.record_index == n)),
            ]
            with m.If(self.clear):
                m.d.sync += forced[n].eq(0)
            with m.Elif(recorded[n]):
                m.d.sync += forced[n].eq((self.record.flags & FORCE) != 0)

        self.build_module(
            m,
            "attention",
            recorded,
            forced,
            wanted=self.record.attention,
            skip=self.skip_attention,
            mask=self.attention,
            number=self.executed_attention,
            layers=self.attention_map,
        )
        self.build_module(
            m,
            "mlp",
            recorded,
            forced,
            wanted=self.record.mlp,
            skip=self.skip_mlp,
            mask=self.mlp,
            number=self.executed_mlp,
            layers=self.mlp_map,
        )
        return m

    def build_module(
        self,
        m: Module,
        name: str,
        recorded: list[Signal],
        forced: list[Signal],
        *,
        wanted: Value,
        skip: Signal,
        mask: Signal,
        number: Signal,
        layers: Signal,
    ) -> None:
        """Decisions on attention, or on the MLP."""
        c = self._config
        for n in range(c.max_chunk):
            wish = Signal(c.max_layers, name=f"wish_{name}_{n}")
            executed = Signal(c.max_layers, name=f"executed_{name}_{n}")
            execute = Signal(name=f"execute_{name}_{n}")
            with m.If(recorded[n]):
                m.d.sync += wish.eq(wanted)
            m.d.comb += execute.eq(
                Mux(forced[n], wish.bit_select(self.layer, 1), ~skip[n]) & self.present[n]
            )
            with m.If(self.clear):
                m.d.sync += executed.eq(0)
            with m.Elif(self.route):
                m.d.sync += mask[n].eq(execute)
                with m.If(execute):
                    m.d.sync += executed.bit_select(self.layer, 1).eq(1)
            with m.If(self.report_index == n):
                m.d.comb += layers.eq(executed)
        m.d.comb += number.eq(sum(mask[n] for n in range(c.max_chunk)))
