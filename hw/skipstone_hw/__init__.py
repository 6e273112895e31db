"""The gateware: one module per unit, in token order; `core` only wires."""
