"""The primitives that Yosys maps to: what each takes of a device, and where logic runs through it.

A *level* is a look-up table, a step onto a carry chain, a read of a LUT memory; the chain itself
and the wide multiplexers behind LUTs have wires of their own and count nothing. Block memories and
multipliers without their registers are slow: reading a block RAM without output register counts
`MEMORY_LEVELS`, a multiplier `MULTIPLIER_LEVELS`, an adder behind it `ADDER_LEVELS`.

References: AMD UG974 (UltraScale libraries), UG579 (DSP48E2), UG573 (memory resources), Lattice
FPGA-TN-02200 (ECP5 memory).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ADDER_LEVELS",
    "MEMORY_LEVELS",
    "MULTIPLIER_LEVELS",
    "Arc",
    "Primitive",
    "primitive",
]

MEMORY_LEVELS = 3
MULTIPLIER_LEVELS = 4
ADDER_LEVELS = 2

Bit = tuple[str, int]
"""Port and index of the bit."""

Arc = tuple[Bit, Bit, int]
"""From an input, to an output, levels."""

Connections = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Primitive:
    """A kind of cell.

    Attributes
    ----------
    uses
        Of the device's resources; "lutram" is the part of "lut" used as memory.
    arcs
        Levels through the cell; None: nothing passes through.
    launch, capture
        Levels from the register inside to an output, and from an input to it; None: there is
        none.
    """

    uses: Mapping[str, float] = field(default_factory=dict)
    arcs: Callable[[Connections, Connections], Iterator[Arc]] | None = None
    launch: int | None = None
    capture: int | None = None


def _through(levels: int) -> Callable[[Connections, Connections], Iterator[Arc]]:
    def arcs(inputs: Connections, outputs: Connections) -> Iterator[Arc]:
        for out, out_bits in outputs.items():
            for port, bits in inputs.items():
                for i in range(len(bits)):
                    for o in range(len(out_bits)):
                        yield (port, i), (out, o), levels

    return arcs


def _carry(inputs: Connections, outputs: Connections) -> Iterator[Arc]:
    """A CARRY4 or CARRY8: bit i of the operands reaches sums from i on and carries from i on."""
    for port, bits in inputs.items():
        for i in range(len(bits)):
            first = i if port in ("S", "DI") else 0
            for out, out_bits in outputs.items():
                # DI enters the carry only; the sum of its own bit is of S and the carry below.
                start = first + (port == "DI" and out == "O")
                for o in range(start, len(out_bits)):
                    yield (port, i), (out, o), 0 if port == "CI" else 1


def _ccu2c(inputs: Connections, outputs: Connections) -> Iterator[Arc]:
    """Two bits of an ECP5 carry chain."""
    for port in inputs:
        for out in outputs:
            if not (port.endswith("1") and out == "S0"):
                yield (port, 0), (out, 0), 0 if port == "CIN" else 1


def _lut_memory(inputs: Connections, outputs: Connections) -> Iterator[Arc]:
    """Asynchronous reading: only addresses reach the outputs."""
    for port, bits in inputs.items():
        if not port.startswith(("A", "DPRA", "RAD")):
            continue
        for i in range(len(bits)):
            for out, out_bits in outputs.items():
                for o in range(len(out_bits)):
                    yield (port, i), (out, o), 1


_FREE = Primitive(arcs=_through(0))
_REGISTER = Primitive({"ff": 1}, launch=0, capture=0)


def _lut_ram(luts: int) -> Primitive:
    return Primitive({"lut": luts, "lutram": luts}, _lut_memory, launch=1, capture=0)


def _shift(luts: int) -> Primitive:
    return Primitive({"lut": luts, "lutram": luts}, _lut_memory, launch=1, capture=0)


_PRIMITIVES: dict[str, Primitive] = {
    # AMD
    **{f"LUT{n}": Primitive({"lut": 1}, _through(1)) for n in range(1, 7)},
    **dict.fromkeys(("MUXF5", "MUXF6", "MUXF7", "MUXF8", "MUXF9", "INV", "BUF"), _FREE),
    **dict.fromkeys(("IBUF", "OBUF", "BUFG", "BUFGCE"), _FREE),
    **dict.fromkeys(("FDRE", "FDSE", "FDCE", "FDPE", "FDRE_1", "FDSE_1"), _REGISTER),
    "CARRY4": Primitive({"carry": 4}, _carry),
    "CARRY8": Primitive({"carry": 8}, _carry),
    "SRL16E": _shift(1),
    "SRLC16E": _shift(1),
    "SRLC32E": _shift(1),
    **{
        name: _lut_ram(luts)
        for luts, names in (
            (1, "RAM32X1S RAM64X1S"),
            (2, "RAM32X1D RAM64X1D RAM128X1S RAM32X2S"),
            (4, "RAM32M RAM64M RAM128X1D RAM256X1S"),
            (8, "RAM32M16 RAM64M8 RAM64X8SW RAM256X1D RAM512X1S"),
        )
        for name in names.split()
    },
    # ECP5
    "PFUMX": _FREE,
    "L6MUX21": _FREE,
    "CCU2C": Primitive({"lut": 2, "carry": 2}, _ccu2c),
    "TRELLIS_FF": _REGISTER,
    "TRELLIS_DPR16X4": _lut_ram(6),
    "MULT18X18D": Primitive({"dsp": 1}, _through(MULTIPLIER_LEVELS)),
    "ALU54B": Primitive({"dsp": 1}, _through(ADDER_LEVELS)),
}

_BLOCK_RAM = {"RAMB18E1": 0.5, "RAMB18E2": 0.5, "RAMB36E1": 1, "RAMB36E2": 1,
              "DP16KD": 1, "PDPW16KD": 1}  # fmt: skip
_OUTPUT_REGISTER = {"RAMB18E1": ("DOA_REG", "DOB_REG"), "RAMB36E1": ("DOA_REG", "DOB_REG"),
                    "RAMB18E2": ("DOA_REG", "DOB_REG"), "RAMB36E2": ("DOA_REG", "DOB_REG"),
                    "URAM288": ("OREG_A", "OREG_B")}  # fmt: skip


def _number(value: Any) -> int | str:
    """A Yosys parameter: binary digits, or text."""
    if isinstance(value, int):
        return value
    text = str(value).strip()
    return int(text, 2) if text and set(text) <= {"0", "1"} else text


def _memory(kind: str, parameters: Mapping[str, Any]) -> Primitive:
    uses = {"uram": 1.0} if kind == "URAM288" else {"bram": float(_BLOCK_RAM[kind])}
    registers = [
        _number(parameters.get(name, 0)) not in (0, "FALSE")
        for name in _OUTPUT_REGISTER.get(kind, ())
    ]
    registered = any(registers) or parameters.get("REGMODE_B") == "OUTREG"
    return Primitive(uses, launch=0 if registered else MEMORY_LEVELS, capture=0)


def _dsp48(parameters: Mapping[str, Any]) -> Primitive:
    """A DSP48E1 or DSP48E2, by the registers it has on the way from A, B and C to P."""

    def stages(name: str) -> int:
        value = _number(parameters.get(name, 0))
        return value if isinstance(value, int) else 0

    entry, product, result = stages("AREG") and stages("BREG"), stages("MREG"), stages("PREG")
    multiply = parameters.get("USE_MULT", "MULTIPLY") != "NONE"
    parts = [(MULTIPLIER_LEVELS if multiply else 0, product), (ADDER_LEVELS, result)]
    capture, launch, first, last = 0, 0, bool(entry), bool(entry)
    for levels, register in parts:
        if not first:
            capture += levels
        launch += levels
        if register:
            first, last, launch = True, True, 0
    uses = {"dsp": 1.0}
    if not last:
        return Primitive(uses, _through(launch))
    return Primitive(uses, launch=launch, capture=0 if entry else capture)


def primitive(kind: str, parameters: Mapping[str, Any]) -> Primitive:
    """The primitive `kind` with its parameters. Raises ValueError if it is not known."""
    if kind in _PRIMITIVES:
        return _PRIMITIVES[kind]
    if kind in _BLOCK_RAM or kind == "URAM288":
        return _memory(kind, parameters)
    if kind in ("DSP48E1", "DSP48E2"):
        return _dsp48(parameters)
    raise ValueError(f"primitive must be a known cell of the device, not {kind!r}")
