"""For benches of units that take parts of memory words: the unit with a port for whole ones."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, connect, flipped

from skipstone.spec.config import CoreConfig
from skipstone_hw.parts import Parts


class WholeWords(wiring.Component):
    """`unit`, with its `Parts`: port `name` is a stream of words, all others are the unit's."""

    def __init__(self, unit: wiring.Component, *, name: str, config: CoreConfig):
        self._unit, self._name, self._config = unit, name, config
        words = In(stream.Signature(config.word_bits))
        super().__init__({**dict(unit.signature.members), name: words})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        m.submodules.parts = parts = Parts(config=self._config, takers=1)
        connect(m, flipped(getattr(self, self._name)), parts.i)
        connect(m, parts.o[0], getattr(unit, self._name))
        for name, member in unit.signature.members.items():
            outer, inner = getattr(self, name), getattr(unit, name)
            if name == self._name:
                continue
            if member.is_signature:
                connect(m, flipped(outer), inner)
            elif member.flow is In:
                m.d.comb += inner.eq(outer)
            else:
                m.d.comb += outer.eq(inner)
        return m
