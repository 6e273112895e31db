"""What a generation cost: tokens, skips, cycles and time, each counted where it happened."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..spec.records import MODULES, decisions_of

__all__ = ["Phase", "Statistics"]


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
    """Sums over a generation; decisions are taken from the output records.

    Attributes
    ----------
    layers : int
    prefill, decode : Phase
    decisions : bool array (tokens, layers, modules)
        What each token executed, in the order of the sequence.
    generated : int
        Tokens given to the caller.
    """

    layers: int
    prefill: Phase = field(default_factory=Phase)
    decode: Phase = field(default_factory=Phase)
    generated: int = 0
    decisions: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.decisions = np.zeros((0, self.layers, len(MODULES)), np.bool_)

    def add_records(self, records: NDArray[np.void]) -> None:
        """Add the decisions of output records."""
        executed = decisions_of(records, self.layers)
        self.decisions = np.concatenate([self.decisions, executed])

    def _skipped(self, module: str) -> float:
        executed = self.decisions[..., MODULES.index(module)]
        return 1 - float(executed.mean()) if executed.size else 0.0

    @property
    def attention_skipped(self) -> float:
        """Share of token-layers that skipped attention."""
        return self._skipped("attention")

    @property
    def mlp_skipped(self) -> float:
        """Share of token-layers that skipped the MLP."""
        return self._skipped("mlp")

    @property
    def cycles(self) -> int:
        """Cycles of the core in both phases."""
        return self.prefill.cycles + self.decode.cycles

    @property
    def wall_s(self) -> float:
        """Seconds on this computer in both phases."""
        return self.prefill.wall_s + self.decode.wall_s
