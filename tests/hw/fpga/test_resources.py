"""Synthesis with Yosys: memories land where they should, and units cost no more than they did.

Small units of the smallest core stand for all; ``skipstone build --check`` does every unit of a
board. After a change that means to cost more: ``python tests/hw/fpga/test_resources.py`` rewrites
``baseline.json``.
"""

import json
from pathlib import Path

import pytest

from skipstone.spec.boards import Family
from skipstone.spec.config import CONFIGS
from skipstone_hw.emit import TOP, emit_verilog
from skipstone_hw.fpga.baseline import baseline_document, growth, load_baseline
from skipstone_hw.fpga.hierarchy import cut
from skipstone_hw.fpga.primitives import MEMORY_LEVELS
from skipstone_hw.fpga.report import UnitRow
from skipstone_hw.fpga.synthesis import synthesize, synthesize_unit
from skipstone_hw.fpga.tools import YOSYS

BASELINE = Path(__file__).with_name("baseline.json")
CORE = CONFIGS["sim-tiny"]

MEMORIES = {
    "activations": "bram",  # activations of a chunk
    "logits": "lutram",  # the best logit of each token
}
"""Units, and the kind of memory that each must be made of."""
UNITS = (*MEMORIES, "writer")

PROBE = """
module probe(clk, a, b, d, uram, bram, lutram);
  input clk;
  input [12:0] a;
  input [12:0] b;
  input [71:0] d;
  output [71:0] uram;
  output [71:0] bram;
  output [71:0] lutram;
  deep deep (
    .clk(clk),
    .a(a),
    .b(b),
    .d(d),
    .q(uram)
  );
  middle middle (
    .clk(clk),
    .a(a),
    .b(b),
    .d(d),
    .q(bram)
  );
  shallow shallow (
    .clk(clk),
    .a(a),
    .b(b),
    .d(d),
    .q(lutram)
  );
endmodule
"""


def memory(name: str, depth: int, style: str = "") -> str:
    """A module with a memory of 72 bits."""
    return f"""
module {name}(clk, a, b, d, q);
  input clk;
  input [12:0] a;
  input [12:0] b;
  input [71:0] d;
  output [71:0] q;
  reg [71:0] q;
  {style} reg [71:0] held [0:{depth - 1}];
  always @(posedge clk) begin
    held[a] <= d;
    q <= held[b];
  end
endmodule
"""


def rows() -> list[UnitRow]:
    """The checked units of the core on UltraScale+."""
    found = {u.name: u for u in cut(emit_verilog(CORE), TOP).walk()}
    measured = []
    for name in UNITS:
        result = synthesize_unit(found[name], Family.ULTRASCALE_PLUS)
        inner = result.timing.inner
        assert inner is not None
        path = f"{inner.start} → {inner.end}"
        measured.append(UnitRow(name, result.uses, {}, inner.levels, path, 0, ""))
    return measured


@pytest.fixture(scope="module")
def measured():
    return rows()


def test_no_unit_has_grown(measured):
    assert growth(load_baseline(BASELINE), measured) == []


def test_the_baseline_is_of_this_yosys():
    assert load_baseline(BASELINE)["tool"] == YOSYS.version()


@pytest.mark.parametrize("unit", MEMORIES)
def test_memories_of_the_core(measured, unit):
    (row,) = (row for row in measured if row.name == unit)
    assert row.uses.get(MEMORIES[unit])


def test_memories_by_size():
    text = PROBE + memory("deep", 4096, '(* ram_style = "ultra" *)')
    text += memory("middle", 1024) + memory("shallow", 32)
    results = synthesize(cut(text, "probe"), Family.ULTRASCALE_PLUS)
    assert results["deep"].uses["uram"] == 1
    assert results["middle"].uses["bram"] == 2
    assert results["shallow"].uses["lutram"]
    for name, others in (("deep", "bram"), ("middle", "uram"), ("shallow", "bram")):
        assert others not in results[name].uses
    inner = results["glue"].timing.inner
    assert inner is not None
    assert (inner.levels, inner.end) == (1, "shallow.q[0]")  # reading a LUT memory
    assert results["deep"].timing.launch["q", 0].levels == MEMORY_LEVELS


if __name__ == "__main__":
    document = baseline_document(YOSYS.version(), CORE.name, rows())
    BASELINE.write_text(json.dumps(document, indent=1) + "\n")
