# amaranth: UnusedElaboratable=no
"""Between super logic regions lie wires from a register to a register, and nothing else.

Checked on Amaranth's netlist of the whole core: whatever a cell of one region takes is followed
back through the logic between the units. If it comes from the other region, it is a register's
output, and nothing but the input of a register that takes it over in every cycle.
"""

import re
from dataclasses import replace

import pytest
from amaranth.hdl import Module, Shape, Signal, _ir, _nir  # amaranth is pinned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CONFIGS
from skipstone_hw.control import Control
from skipstone_hw.core import Core
from skipstone_hw.emit import port_name
from skipstone_hw.leaf import LeafLibrary, member_ports
from skipstone_hw.regions import REGION_1, Boundary, crossing_signals, crossing_streams
from skipstone_hw.supervisor import Supervisor

CONFIG = replace(CONFIGS["sim-tiny"], region_registers=True)
EVERYWHERE = ("clk", "rst")
"""The core's inputs that both regions take: the clock, and the shell's reset, which is a register's
output and lasts for many cycles."""
STATEFUL = (_nir.Top, _nir.FlipFlop, _nir.Memory, _nir.SyncWritePort, _nir.SyncReadPort)


def netlist_of(component):
    """The netlist; leaves, of which the array is made, are black boxes."""
    ports = {}
    for name, (value, inward) in member_ports(component.signature, component, port_name).items():
        way = _ir.PortDirection.Input if inward else _ir.PortDirection.Output
        ports[name] = (value, way)

    def convert(leaf, name):
        leaf._MustUse__used = True
        return ""

    return _ir.build_netlist(_ir.Fragment.get(component, LeafLibrary(convert)), ports)


class Crossings:
    """What one region's cells take of the other: `wires` as they should be, and, of all other nets,
    the units that they join: `wrong`.

    A unit's region is that of the floorplan. Registers between the units are in region 0; logic
    between them belongs to what it serves.
    """

    def __init__(self, netlist):
        self._cells = netlist.cells
        self._paths = [
            tuple(re.sub(r"\$\d+$", "", part) for part in netlist.modules[cell.module_idx].name[1:])
            for cell in netlist.cells
        ]
        self._reached = {}
        self.wires, self.wrong = set(), set()
        for index, cell in enumerate(self._cells):
            if not self._is_glue(index):
                self._check(index, cell)

    def _check(self, index, cell):
        taken_over = set(cell.data) if isinstance(cell, _nir.FlipFlop) else set()
        for net in cell.input_nets():
            for source in self._sources(net):
                if self._region(source.cell) == self._region(index) or self._is_everywhere(source):
                    continue
                from_register = isinstance(self._cells[source.cell], _nir.FlipFlop)
                if from_register and source == net and net in taken_over:
                    self.wires.add(net)
                else:
                    names = (".".join(self._paths[n]) or "top" for n in (source.cell, index))
                    self.wrong.add(tuple(names))

    def _region(self, index):
        return int(self._paths[index][:1] in [(name,) for name in REGION_1])

    def _is_glue(self, index):
        return not self._paths[index] and not isinstance(self._cells[index], STATEFUL)

    def _is_everywhere(self, net):
        inputs = (self._cells[0].ports_i.get(name, (0, 0)) for name in EVERYWHERE)
        return net.cell == 0 and any(net.bit in range(at, at + bits) for at, bits in inputs)

    def _sources(self, net):
        """Outputs of units and registers that determine a net."""
        if net.is_const:
            return frozenset()
        if not self._is_glue(net.cell):
            return frozenset([net])
        if net.cell not in self._reached:
            found = [self._sources(n) for n in self._cells[net.cell].input_nets()]
            self._reached[net.cell] = frozenset().union(*found)
        return self._reached[net.cell]


def test_what_crosses_the_core():
    found = Crossings(netlist_of(Core(config=CONFIG)))
    assert not found.wrong
    # Whatever the boundary has, but for bits that say nothing.
    bits = sum(shape_bits(shape) for _, shape in crossing_signals(CONFIG).values())
    bits += sum(shape_bits(shape) + 2 for _, shape in crossing_streams(CONFIG).values())
    assert 0.9 * bits < len(found.wires) <= bits


def shape_bits(shape):
    return Shape.cast(shape).width


class Joined(wiring.Component):
    """Two registers, one in each region, with something between them."""

    def __init__(self, between):
        self._between = between
        super().__init__({"a": In(1), "b": In(1), "y": Out(1)})

    def elaborate(self, platform):
        m = Module()
        first, last, late = (Signal(reset_less=True) for _ in range(3))
        m.submodules.sequencer, m.submodules.array = near, far = Module(), Module()
        near.d.sync += first.eq(self.a)
        if self._between == "logic":
            m.d.comb += self.y.eq(last)
            far.d.sync += last.eq(first & ~self.b)
        elif self._between == "enable":
            m.d.comb += self.y.eq(last)
            held = Signal()
            far.d.sync += held.eq(~held)
            with far.If(held):
                far.d.sync += last.eq(first)
        elif self._between == "reset":
            cleared = Signal()
            far.d.sync += cleared.eq(first)
            m.d.comb += self.y.eq(cleared)
        elif self._between == "glue":
            middle = Signal()
            m.d.comb += [middle.eq(~first), self.y.eq(last)]
            far.d.sync += last.eq(middle)
        else:
            far.d.sync += last.eq(first)
            near.d.sync += late.eq(last)
            m.d.comb += self.y.eq(late)
        return m


@pytest.mark.parametrize("between", ["logic", "enable", "glue", "reset"])
def test_anything_between_is_found(between):
    assert ("sequencer", "array") in Crossings(netlist_of(Joined(between))).wrong


def test_a_wire_from_register_to_register_is_found():
    found = Crossings(netlist_of(Joined("nothing")))
    assert not found.wrong
    assert len(found.wires) == 2


def test_resets_last_long_enough():
    assert min(Supervisor.RESET_CYCLES, Control.RESET_CYCLES) >= Boundary.RESET_CYCLES


def test_there_are_two_regions():
    with pytest.raises(ValueError, match="region must be 0 or 1, not 2"):
        Boundary(config=CONFIG, region=2)
