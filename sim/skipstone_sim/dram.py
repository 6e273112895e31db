"""DRAM behind the simulated ports: what published microbenchmarks say of it, in a core's cycles.

No maintained DRAM simulator (Ramulator, DRAMsim, DRAMSys) is to be had as a package, and what a
stream of long bursts sees of a DRAM is little: latencies, the rows it opens, refresh, and turning
the bus round. `harness/dram.h` models that much, and says what it leaves out.

Calibrated to: Z. Wang, H. Huang, J. Zhang, G. Alonso, "Shuhai: Benchmarking High Bandwidth Memory
on FPGAs", FCCM 2020: idle latencies (page hit, closed, miss), and the bandwidth of sequential
reads, of HBM2 and of DDR4-2400 on the Alveo U280. Bank counts, page sizes, row cycles and refresh
intervals are those of JESD235 (HBM2) and JESD79-4 (DDR4). The time that a refresh takes is not the
standard's: it is set so that sequential reads get what was measured, whatever else the controller
loses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from skipstone.spec.config import CoreConfig

from .verilated import DramCycles, MemoryModel

__all__ = ["DRAMS", "Dram"]


@dataclass(frozen=True, kw_only=True)
class Dram:
    """One channel of DRAM.

    Attributes
    ----------
    bytes_per_s
        Peak bandwidth.
    share
        Part of it that sequential reads get.
    hit_ns, closed_ns, miss_ns
        From an address to its first data: its row is open; its bank is closed; another row is open.
    row_cycle_ns
        Least time between two rows of a bank.
    page_bytes, banks
    refresh_interval_ns
    turnaround_ns
        Between reading and writing.
    per_port
        Each port has a channel; else all share one.
    """

    bytes_per_s: float
    share: float
    hit_ns: float
    closed_ns: float
    miss_ns: float
    row_cycle_ns: float
    page_bytes: int
    banks: int
    refresh_interval_ns: float
    turnaround_ns: float
    per_port: bool

    def port_share(self, config: CoreConfig) -> float:
        """Peak of the memory behind a port, over the port's own bytes per cycle; may exceed 1."""
        channels = config.ports if self.per_port else 1
        port_bytes_per_s = config.port_bytes * config.clock_mhz * 1e6
        return channels * self.bytes_per_s / (config.ports * port_bytes_per_s)

    def deliverable(self, config: CoreConfig) -> float:
        """Words per cycle that sequential reads of `config` get at most."""
        return min(1.0, self.port_share(config)) * self.share

    def model(self, config: CoreConfig, *, switch_ns: float = 0.0) -> MemoryModel:
        """This memory behind the ports of `config`; `switch_ns` is added to every latency."""

        def cycles(ns: float) -> int:
            return math.ceil(ns * config.clock_mhz / 1000)

        hit = cycles(self.hit_ns + switch_ns)
        interval = round(self.refresh_interval_ns * config.clock_mhz / 1000)
        return MemoryModel(
            latency=hit,
            bandwidth=min(1.0, self.port_share(config)),
            outstanding=config.outstanding,
            dram=DramCycles(
                page_bytes=self.page_bytes if self.per_port else self.page_bytes // config.ports,
                banks=self.banks,
                closed=cycles(self.closed_ns + switch_ns) - hit,
                miss=cycles(self.miss_ns + switch_ns) - hit,
                row_cycle=cycles(self.row_cycle_ns),
                refresh_interval=interval,
                refresh=round(interval * (1 - self.share)),
                turnaround=cycles(self.turnaround_ns),
            ),
        )


DRAMS = {
    # A pseudo channel of HBM2 on the U280, 64 bits at 1.8 Gb/s: 13.27 of 14.4 GB/s.
    "hbm2": Dram(
        bytes_per_s=14.4e9, share=13.27 / 14.4, hit_ns=106.7, closed_ns=122.2, miss_ns=137.8,
        row_cycle_ns=48.0, page_bytes=1024, banks=16, refresh_interval_ns=3900.0,
        turnaround_ns=15.0, per_port=True,
    ),
    # A 64-bit channel of DDR4-2400: 18.0 of 19.2 GB/s.
    "ddr4": Dram(
        bytes_per_s=19.2e9, share=18.0 / 19.2, hit_ns=73.3, closed_ns=89.9, miss_ns=106.6,
        row_cycle_ns=46.0, page_bytes=8192, banks=16, refresh_interval_ns=7800.0,
        turnaround_ns=15.0, per_port=False,
    ),
}  # fmt: skip
