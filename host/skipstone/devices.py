"""The device contract: what the engine needs of anything that can run an image.

A device owns memory, counted in words of its core configuration, and runs one program at a time.
The golden model, the simulated gateware and real boards implement it; nothing above it knows which
one runs. Devices are found by name through the entry point group ``skipstone.devices``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from inspect import signature
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .spec.config import CoreConfig, named_config
from .spec.errors import ConfigError
from .spec.image import Image

__all__ = [
    "DEFAULT_CORE",
    "Device",
    "Run",
    "RunResult",
    "device_names",
    "first_byte",
    "open_device",
]

NO_TOKEN = 0xFFFFFFFF
DEFAULT_CORE = "sim-small"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The registers of one kick (see `skipstone.spec.registers`)."""

    program_address: int
    program_length: int
    position: int
    chunk_tokens: int
    steps: int = 0
    eos_token: int = NO_TOKEN
    mode: int = 0

    def registers(self, memory_words: int, watchdog_cycles: int) -> dict[str, int]:
        """Values of all parameter registers, by name: the run's fields and the device's two."""
        fields = {name.upper(): value for name, value in asdict(self).items()}
        return fields | {"MEMORY_WORDS": memory_words, "WATCHDOG_CYCLES": watchdog_cycles}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What the registers say after a run."""

    tokens_done: int
    next_token: int


def first_byte(address: int, count: int, word_bytes: int, allocated: int) -> int:
    """Where word `address` begins; ValueError unless `count` bytes from there are `allocated`."""
    start = address * word_bytes
    if address < 0 or count < 0 or start + count > allocated:
        raise ValueError(f"bytes {start} to {start + count} lie beyond the allocated {allocated}")
    return start


class Device(ABC):
    """A core with its memory.

    Attributes
    ----------
    config : CoreConfig
    name : str
    """

    name: str
    config: CoreConfig
    brings_config: ClassVar[bool] = False
    """The configuration is the board's own: the device is opened without one."""

    @abstractmethod
    def allocate(self, words: int) -> None:
        """Provide words 0 .. `words`-1, zeroed. Raises DeviceError or MemoryError if there is no
        room."""

    @abstractmethod
    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        """Write bytes starting at word `address`. Raises ValueError beyond the allocated words."""

    @abstractmethod
    def read(self, address: int, count: int) -> NDArray[np.uint8]:
        """Read `count` bytes starting at word `address`."""

    @abstractmethod
    def start(self, run: Run) -> None:
        """Kick the core. Returns at once."""

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> RunResult:
        """Finish the run. Raises DeviceError with the core's error, or DeviceTimeoutError."""

    @abstractmethod
    def counters(self) -> dict[str, int]:
        """Counters of the last run, by the names of `registers.COUNTERS`; empty if not kept."""

    @abstractmethod
    def reset(self) -> None:
        """Bring the core back to idle; memory is kept."""

    def close(self) -> None:  # noqa: B027, most devices have nothing to release
        """Release everything."""

    def load(self, image: Image) -> None:
        """Allocate the image's memory and write its sections. Raises ImageError on a mismatch."""
        image.check_config(self.config)
        self.allocate(image.words)
        for section in image.sections.values():
            if section.data.size:
                self.write(section.address, np.asarray(section.data))


def device_names() -> list[str]:
    """Names of the installed devices."""
    return sorted(e.name for e in entry_points(group="skipstone.devices"))


def open_device(
    name: str,
    config: CoreConfig | None,
    *,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Device:
    """The device called `name` with core `config`; `progress` receives lines while it is prepared.

    Without `config`, the core is the board's own, or `DEFAULT_CORE` where it can be chosen.
    ``NAME:PLACE`` is device NAME with the option `place`. Raises ConfigError for an unknown name,
    and for a place that is missing or that the device does not take.
    """
    kind, colon, place = name.partition(":")
    for entry in entry_points(group="skipstone.devices"):
        if entry.name == kind:
            factory: Any = entry.load()
            if config is None and not getattr(factory, "brings_config", False):
                config = named_config(DEFAULT_CORE)
            placed = "place" in signature(factory).parameters
            if placed and not place and "place" not in options:
                raise ConfigError(f"device {kind!r} needs a place, as in {kind}:/dev/ttyUSB0")
            if colon and not placed:
                raise ConfigError(f"device {kind!r} takes no place, not {place!r}")
            if place:
                options["place"] = place
            return factory(config, progress=progress, **options)
    raise ConfigError(f"unknown device {kind!r}; known: {', '.join(device_names())}")
