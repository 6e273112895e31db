"""Bench of the decisions: masks and maps of whole chunks against the golden device's rule."""

from __future__ import annotations

import random
from typing import Any

import cocotb

from skipstone.spec.records import FORCE
from skipstone_hw.embed import InputRecordLayout
from skipstone_sim.bench_tools import begin, bench_config, cycle, pack

CONFIG = bench_config()
MODULES = ("attention", "mlp")

Record = dict[str, int]


def random_record(rng: random.Random) -> Record:
    return {
        "token": rng.getrandbits(32),
        "flags": rng.getrandbits(32) & ~FORCE | (FORCE if rng.random() < 0.4 else 0),
        "attention": rng.getrandbits(64),
        "mlp": rng.getrandbits(64),
        "reserved": rng.getrandbits(64),
    }


def executes(record: Record, module: str, layer: int, skips: int, token: int) -> bool:
    if record["flags"] & FORCE:
        return bool(record[module] >> layer & 1)
    return not skips >> token & 1


async def chunk(dut: Any, rng: random.Random, count: int) -> None:
    """Records in any order, then every layer, then the maps."""
    dut.count.value, dut.clear.value = count, 1
    await cycle(dut)
    dut.clear.value = 0
    records = [random_record(rng) for _ in range(count)]
    for token in rng.sample(range(count), count):
        dut.record.value = pack(InputRecordLayout(), records[token])
        dut.record_index.value, dut.record_valid.value = token, 1
        await cycle(dut)
        dut.record_valid.value = 0
        dut.record.value = pack(InputRecordLayout(), random_record(rng))
        await cycle(dut, rng.randint(0, 2))
    assert dut.present.value == (1 << count) - 1
    maps = {module: [0] * count for module in MODULES}
    for layer in range(CONFIG.max_layers):
        if rng.random() < 0.1:  # a layer without routers changes nothing
            continue
        skips = {module: rng.getrandbits(CONFIG.max_chunk) for module in MODULES}
        for module in MODULES:
            getattr(dut, f"skip_{module}").value = skips[module]
        dut.layer.value, dut.route.value = layer, 1
        await cycle(dut)
        dut.route.value = 0
        for module in MODULES:
            getattr(dut, f"skip_{module}").value = rng.getrandbits(CONFIG.max_chunk)
        await cycle(dut, 2)
        for module in MODULES:
            execute = [executes(r, module, layer, skips[module], n) for n, r in enumerate(records)]
            mask = sum(1 << n for n, yes in enumerate(execute) if yes)
            assert getattr(dut, module).value == mask
            assert getattr(dut, f"executed_{module}").value == mask.bit_count()
            for n, yes in enumerate(execute):
                maps[module][n] |= yes << layer
    for token in range(count):
        dut.report_index.value = token
        await cycle(dut, 2)
        for module in MODULES:
            assert getattr(dut, f"{module}_map").value == maps[module][token]


@cocotb.test()
async def chunks(dut):
    rng = random.Random(2)
    await begin(dut)
    await chunk(dut, rng, CONFIG.max_chunk)
    for _ in range(12):
        await chunk(dut, rng, rng.randint(1, CONFIG.max_chunk))
