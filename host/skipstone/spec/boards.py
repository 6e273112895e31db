"""The boards: what each offers, which core is built for it, and where that core's memory is.

Budgets are of the region that a design may use; a full device cannot be routed at speed;
`LIMITS` says how much of each resource a build may take.

References: AMD DS962, DS963, DS1003 (Alveo), DS987 (K26), DS891 (Zynq UltraScale+), DS190
(Zynq-7000); Lattice FPGA-DS-02012 (ECP5).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from .config import BOARD_CONFIGS, CoreConfig
from .errors import ConfigError
from .resources import check_budget

__all__ = [
    "BOARDS",
    "LIMITS",
    "MAX_LEVELS",
    "RESOURCES",
    "VLNV",
    "Board",
    "Family",
    "Memory",
    "named_board",
]

VLNV = ("skipstone.org", "skipstone", "skipstone_core", "1.0")
"""Vendor, library, name and version of the core as an IP; PYNQ finds the driver by it."""

RESOURCES = ("lut", "ff", "dsp", "bram", "uram")
"""What is budgeted. LUTs include those used as memory; block RAM counts in the device's large unit
(36 Kb on AMD devices, 18 Kb on ECP5)."""

LIMITS = MappingProxyType({"lut": 0.7, "ff": 0.5, "dsp": 0.8, "bram": 0.8, "uram": 0.8})
"""Largest share of a budget that a build may take."""

MAX_LEVELS = 10
"""Most levels of logic between two registers that a build should have at 225 MHz and above on
UltraScale+."""


class Family(Enum):
    """Device families, by the name that synthesis gives them."""

    ULTRASCALE_PLUS = "xcup"
    SERIES_7 = "xc7"
    ECP5 = "ecp5"


class Memory(Enum):
    """What the core's ports reach."""

    HBM = "HBM"
    DDR = "DDR"
    SDRAM = "SDRAM"


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Attributes
    ----------
    part
        Device, as the vendor's tools call it.
    budget
        Of each of `RESOURCES`.
    platform
        Vitis platform (Alveo), or Vivado board part.
    hbm_channels
        Pseudo channels of HBM.
    regions
        Super logic regions of the device.
    """

    name: str
    part: str
    family: Family
    memory: Memory
    budget: MappingProxyType[str, int]
    platform: str = ""
    hbm_channels: int = 0
    regions: int = 1

    @property
    def config(self) -> CoreConfig:
        """The core built for it, which has its name. Raises ConfigError if it takes more than the
        board has."""
        config = BOARD_CONFIGS[self.name]
        check_budget(config, self.name, self.budget)
        return config

    @property
    def clock_mhz(self) -> float:
        """Clock asked of the vendor's tools."""
        return self.config.clock_mhz


def _budget(lut: int, ff: int, dsp: int, bram: int, uram: int) -> MappingProxyType[str, int]:
    return MappingProxyType({"lut": lut, "ff": ff, "dsp": dsp, "bram": bram, "uram": uram})


BOARDS = {
    b.name: b
    for b in (
        Board(
            name="u280", part="xcu280-fsvh2892-2L-e", family=Family.ULTRASCALE_PLUS,
            memory=Memory.HBM, hbm_channels=32, regions=3,
            platform="xilinx_u280_gen3x16_xdma_1_202211_1",
            budget=_budget(1_303_680 - 107_600, 2_607_360, 9_024, 2_016, 960),  # less the shell
        ),
        Board(
            name="u50", part="xcu50-fsvh2104-2-e", family=Family.ULTRASCALE_PLUS,
            memory=Memory.HBM, hbm_channels=32, regions=2,
            platform="xilinx_u50_gen3x16_xdma_5_202210_1",
            budget=_budget(742_560, 1_485_120, 5_352, 1_128, 608),
        ),
        Board(
            name="u55c", part="xcu55c-fsvh2892-2L-e", family=Family.ULTRASCALE_PLUS,
            memory=Memory.HBM, hbm_channels=32, regions=3,
            platform="xilinx_u55c_gen3x16_xdma_3_202210_1",
            budget=_budget(1_131_000, 2_265_000, 8_304, 1_776, 960),
        ),
        Board(
            name="kv260", part="xck26-sfvc784-2LV-c", family=Family.ULTRASCALE_PLUS,
            memory=Memory.DDR,
            platform="xilinx.com:kv260_som:part0:1.4",
            budget=_budget(117_120, 234_240, 1_248, 144, 64),
        ),
        Board(
            name="zcu104", part="xczu7ev-ffvc1156-2-e", family=Family.ULTRASCALE_PLUS,
            memory=Memory.DDR,
            platform="xilinx.com:zcu104:part0:1.1",
            budget=_budget(230_400, 460_800, 1_728, 312, 96),
        ),
        Board(
            name="pynq-z2", part="xc7z020clg400-1", family=Family.SERIES_7,
            memory=Memory.DDR,
            platform="tul.com.tw:pynq-z2:part0:1.0",
            budget=_budget(53_200, 106_400, 220, 140, 0),
        ),
        Board(
            name="ulx3s", part="LFE5U-85F-6BG381C", family=Family.ECP5,
            memory=Memory.SDRAM,
            budget=_budget(83_640, 83_640, 156, 208, 0),
        ),
    )
}  # fmt: skip


def named_board(name: str) -> Board:
    """The board called `name`; ConfigError lists the known ones."""
    try:
        return BOARDS[name]
    except KeyError:
        known = ", ".join(sorted(BOARDS))
        raise ConfigError(f"unknown board {name!r}; known: {known}") from None
