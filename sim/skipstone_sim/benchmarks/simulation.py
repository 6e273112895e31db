"""Cycles simulated per second: the Verilog as it is emitted, and as Amaranth alone would write it.

What `skipstone_hw.emit` shapes: parts that are placed many times are modules of their own
(`skipstone_hw.leaf`), registers keep their enables (`skipstone_hw.clocked`), fields and zeros are
left out. Both run the same program, in turns, with the same options of Verilator and the compiler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from skipstone.runtime import Engine
from skipstone.spec.config import named_config
from skipstone.spec.errors import SkipstoneError
from skipstone_hw.emit import emit_unshaped
from skipstone_sim.rtl import RtlDevice

from .decode import workload
from .rows import Row

__all__ = ["SUBJECTS", "run"]

SUBJECTS = ("sim-tiny:nano", "sim-small:stories", "sim-large:random")
_PROMPT = 16


def run(subjects: Sequence[str], tokens: int, *, progress: Callable[[str], None]) -> list[Row]:
    """Measure each CORE:MODEL. Raises SkipstoneError if the two differ in cycles."""
    out = []
    for subject in subjects:
        core_name, _, model = subject.partition(":")
        core = named_config(core_name)
        work = workload(core, model, _PROMPT, tokens)
        progress(f"{core.name} as Amaranth writes it")
        devices = {
            "before": RtlDevice(core, gateware=emit_unshaped(core, probe=True), progress=progress),
            "after": RtlDevice(core, progress=progress),
        }
        engines = {which: Engine(device, work.image) for which, device in devices.items()}
        wall_s, cycles = dict.fromkeys(devices, 0.0), dict.fromkeys(devices, 0)
        for engine in engines.values():
            engine.forward(work.prompt)
        for token in work.tokens:
            for which, engine in engines.items():
                begin = time.perf_counter()
                counters = engine.forward([token], engine.length).counters
                wall_s[which] += time.perf_counter() - begin
                cycles[which] += counters["cycles"]
        for device in devices.values():
            device.close()
        if cycles["before"] != cycles["after"]:
            raise SkipstoneError(f"{core.name}: not the same circuit: {cycles} cycles")
        speed = {which: cycles[which] / wall_s[which] for which in devices}
        for which, value in speed.items():
            out.append(
                Row(
                    figure=f"simulated_cycles_per_second_{which}",
                    value=value, unit="cycles/s", kind="rtl", subject=core.name,
                )
            )  # fmt: skip
        ratio = speed["after"] / speed["before"]
        out.append(
            Row(figure="shaping_gain", value=ratio, unit="", kind="rtl", subject=core.name)
        )  # fmt: skip
    return out
