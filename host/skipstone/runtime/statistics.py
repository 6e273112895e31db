"""What a generation cost: tokens, skips, cycles and time, each counted where it happened."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Phase", "Statistics", "executed"]


def executed(maps: NDArray[np.uint64], layers: int) -> int:
    """Set bits among the lowest `layers` of all maps."""
    bits = maps[:, None] >> np.arange(layers, dtype=np.uint64)
    return int((bits & np.uint64(1)).sum())


@dataclass
class Phase:
    """Prefill or decode: runs of the device, tokens that went through it, and time.

    Attributes
    ----------
    counters : dict of str to int
        Sums of the device's counters over the runs, by the names of `registers.COUNTERS`.
    wall_s : float
        Seconds on this computer; says nothing of the simulated machine.
    """

    runs: int = 0
    tokens: int = 0
    wall_s: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def cycles(self) -> int:
        """Cycles of the core; 0 if the device keeps no time."""
        return self.counters.get("cycles", 0)

    def add(self, tokens: int, wall_s: float, counters: dict[str, int]) -> None:
        """Count one run."""
        self.runs += 1
        self.tokens += tokens
        self.wall_s += wall_s
        for name, value in counters.items():
            # "errors" counts since power-up and is no sum.
            total = value if name == "errors" else self.counters.get(name, 0) + value
            self.counters[name] = total


@dataclass
class Statistics:
    """Sums over a generation; skips are taken from the output records.

    Attributes
    ----------
    layers : int
    prefill, decode : Phase
    attention_executed, mlp_executed : int
        Token-layers.
    records : int
        Tokens whose record was read.
    generated : int
        Tokens given to the caller.
    """

    layers: int
    prefill: Phase = field(default_factory=Phase)
    decode: Phase = field(default_factory=Phase)
    attention_executed: int = 0
    mlp_executed: int = 0
    records: int = 0
    generated: int = 0

    def add_records(self, records: NDArray[np.void]) -> None:
        """Count the maps of output records."""
        self.records += len(records)
        self.attention_executed += executed(records["attention"], self.layers)
        self.mlp_executed += executed(records["mlp"], self.layers)

    def _skipped(self, done: int) -> float:
        total = self.records * self.layers
        return 1 - done / total if total else 0.0

    @property
    def attention_skipped(self) -> float:
        """Share of token-layers that skipped attention."""
        return self._skipped(self.attention_executed)

    @property
    def mlp_skipped(self) -> float:
        """Share of token-layers that skipped the MLP."""
        return self._skipped(self.mlp_executed)

    @property
    def cycles(self) -> int:
        """Cycles of the core in both phases."""
        return self.prefill.cycles + self.decode.cycles

    @property
    def wall_s(self) -> float:
        """Seconds on this computer in both phases."""
        return self.prefill.wall_s + self.decode.wall_s
