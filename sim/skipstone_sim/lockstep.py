"""Two devices at the same work, compared after every run.

The comparison is total: every byte of memory, what the run returned or which error ended it, and
the counters that do not depend on timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Device, Run, RunResult
from skipstone.spec.errors import CoreErrorCode, DeviceError
from skipstone.spec.image import Image
from skipstone.spec.records import FORCE, INPUT_RECORD

__all__ = ["ARCHITECTURAL_COUNTERS", "Lockstep", "Mismatch", "input_records"]

ARCHITECTURAL_COUNTERS = (
    "instructions",
    "instructions_skipped",
    "words_weights",
    "attention_executed",
    "attention_skipped",
    "mlp_executed",
    "mlp_skipped",
    "history_hits",
    "history_gaps",
    "history_fresh",
)
"""Counters that every device counts alike."""


class Mismatch(AssertionError):
    """The devices differ; the message says where."""


def input_records(
    tokens: Sequence[int], *, maps: tuple[Sequence[int], Sequence[int]] | None = None
) -> NDArray[np.void]:
    """A chunk's input records; `maps` force the tokens' attention and MLP maps (bit l: layer l)."""
    records = np.zeros(len(tokens), INPUT_RECORD)
    records["token"] = tokens
    if maps is not None:
        records["flags"] = FORCE
        records["attention"], records["mlp"] = maps
    return records


class Lockstep:
    """Two devices of one configuration.

    Parameters
    ----------
    expected, actual
        The judge, and the device under test; neither may be running.
    """

    def __init__(self, expected: Device, actual: Device):
        self.expected, self.actual = expected, actual
        self.image: Image | None = None

    def load(self, image: Image) -> None:
        """Load the image on both."""
        self.image = image
        for device in (self.expected, self.actual):
            device.load(image)

    def write(self, section: str, data: NDArray[np.generic]) -> None:
        """Write to the beginning of a section of both."""
        assert self.image is not None, "load() comes first"
        raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        for device in (self.expected, self.actual):
            device.write(self.image.sections[section].address, raw)

    def kick(
        self,
        records: NDArray[np.void],
        *,
        position: int = 0,
        timeout_s: float = 120,
        **changes: int,
    ) -> RunResult:
        """Run the image's program on this chunk and compare; `changes` replace fields of the run.

        Raises Mismatch, or the DeviceError that both devices ended with.
        """
        return self.run(self.request(records, position=position, **changes), timeout_s=timeout_s)

    def request(self, records: NDArray[np.void], **changes: int) -> Run:
        """Write this chunk's records; the run of the image's program on it."""
        assert self.image is not None, "load() comes first"
        self.write("input", records)
        run = Run(
            program_address=self.image.sections["program"].address,
            program_length=self.image.model["program_length"],
            position=0,
            chunk_tokens=len(records),
        )
        return replace(run, **changes)

    def run(self, run: Run, *, timeout_s: float = 120) -> RunResult:
        """Run on both and compare. Raises Mismatch, or the DeviceError that both ended with."""
        outcomes = [_outcome(d, run, timeout_s) for d in (self.expected, self.actual)]
        expected, actual = outcomes
        match expected, actual:
            case DeviceError(), DeviceError() if _place(expected) == _place(actual):
                raise expected
        if expected != actual:
            raise Mismatch(
                f"{self.actual.name}: {actual!r}, but {self.expected.name}: {expected!r}"
            )
        self.compare_counters()
        self.compare_memory()
        assert isinstance(expected, RunResult)
        return expected

    def fail(self, run: Run, code: CoreErrorCode) -> int:
        """The instruction at which both end in this error. Raises Mismatch if they do not."""
        try:
            result = self.run(run)
        except DeviceError as error:
            if error.code is not code:
                raise Mismatch(f"both end in {error!r}, not {code!r}") from None
            return error.pc
        raise Mismatch(f"both return {result!r} instead of {code!r}")

    def compare_counters(self) -> None:
        """Raise Mismatch if a counter that both keep differs."""
        expected, actual = self.expected.counters(), self.actual.counters()
        found = {
            name: (actual[name], expected[name])
            for name in ARCHITECTURAL_COUNTERS
            if actual[name] != expected[name]
        }
        if found:
            raise Mismatch(f"counters ({self.actual.name}, {self.expected.name}): {found}")

    def compare_memory(self) -> None:
        """Raise Mismatch at the first byte that differs."""
        assert self.image is not None, "load() comes first"
        count = self.image.words * self.image.config.word_bytes
        expected, actual = self.expected.read(0, count), self.actual.read(0, count)
        different = np.flatnonzero(expected != actual)
        if not different.size:
            return
        word, byte = divmod(int(different[0]), self.image.config.word_bytes)
        places = {
            section.name: word - section.address
            for section in self.image.sections.values()
            if section.address <= word < section.end
        }
        raise Mismatch(
            f"{different.size} bytes of memory differ, the first at byte {byte} of word {word} "
            f"{places}: {self.actual.name} has {actual[different[0]]}, "
            f"{self.expected.name} {expected[different[0]]}"
        )

    def copy_memory(self) -> None:
        """Give the judge the memory of the device under test, as after a run that failed."""
        assert self.image is not None, "load() comes first"
        count = self.image.words * self.image.config.word_bytes
        self.expected.write(0, self.actual.read(0, count))


def _outcome(device: Device, run: Run, timeout_s: float) -> RunResult | DeviceError:
    device.start(run)
    try:
        return device.wait(timeout_s)
    except DeviceError as error:
        return error


def _place(error: DeviceError) -> tuple[int, int]:
    return error.code, error.pc
