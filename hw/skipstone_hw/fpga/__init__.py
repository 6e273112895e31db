"""From the gateware to a board: Verilog with a manifest, synthesis by unit, vendor flows.

`hierarchy` cuts the emitted Verilog into units, `yosys` and `synthesis` map each of them to the
device's primitives, `primitives`, `netlist` and `timing` count them and the logic between
registers, `report` and `baseline` show it and hold it against what it was. `vitis` and `vivado`
write what AMD's tools need for the rest; `board` puts a build together and `command` is
``skipstone build``.
"""
