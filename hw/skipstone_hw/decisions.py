"""The routers' decisions of the chunk: who executes what, and what was executed in all layers."""

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for
from skipstone.spec.config import CoreConfig
from skipstone.spec.records import FORCE

from .embed import InputRecordLayout
from .layouts import token_shape

__all__ = ["Decisions"]


class Decisions(wiring.Component):
    """Decision masks of the current layer and maps over the layers.

    `route` fixes the masks of `layer` from the routers, or from a token's input record where that forces them
    (SkipDecode, arXiv 2307.02628, and FiRST, arXiv 2410.12513, are such maps).

    Members
    -------
    clear : In(1)
        A chunk of `count` tokens begins.
    record, record_index, record_valid : In
        Input records.
    route : In(1); layer : In
    skip_attention, skip_mlp : In(max_chunk)
        The routers' outputs.
    present : Out(max_chunk)
        The chunk's tokens.
    attention, mlp : Out(max_chunk)
        Tokens that execute in the layer fixed last.
    executed_attention, executed_mlp : Out
        How many these are.
    report_index : In; attention_map, mlp_map : Out(64)
        Executed layers of a token.
    """

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
        c = self._config
        for n in range(c.max_chunk):
            m.d.comb += self.present[n].eq(self.count > n)
            forced = Signal(name=f"forced_{n}")
            with m.If(self.clear):
                m.d.sync += forced.eq(0)
            for module, skip in (("attention", self.skip_attention), ("mlp", self.skip_mlp)):
                wanted = Signal(c.max_layers, name=f"forced_{module}_{n}")
                executed = Signal(c.max_layers, name=f"executed_{module}_{n}")
                execute = Signal(name=f"execute_{module}_{n}")
                with m.If(self.record_valid & (self.record_index == n)):
                    m.d.sync += [
                        forced.eq((self.record.flags & FORCE) != 0),
                        wanted.eq(self.record[module]),
                    ]
                m.d.comb += execute.eq(
                    Mux(forced, wanted.bit_select(self.layer, 1), ~skip[n]) & self.present[n]
                )
                with m.If(self.clear):
                    m.d.sync += executed.eq(0)
                with m.Elif(self.route):
                    m.d.sync += getattr(self, module)[n].eq(execute)
                    m.d.sync += executed.eq(executed | (execute << self.layer)[: c.max_layers])
                with m.If(self.report_index == n):
                    m.d.comb += getattr(self, f"{module}_map").eq(executed)
        for module in ("attention", "mlp"):
            mask = getattr(self, module)
            m.d.comb += getattr(self, f"executed_{module}").eq(
                sum(mask[n] for n in range(c.max_chunk))
            )
        return m
