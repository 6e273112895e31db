"""Reading and writing the regions through which host and core exchange tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..devices import Device
from ..spec.errors import ImageError
from ..spec.image import Image, Section
from ..spec.records import INPUT_RECORD, OUTPUT_RECORD, RECORD_BYTES, force_decisions

__all__ = ["Mailbox"]

_SECTIONS = ("program", "input", "records", "logits")


class Mailbox:
    """The input, record and logits regions of an image on a device."""

    def __init__(self, device: Device, image: Image):
        missing = [name for name in _SECTIONS if name not in image.sections]
        if missing:
            raise ImageError(f"the image has no section {', '.join(missing)}")
        self._device, self._sections = device, image.sections
        self._word_bytes = device.config.word_bytes
        self._vocabulary = int(image.model["vocabulary"])
        self._stride_bytes = 4 * int(image.model["logits_stride"])

    def _read(self, section: Section, offset: int, count: int) -> NDArray[np.uint8]:
        """`count` bytes at byte `offset` of a section, wherever words begin."""
        word, skip = divmod(offset, self._word_bytes)
        return self._device.read(section.address + word, skip + count)[skip:]

    def write_tokens(
        self, tokens: Sequence[int], decisions: NDArray[np.bool_] | None = None
    ) -> None:
        """Fill the input region; a decision map replaces the routers'."""
        records = np.zeros(len(tokens), INPUT_RECORD)
        records["token"] = tokens
        if decisions is not None:
            force_decisions(records, decisions)
        self._device.write(self._sections["input"].address, records.view(np.uint8))

    def read_records(self, position: int, count: int) -> NDArray[np.void]:
        """Output records of the tokens at `position` and after."""
        raw = self._read(self._sections["records"], position * RECORD_BYTES, count * RECORD_BYTES)
        return np.ascontiguousarray(raw).view(OUTPUT_RECORD)

    def read_logits(self, rows: int) -> NDArray[np.float32]:
        """The first `rows` rows of logits (rows, vocabulary)."""
        raw = self._read(self._sections["logits"], 0, rows * self._stride_bytes)
        table = np.ascontiguousarray(raw).view("<f4").reshape(rows, -1)
        return table[:, : self._vocabulary].astype(np.float32)
