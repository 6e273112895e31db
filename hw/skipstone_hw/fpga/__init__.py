"""From the gateware to a board: Verilog with a manifest, synthesis by unit, vendor flows.

`hierarchy` cuts the emitted Verilog into units, `yosys` and `synthesis` map each of them to the
device's primitives, `primitives` and `timing` count them and the logic between registers, `report`
and `baseline` show it and hold it against what it was. `netlist` maps the whole core, to be
simulated. `vitis` and `vivado` write what AMD's tools need for the rest; `board` puts a build
together and `command` is ``skipstone build``.
"""
