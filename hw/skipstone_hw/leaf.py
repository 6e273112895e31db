"""Parts that a unit places many times, converted to Verilog once.

Amaranth never merges equal submodules: each would be elaborated, converted and written out again,
for minutes at the size of a large card. A `Leaf` stands in for such a part: emitted by
`emit.emit_component`, all parts of one name are instances of one module; elsewhere each is an
ordinary submodule.
"""

from collections.abc import Callable
from typing import Any

from amaranth.hdl import ClockSignal, Elaboratable, Instance, Module, Value, ValueCastable
from amaranth.lib import wiring

__all__ = ["Leaf", "LeafLibrary", "leaf_port_name", "member_ports"]

Path = tuple[str | int, ...]


def leaf_port_name(path: Path) -> str:
    """Name of a leaf's port."""
    return "__".join(map(str, path))


def member_ports(
    signature: wiring.Signature, interface: Any, names: Callable[[Path], str]
) -> dict[str, tuple[Value, bool]]:
    """Flat ports of an interface: name → (value, whether it is an input).

    Raises ValueError if two would have the same name.
    """
    ports: dict[str, tuple[Value, bool]] = {}
    for path, member, value in signature.flatten(interface):
        if isinstance(value, ValueCastable):
            value = value.as_value()
        label = names(tuple(path))
        if label in ports:
            raise ValueError(f"port names must be unique, not {label!r} twice")
        ports[label] = (value, member.flow == wiring.In)
    return ports


class LeafLibrary:
    """What `Leaf` looks for as `platform`: the modules that were placed, each converted once.

    Parameters
    ----------
    convert : Callable[[wiring.Component, str], str]
        Verilog of a component as a module of the given name.
    """

    def __init__(self, convert: Callable[[wiring.Component, str], str]):
        self._convert = convert
        self.modules: dict[str, str] = {}

    def require(self, name: str, build: Callable[[], wiring.Component]) -> None:
        """Have a module of this name, made from what `build` returns unless there is one."""
        if name not in self.modules:
            self.modules[name] = self._convert(build(), name)


class Leaf(Elaboratable):
    """A component placed as an instance.

    It has the clock only: what a reset must clear belongs outside.

    Parameters
    ----------
    build : Callable[[], wiring.Component]
        Makes the component.
    signature : wiring.Signature
        The component's.
    name : str
        Of the module: leaves of one name are equal.

    Attributes
    ----------
    pins
        The component's members, to be connected.
    """

    def __init__(
        self, build: Callable[[], wiring.Component], *, signature: wiring.Signature, name: str
    ):
        self._build, self._signature, self._name = build, signature, name
        self.pins: Any = signature.create()

    def elaborate(self, platform):
        ports = member_ports(self._signature, self.pins, leaf_port_name)
        if isinstance(platform, LeafLibrary):
            platform.require(self._name, self._build)
            return Instance(
                self._name,
                ("i", "clk", ClockSignal()),
                *(("i" if inward else "o", name, value) for name, (value, inward) in ports.items()),
            )
        m = Module()
        m.submodules.leaf = leaf = self._build()
        inner = member_ports(self._signature, leaf, leaf_port_name)
        for name, (value, inward) in ports.items():
            m.d.comb += inner[name][0].eq(value) if inward else value.eq(inner[name][0])
        return m
