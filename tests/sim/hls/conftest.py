"""Compiled engines, once a session."""

from collections.abc import Callable, Iterator

import pytest

from skipstone.devices import Device
from skipstone.spec.config import CoreConfig
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.hls.device import CsimDevice
from skipstone_sim.hls.fast import FastDevice, Products
from skipstone_sim.lockstep import Lockstep

ENGINES: dict[str, Callable[[CoreConfig], Device]] = {
    "ap_int": CsimDevice,
    "native": lambda config: CsimDevice(config, ap_int=False),
    "plain": lambda config: FastDevice(config, products=Products.PLAIN),
    "vectors": lambda config: FastDevice(config, products=Products.VECTORS, threads=3),
    "fast": FastDevice,
}


@pytest.fixture(scope="session")
def golden_and() -> Iterator[Callable[[str, CoreConfig], Lockstep]]:
    """Golden beside an engine of a configuration."""
    opened: dict[tuple[str, CoreConfig], Lockstep] = {}

    def open_both(engine: str, config: CoreConfig) -> Lockstep:
        key = (engine, config)
        if key not in opened:
            opened[key] = Lockstep(GoldenDevice(config), ENGINES[engine](config))
        return opened[key]

    yield open_both
    for both in opened.values():
        both.actual.close()
