"""Registers with an enable, written as such.

Amaranth's back end writes every register as two blocks: one that computes the next value, the old
one unless something else is assigned, and one that takes it over at the clock edge. Simulated by
Verilator, each idle register is then copied onto itself in every cycle, twice. `merge_registers`
puts the assignments into the clocked block, where what is not assigned costs nothing; the circuit
is the same.
"""

import re
from collections import Counter

__all__ = ["merge_registers"]

_MODULE = re.compile(r"^module .*?^endmodule$", re.MULTILINE | re.DOTALL)
_TOKEN = re.compile(r"\\\$\d+(?= )")
_NEXT = re.compile(
    r"^  always @\* begin\n"
    r"    if \(\\\$auto\$\S+ \) begin end\n"
    r"    (?P<next>\\\$\d+)  = (?P<default>[^;\n]+);\n"
    r"(?P<body>(?:    .*\n)*?)"
    r"  end\n",
    re.MULTILINE,
)
_TAKE = re.compile(
    r"^  always @\(posedge clk\)\n    (?P<register>\\\S+ |\w+) <= (?P<next>\\\$\d+) ;\n",
    re.MULTILINE,
)
_DECLARATION = re.compile(r"^  reg (?:\[\d+:\d+\] )?(?P<next>\\\$\d+) ;\n", re.MULTILINE)
_ASSIGNMENT = re.compile(r"^( +)(\\\$\d+)  ?(\[[^]]*\] )?= ", re.MULTILINE)


def merge_registers(verilog: str) -> str:
    """`verilog` of Amaranth's back end, with the same registers."""
    return _MODULE.sub(lambda module: _merge(module[0]), verilog)


def _merge(module: str) -> str:
    used = Counter(_TOKEN.findall(module))
    taken: dict[str, str] = {}  # next value → the clocked block that takes its place
    for block in _TAKE.finditer(module):
        taken[block["next"]] = block["register"]
    merged: set[str] = set()

    def clocked(block: re.Match[str]) -> str:
        name, default, body = block["next"], block["default"], block["body"]
        register = taken.get(name)
        targets = [a[2] for a in _ASSIGNMENT.finditer(body)]
        alone = set(targets) <= {name} and body.count(";\n") == len(targets)
        # Declared, taken over, and assigned here: read nowhere.
        if register is None or not alone or used[name] != len(targets) + 3:
            return block[0]
        merged.add(name)
        q = register.strip()
        body = _ASSIGNMENT.sub(lambda a: f"{a[1]}{q} {a[3] or ''}<= ", body)
        first = "" if default == register else f"    {q} <= {default};\n"
        return f"  always @(posedge clk) begin\n{first}{body}  end\n"

    module = _NEXT.sub(clocked, module)
    for leftover in (_TAKE, _DECLARATION):
        module = leftover.sub(lambda m: "" if m["next"] in merged else m[0], module)
    return module
