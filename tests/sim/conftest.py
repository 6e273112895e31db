"""Simulated cores, built once a session, and images of random models."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest

from skipstone.compiler import compile_model
from skipstone.spec.config import CONFIGS
from skipstone.spec.image import Image
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.lockstep import Lockstep
from skipstone_sim.random_model import random_model, random_shape
from skipstone_sim.rtl import RtlDevice
from skipstone_sim.verilated import MemoryModel

WATCHDOG_CYCLES = 20_000
CORES = CONFIGS | {
    "sim-tiny, two regions": replace(CONFIGS["sim-tiny"], region_registers=True),
}
"""Those that tests ask for by name."""


@cache
def image(
    core: str,
    *,
    skip: float | None = 0.3,
    seed: int = 0,
    capacity: int = 64,
    kv_skip: float | tuple[float, ...] = 0.0,
    **fields: object,
) -> Image:
    """The image of a random model; `fields` are those of `ModelConfig`."""
    config = CORES[core]
    shape = random_shape(max_positions=capacity, **fields)
    model = random_model(shape, group=config.group, skip=skip, seed=seed)
    return compile_model(model, config, kv_capacity=capacity, kv_expected_skip=kv_skip)


@pytest.fixture(scope="session")
def random_image() -> Callable[..., Image]:
    return image


@pytest.fixture(scope="session")
def lockstep() -> Iterator[Callable[..., Lockstep]]:
    """Opens golden and gateware of a configuration; those without options are shared."""
    opened: dict[str, Lockstep] = {}
    devices: list[RtlDevice] = []

    def open_both(name: str, *, memory: MemoryModel | None = None, seed: int = 1) -> Lockstep:
        if memory is None and name in opened:
            return opened[name]
        config = CORES[name]
        device = RtlDevice(
            config,
            memory=memory,
            seed=seed,
            watchdog_cycles=WATCHDOG_CYCLES,
        )
        devices.append(device)
        both = Lockstep(GoldenDevice(config), device)
        if memory is None:
            opened[name] = both
        return both

    yield open_both
    for device in devices:
        device.close()
