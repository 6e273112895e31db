"""Cutting Verilog into units: what belongs to which, and names that do not depend on the rest."""

import pytest

from skipstone_hw.fpga.hierarchy import cut

LEAF = """(* generator = "Amaranth" *)
module leaf(clk, \\d$3 , q);
  input clk;
  wire clk;
  input \\d$3 ;
  wire \\d$3 ;
  output q;
  reg q;
  always @(posedge clk) q <= \\d$3 ;
endmodule
"""


def design(offset=0, logic="&"):
    """A top with two units, one of which holds a module, and a leaf placed three times."""

    def n(number):
        return f"${number + offset}"

    return f"""
(* top = 1 *)
module top(clk, a, y);
  input clk;
  wire clk;
  input a;
  wire a;
  output y;
  wire y;
  wire \\x{n(1)} ;
  \\top.first{n(7)}  \\first{n(7)}  (
    .clk(clk),
    .\\in{n(9)} (a),
    .out(\\x{n(1)} )
  );
  \\top.second  second (
    .clk(clk),
    .i(\\x{n(1)} ),
    .o(y)
  );
endmodule

module \\top.first{n(7)} (clk, \\in{n(9)} , out);
  input clk;
  wire clk;
  input \\in{n(9)} ;
  wire \\in{n(9)} ;
  output out;
  wire out;
  wire \\m{n(2)} ;
  \\top.first{n(7)}.part  part (
    .i(\\in{n(9)} ),
    .o(\\m{n(2)} )
  );
  leaf  #(
    .WIDTH(32'd1)
  ) one (
    .clk(clk),
    .\\d$3 (\\m{n(2)} ),
    .q(out)
  );
endmodule

module \\top.first{n(7)}.part (i, o);
  input i;
  wire i;
  output o;
  wire o;
  assign o = i {logic} i;
endmodule

module \\top.second (clk, i, o);
  input clk;
  wire clk;
  input i;
  wire i;
  output o;
  wire o;
  wire t;
  leaf two (
    .clk(clk),
    .\\d$3 (i),
    .q(t)
  );
  leaf three (
    .clk(clk),
    .\\d$3 (t),
    .q(o)
  );
endmodule

{LEAF}"""


def units(text):
    return {unit.name: unit for unit in cut(text, "top").walk()}


def test_units_are_the_children_and_what_is_shared():
    found = units(design())
    assert list(found) == ["leaf", "first", "second", "glue"]
    assert "module \\top.first~1.part" in found["first"].text
    assert "(* blackbox *)\nmodule leaf(" in found["first"].text
    assert "always" not in found["first"].text
    assert found["glue"].text.count("(* blackbox *)") == 2
    assert "endmodule" in found["leaf"].text


def test_instances_and_ports():
    found = units(design())
    glue = found["glue"]
    assert set(glue.instances.values()) == {"first", "second"}
    ports = {child.name: here for child, here in glue.children.values()}
    assert len(ports["first"]) == len(found["first"].ports) == 3
    assert ports["second"] == ("clk", "i", "o")
    assert {child.name for child, _ in found["second"].children.values()} == {"leaf"}
    assert set(found["second"].instances) == {"two", "three"}


def test_numbers_elsewhere_do_not_matter():
    before, after = units(design()), units(design(offset=40))
    assert {n: u.key for n, u in before.items()} == {n: u.key for n, u in after.items()}


def test_a_change_is_seen_where_it_is():
    before, after = units(design()), units(design(logic="|"))
    changed = {name for name in before if before[name].key != after[name].key}
    assert changed == {"first", "glue"}
    assert before["glue"].text == after["glue"].text


def test_the_top_must_exist():
    with pytest.raises(ValueError, match="must be one of the text's modules, not 'bottom'"):
        cut(design(), "bottom")
