"""Logic levels, on netlists small enough to count by hand."""

import json

import pytest

from skipstone_hw.fpga.primitives import ADDER_LEVELS, MEMORY_LEVELS, MULTIPLIER_LEVELS, primitive
from skipstone_hw.fpga.synthesis import uses_of
from skipstone_hw.fpga.timing import Path, Timing, analyze

WAYS = {
    "FDRE": {"C": "input", "CE": "input", "D": "input", "R": "input", "Q": "output"},
    "LUT2": {"I0": "input", "I1": "input", "O": "output"},
    "CARRY4": {"CI": "input", "CYINIT": "input", "DI": "input", "S": "input", "CO": "output",
               "O": "output"},
}  # fmt: skip


class Netlist:
    """A module of Yosys' JSON, built by hand."""

    def __init__(self):
        self.cells, self.nets, self.ports, self.ways = {}, {}, {}, dict(WAYS)
        self._bits = 1

    def net(self, name, width=1):
        self._bits += width
        bits = list(range(self._bits - width + 1, self._bits + 1))
        self.nets[name] = {"hide_name": 0, "bits": bits}
        return bits

    def port(self, name, direction, width=1):
        bits = self.net(name, width)
        self.ports[name] = {"direction": direction, "bits": bits}
        return bits

    def cell(self, kind, **connections):
        self.cells[f"{kind}_{len(self.cells)}"] = {
            "type": kind,
            "parameters": {},
            "port_directions": self.ways[kind],
            "connections": connections,
        }

    def register(self, name, d):
        q = self.net(name)
        self.cell("FDRE", C=self.nets["clk"]["bits"], CE=["1"], D=d, R=["0"], Q=q)
        return q

    def lut(self, a, b, name=None):
        out = self.net(name or f"$lut{len(self.cells)}")
        self.cell("LUT2", I0=a, I1=b, O=out)
        return out

    @property
    def module(self):
        return {"cells": self.cells, "netnames": self.nets, "ports": self.ports}


def chain(length):
    """A register, `length` LUTs, a register."""
    n = Netlist()
    n.port("clk", "input")
    at = n.register("first", ["0"])
    for i in range(length):
        at = n.lut(at, ["1"], f"step_{i}")
    n.register("last", at)
    return n


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_chain_of_luts(length):
    path = analyze(chain(length).module).inner
    assert (path.levels, path.start, path.end) == (length, "first", "last")
    if length:
        assert path.through == (*(f"step_{i}" for i in range(length)),)


def test_the_clock_and_constants_are_no_paths():
    n = Netlist()
    n.port("clk", "input")
    n.register("alone", ["1"])
    timing = analyze(n.module)
    assert timing.inner is None
    assert not timing.capture


def test_a_carry_chain_counts_once():
    n = Netlist()
    n.port("clk", "input")
    a = n.register("a", ["0"])
    carry, low, high = n.net("$c", 4), n.net("$low", 4), n.net("$high", 4)
    zeros = ["0"] * 4
    n.cell("CARRY4", CI=["0"], CYINIT=["0"], DI=zeros, S=[*a, "0", "0", "0"], CO=carry, O=low)
    n.cell("CARRY4", CI=[carry[3]], CYINIT=["0"], DI=zeros, S=zeros, CO=n.net("$d", 4), O=high)
    n.register("sum", n.lut([high[3]], ["1"]))
    assert analyze(n.module).inner == Path(2, "a", "sum")


def test_lower_sums_do_not_depend_on_higher_bits():
    n = Netlist()
    n.port("clk", "input")
    a = n.register("a", ["0"])
    carry, out = n.net("$c", 4), n.net("$o", 4)
    zeros = ["0"] * 4
    n.cell("CARRY4", CI=["0"], CYINIT=["0"], DI=zeros, S=["0", "0", "0", *a], CO=carry, O=out)
    n.register("low", [out[2]])
    assert analyze(n.module).inner is None


