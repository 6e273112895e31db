"""What the memory of a board delivers, for the estimate."""

from __future__ import annotations

from dataclasses import dataclass

from ..spec.config import CoreConfig
from .cycles import MemoryTiming

__all__ = ["MEMORIES", "BoardMemory", "board_timing"]


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
"""By the name of the board, which is also that of its core configuration."""


def board_timing(core: CoreConfig) -> tuple[BoardMemory | None, MemoryTiming]:
    """The board's memory as core `core` sees it; a core without a board has the simulator's: one
    word per cycle, 40 cycles away."""
    memory = MEMORIES.get(core.name)
    if memory is None:
        return None, MemoryTiming()
    bytes_per_cycle = memory.peak_gb_s * 1e3 / core.clock_mhz
    return memory, MemoryTiming(
        latency=memory.latency_ns * core.clock_mhz / 1e3,
        bandwidth=min(1.0, memory.share * bytes_per_cycle / core.word_bytes),
    )
