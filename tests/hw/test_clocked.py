"""Registers in one block: the shape of the text; that it is the same circuit, all benches show."""

import re

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from skipstone_hw.clocked import merge_registers
from skipstone_hw.emit import emit_component


class Registers(wiring.Component):
    """Registers of several kinds."""

    def __init__(self):
        super().__init__({"en": In(1), "i": In(8), "select": In(2), "o": Out(24), "next": Out(8)})

    def elaborate(self, platform):
        m = Module()
        held = Signal(8, reset_less=True, name="held")
        parts = Signal(8, init=3, name="parts")
        plain = Signal(8, name="plain")
        with m.If(self.en):
            m.d.sync += held.eq(self.i)
        with m.Switch(self.select):
            with m.Case(1):
                m.d.sync += parts[2:5].eq(self.i)
            with m.Case(2):
                m.d.sync += parts.eq(self.i)
        m.d.sync += plain.eq(self.i ^ plain)
        m.d.comb += [self.o[:8].eq(held), self.o[8:16].eq(parts), self.o[16:].eq(plain)]
        return m


def test_enables_are_in_the_clocked_block():
    text = emit_component(Registers())
    assert "always @*" not in text
    blocks = re.findall(r"always @\(posedge clk\) begin\n(.*?)\n  end\n", text, re.DOTALL)
    (held,) = [b for b in blocks if "held" in b]
    assert re.sub(r"\s+", " ", held).strip() == "if (en) begin held <= i; end"
    (parts,) = [b for b in blocks if "parts" in b]
    assert re.search(r"if \(rst\) begin\s+parts <= 8'h03;", parts)
    assert re.search(r"parts +\[4:2\] <= i\[2:0\]", parts)
    (plain,) = [b for b in blocks if "plain" in b]
    assert re.search(r"plain <= \S+ ;\s+if \(rst\) begin\s+plain <= 8'h00;", plain)


TEXT = r"""module top(clk, i, q, other);
  reg [7:0] \$1 ;
  always @(posedge clk)
    q <= \$1 ;
  always @* begin
    if (\$auto$x ) begin end
    \$1  = q;
    if (i) begin
      \$1  = 8'h01;
    end
  end
endmodule
"""


def test_a_plain_hold_is_merged():
    merged = merge_registers(TEXT)
    assert "always @(posedge clk) begin\n    if (i) begin\n      q <= 8'h01;\n" in merged
    assert r"\$1" not in merged


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("endmodule", "  assign other = \\$1 ;\nendmodule"),  # read elsewhere
        ("      \\$1  = 8'h01;", "      other = 8'h01;\n      \\$1  = 8'h01;"),  # assigns more
    ],
)
def test_anything_else_is_left_alone(old, new):
    text = TEXT.replace(old, new)
    assert merge_registers(text) == text