def test_ports_are_followed_into_units():
    child = Netlist()
    child.port("clk", "input")
    i = child.port("i", "input")
    o = child.port("o", "output")
    through = child.port("through", "output")
    child.register("taken", child.lut(i, ["1"]))
    made = child.lut(child.lut(child.register("source", ["0"]), ["1"]), ["1"])
    child.cell("LUT2", I0=made, I1=["1"], O=o)
    child.cell("LUT2", I0=i, I1=["1"], O=through)
    timing = Timing.from_json(json.loads(json.dumps(analyze(child.module).to_json())))
    assert timing == analyze(child.module)
    assert timing.capture == {("i", 0): Path(1, "i[0]", "taken")}
    assert {bit: p.levels for bit, p in timing.launch.items()} == {("o", 0): 3}
    assert timing.arcs == {(("i", 0), ("through", 0)): 1}

    n = Netlist()
    n.ways["child"] = {"clk": "input", "i": "input", "o": "output", "through": "output"}
    clk = n.port("clk", "input")
    a, b, between, end = n.net("a"), n.net("b"), n.net("between"), n.net("end")
    n.cell("child", clk=clk, i=["0"], o=a, through=b)
    n.cell("child", clk=clk, i=n.lut(a, ["1"]), o=between, through=end)
    n.cell("child", clk=clk, i=end, o=n.net("x"), through=n.net("y"))
    n.register("outside", end)
    names = dict(zip(n.cells, ("one", "two", "two", "three"), strict=False))
    names = {k: v for k, v in zip(n.cells, ("one", "", "two", "three", ""), strict=True) if v}
    whole = analyze(n.module, {"child": timing}, names)
    assert whole.inner == Path(6, "one.source", "three.taken", ("end",))
    assert whole.entering["two"].levels == 5
    assert whole.entering["three"].start == "one.source"
    assert whole.entering[""].levels == 5
    assert "one" not in whole.entering


def test_a_unit_s_own_paths_are_not_forgotten():
    inner = analyze(chain(9).module)
    n = Netlist()
    n.ways["child"] = {"clk": "input"}
    n.cell("child", clk=n.port("clk", "input"))
    worst = analyze(n.module, {"child": inner}, {next(iter(n.cells)): "unit"}).inner
    assert (worst.levels, worst.start, worst.end) == (9, "unit.first", "unit.last")


def test_loops_are_named():
    n = Netlist()
    n.port("clk", "input")
    a, b = n.net("here"), n.net("there")
    n.cell("LUT2", I0=a, I1=["1"], O=b)
    n.cell("LUT2", I0=b, I1=["1"], O=a)
    with pytest.raises(ValueError, match="must not drive itself: here, there"):
        analyze(n.module)


def test_unknown_cells_are_refused():
    with pytest.raises(ValueError, match="must be a known cell of the device, not 'FROB'"):
        primitive("FROB", {})


@pytest.mark.parametrize(
    ("registers", "capture", "launch"),
    [
        ({"AREG": 1, "BREG": 1, "MREG": 1, "PREG": 1}, 0, 0),
        ({"MREG": 1, "PREG": 1}, MULTIPLIER_LEVELS, 0),
        ({"PREG": 1}, MULTIPLIER_LEVELS + ADDER_LEVELS, 0),
        ({"AREG": 1, "BREG": 1}, 0, MULTIPLIER_LEVELS + ADDER_LEVELS),
        ({"MREG": 1}, MULTIPLIER_LEVELS, ADDER_LEVELS),
    ],
)
def test_multipliers_by_their_registers(registers, capture, launch):
    cell = primitive("DSP48E2", {name: f"{value:032b}" for name, value in registers.items()})
    assert (cell.capture, cell.launch, cell.arcs) == (capture, launch, None)


def test_multipliers_without_registers_are_logic():
    cell = primitive("DSP48E2", {})
    arcs = list(cell.arcs({"A": [2]}, {"P": [3]}))
    assert arcs == [(("A", 0), ("P", 0), MULTIPLIER_LEVELS + ADDER_LEVELS)]


def test_memories_by_their_output_register():
    assert primitive("RAMB36E2", {"DOB_REG": "1"}).launch == 0
    assert primitive("RAMB36E2", {"DOA_REG": "0", "DOB_REG": "0"}).launch == MEMORY_LEVELS
    assert primitive("URAM288", {"OREG_B": "TRUE"}).launch == 0


def test_a_carry_chain_takes_the_luts_that_feed_it():
    def carry(*select):
        return {"type": "CARRY4", "parameters": {}, "connections": {"S": list(select)}}

    lut = {"type": "LUT2", "parameters": {}, "connections": {"O": [7]}}
    register = {"type": "FDRE", "parameters": {}, "connections": {"Q": [8]}}
    assert uses_of([lut, register, carry(7, 8, 9, "0")]) == {"carry": 4, "ff": 1, "lut": 3}
    assert uses_of([register]) == {"ff": 1}
