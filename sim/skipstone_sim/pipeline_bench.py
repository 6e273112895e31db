"""Plays vectors through a free-running pipeline: for the arithmetic units, which have no handshake.

`run_pipeline` wraps the unit so that it can be frozen, hands the vectors to a bench in a file, and
runs that bench twice: without pauses, and with the unit frozen at random while its inputs change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import EnableInserter, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from numpy.typing import ArrayLike

from .bench import run_bench

__all__ = ["Pausable", "run_pipeline"]


class Pausable(wiring.Component):
    """A pipeline that advances only in cycles in which `en` is 1.

    Parameters
    ----------
    unit : wiring.Component
        The pipeline; its ports become this component's.

    Members
    -------
    en : In(1)
    """

    def __init__(self, unit: wiring.Component):
        self._unit = unit
        super().__init__({**unit.signature.members, "en": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = EnableInserter(self.en)(self._unit)
        for name, member in self._unit.signature.members.items():
            inner, outer = getattr(self._unit, name), getattr(self, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        return m


def run_pipeline(
    unit: Any,
    *,
    bench: Path,
    inputs: Mapping[str, ArrayLike],
    output: str,
    expected: ArrayLike,
    timeout_s: float = 600.0,
) -> str:
    """Assert that `inputs`, one row per cycle, give `expected` after the unit's PIPELINE_CYCLES.

    Parameters
    ----------
    unit
        A component with a `PIPELINE_CYCLES` whose ports are plain signals.
    bench
        File with the coroutines that play the vectors.
    inputs
        One array of integers for each input port of at least one bit.
    output, expected
        The output port and its values, integers.

    Returns the log of the bench.
    """
    columns: dict[str, Any] = {
        f"in_{name}": np.asarray(values, np.int64) for name, values in inputs.items()
    }
    rows = np.asarray(expected, np.int64)
    lengths = {len(rows), *(len(column) for column in columns.values())}
    if len(lengths) != 1:
        raise ValueError(f"inputs and expected must be equally long, not {sorted(lengths)}")
    with tempfile.TemporaryDirectory(prefix="skipstone-pipeline-") as scratch:
        vectors = Path(scratch) / "vectors.npz"
        np.savez(vectors, expected=rows, **columns)
        return run_bench(
            Pausable(unit),
            test_module=bench,
            parameters={
                "vectors": str(vectors),
                "output": output,
                "cycles": unit.PIPELINE_CYCLES,
            },
            timeout_s=timeout_s,
        )
