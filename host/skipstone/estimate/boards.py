"""What the memory of a board delivers, for the estimate."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec.boards import BOARDS
from ..spec.config import CONFIGS, CoreConfig
from ..spec.errors import ConfigError
from .cycles import MemoryTiming

__all__ = ["MEMORIES", "BoardMemory", "Target", "board_target", "core_target", "find_target"]


@dataclass(frozen=True, kw_only=True)
class BoardMemory:
    """Memory of a board.

    Attributes
    ----------
    peak_gb_s : float
        GB/s by its data sheet.
    share : float
        Of the peak that long sequential bursts reach.
    latency_ns : float
        From an address to its data, through controller and switch.
    source : str
        Where the share comes from.
    """

    kind: str
    peak_gb_s: float
    share: float
    latency_ns: float
    source: str


_SHUHAI = "Shuhai (FCCM 2020), sequential bursts"
_ASSUMED = "assumed"

MEMORIES = {
    "u280": BoardMemory(kind="HBM2", peak_gb_s=460.8, share=0.92, latency_ns=138, source=_SHUHAI),
    "u50": BoardMemory(kind="HBM2", peak_gb_s=316.0, share=0.92, latency_ns=138, source=_SHUHAI),
    "u55c": BoardMemory(kind="HBM2", peak_gb_s=460.0, share=0.92, latency_ns=138, source=_SHUHAI),
    "kv260": BoardMemory(kind="DDR4", peak_gb_s=19.2, share=0.90, latency_ns=200, source=_ASSUMED),
    "zcu104": BoardMemory(kind="DDR4", peak_gb_s=19.2, share=0.90, latency_ns=200, source=_ASSUMED),
    "pynq-z2": BoardMemory(kind="DDR3", peak_gb_s=4.2, share=0.85, latency_ns=250, source=_ASSUMED),
    "ulx3s": BoardMemory(
        kind="SDRAM", peak_gb_s=0.266, share=0.85, latency_ns=150, source=_ASSUMED
    ),
}
"""By the name of the board."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What an estimate is for.

    Attributes
    ----------
    name : str
        Of the board, or of the core where no board is meant.
    memory : BoardMemory or None
        None for a core in the simulator.
    timing : MemoryTiming
        The memory as the core sees it at `clock_mhz`.
    """

    name: str
    core: CoreConfig
    clock_mhz: float
    memory: BoardMemory | None
    timing: MemoryTiming


def board_target(name: str, core: CoreConfig, clock_mhz: float) -> Target:
    """Core `core` on the board `name`, one of MEMORIES."""
    memory = MEMORIES[name]
    bytes_per_cycle = memory.peak_gb_s * 1e3 / clock_mhz
    timing = MemoryTiming(
        latency=memory.latency_ns * clock_mhz / 1e3,
        bandwidth=min(1.0, memory.share * bytes_per_cycle / core.word_bytes),
    )
    return Target(name=name, core=core, clock_mhz=clock_mhz, memory=memory, timing=timing)


def core_target(core: CoreConfig) -> Target:
    """A core with the simulator's memory: one word per cycle, 40 cycles away."""
    return Target(
        name=core.name, core=core, clock_mhz=core.clock_mhz, memory=None, timing=MemoryTiming()
    )


def find_target(name: str) -> Target:
    """The board, or the core configuration, called `name`; ConfigError lists the known ones.

    A board is estimated with the core built for it, at that one's clock.
    """
    if name in BOARDS:
        return board_target(name, BOARDS[name].config, BOARDS[name].clock_mhz)
    if name in CONFIGS:
        return core_target(CONFIGS[name])
    known = ", ".join((*BOARDS, *CONFIGS))
    raise ConfigError(f"unknown board or core {name!r}; known: {known}")
