"""Pipeline registers: what keeps side-band data in step with the arithmetic units.

Data registers have no reset, so that FPGA tools can turn chains of them into shift-register LUTs;
whatever qualifies the data (a valid bit) is delayed with a reset.
"""

from typing import Any

from amaranth.hdl import Module, Signal

__all__ = ["delay"]


def delay(m: Module, value: Any, cycles: int, *, name: str, reset: bool = False) -> Any:
    """`value` as it was `cycles` clock edges ago; a view or enumeration keeps its shape.

    Parameters
    ----------
    cycles
        Registers in the chain, 0 for none.
    name
        Stem of the registers' names.
    reset
        Whether a reset clears the chain (to zero); for valid bits.
    """
    if cycles < 0:
        raise ValueError(f"cycles must not be negative, not {cycles}")
    for stage in range(1, cycles + 1):
        register = Signal(value.shape(), name=f"{name}_{stage}", reset_less=not reset)
        m.d.sync += register.eq(value)
        value = register
    return value
