"""A decoder layer of a public model, at full size, through the simulated gateware.

Figures are of one layer in the middle of a model: what a stack of two costs more than a stack of
one, so that fetching the program, embedding and logits do not count. Weights are random; which
tokens execute what is given by the host. The context before a measured token is made of tokens that
skip everything and whose K and V are those of a narrow model with one KV head: the core takes them
for stored, which is all that its time depends on, and a hundredth of the work is simulated.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from skipstone.compiler import compile_model
from skipstone.estimate.cycles import Decisions, MemoryTiming, RunModel
from skipstone.estimate.parameters import load_calibration
from skipstone.model import ModelConfig, named_shape
from skipstone.runtime import DecisionMap, Engine
from skipstone.spec.config import CoreConfig, named_config
from skipstone.spec.errors import SkipstoneError
from skipstone.spec.image import Image
from skipstone.spec.isa import Epilogue, Instruction, Opcode, decode_program, encode_program
from skipstone.spec.records import MODULES
from skipstone.spec.registers import Mode
from skipstone_sim.dram import DRAMS, Dram
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.random_model import random_model, random_shape
from skipstone_sim.rtl import RtlDevice
from skipstone_sim.verify import verify

from .bound import SequenceBound
from .rows import Row

__all__ = ["BOARD_DRAM", "run"]

Progress = Callable[[str], None]

BOARD_DRAM = {"u280": "hbm2", "u50": "hbm2", "u55c": "hbm2", "kv260": "ddr4", "zcu104": "ddr4"}
"""Memory of the boards whose cores these are."""

_LAYERS = (1, 2)


@dataclass
class LayerCost:
    """What the second layer of a stack costs.

    Attributes
    ----------
    counters : Counter of str
        Differences of the core's counters.
    bound : int
        Words of weights, K and V that had to be read.
    estimated : float
        Cycles by `skipstone.estimate`.
    """

    counters: Counter[str] = field(default_factory=Counter)
    bound: int = 0
    estimated: float = 0.0

    def add(self, other: LayerCost, times: int = 1) -> None:
        """Count another layer so many times."""
        for name, value in other.counters.items():
            self.counters[name] += times * value
        self.bound += times * other.bound
        self.estimated += times * other.estimated


def stack(shape: ModelConfig, layers: int, core: CoreConfig, capacity: int) -> Image:
    """Image of `layers` random layers of `shape`, with a small vocabulary."""
    small = replace(
        shape, name=f"{shape.name} layer", layers=layers, vocab=max(64, core.columns),
        max_positions=capacity, kv_rule="kv_recompute", tied=False,
    )  # fmt: skip
    model = random_model(small, group=core.group, skip=None, branch=0.1)
    return compile_model(model, core, kv_capacity=capacity)


def filler(image: Image, shape: ModelConfig) -> Image:
    """An image with which tokens enter the KV stores of `image`, a stack of `shape`, cheaply.

    Its model is as narrow as the core allows, and K and V end after the first head.
    """
    core, layers = image.config, int(image.model["layers"])
    narrow = replace(shape, hidden=core.group, ffn=core.group)
    small = stack(narrow, layers, core, int(image.model["kv_capacity"]))
    stores = {i.layer: i.a for i in _program(image) if i.opcode is Opcode.ROUTE}
    program = []
    for i in _program(small):
        if i.opcode is Opcode.ROUTE:
            i = replace(i, a=stores[i.layer])
        elif i.epilogue in (Epilogue.KEY, Epilogue.VALUE):
            i = replace(i, blocks=shape.head_dim // core.columns)
        program.append(i)
    if small.words > min(stores.values()):
        raise ValueError(f"a layer of {shape.name} is too small to enter its KV store from another")
    data = np.frombuffer(encode_program(program), np.uint8)
    sections = {
        **small.sections,
        "program": replace(small.sections["program"], data=data),
        "kv": image.sections["kv"],
    }
    return Image(core, small.model, sections)


def _program(image: Image) -> Sequence[Instruction]:
    return decode_program(np.asarray(image.sections["program"].data).tobytes())


class _Pair:
    """Stacks of one layer and of two, taking the same sequence."""

    def __init__(self, device: RtlDevice, shape: ModelConfig, capacity: int, timing: MemoryTiming):
        self._device, self._timing = device, timing
        self._images = [stack(shape, layers, device.config, capacity) for layers in _LAYERS]
        self._fillers = [filler(image, shape) for image in self._images]
        self.wall_s, self.cycles = 0.0, 0

    def measure(self, before: int, chunks: Sequence[DecisionMap]) -> list[LayerCost]:
        """Costs of chunks that follow each other from position `before` on; each is (tokens,
        layers, modules)."""
        costs = [LayerCost() for _ in chunks]
        whole = np.concatenate([np.zeros((before, 2, len(MODULES)), np.bool_), *chunks])
        for n, (image, sign) in enumerate(zip(self._images, (-1, 1), strict=True)):
            decisions = np.ascontiguousarray(whole[:, : _LAYERS[n]])
            bound = SequenceBound(image, decisions)
            estimate = RunModel(
                _program(image), image.config,
                Decisions(*(decisions[:, :, MODULES.index(m)] for m in ("attention", "mlp"))),
                load_calibration().parameters, self._timing,
            )  # fmt: skip
            begin, started = time.perf_counter(), self._device.cycles
            if before:
                Engine(self._device, self._fillers[n]).forward([0] * before, decisions=False)
            engine = Engine(self._device, image)
            engine.length = before
            tokens = [n % engine.vocabulary for n in range(len(whole))]
            for chunk, cost in zip(chunks, costs, strict=True):
                at = range(engine.length, engine.length + len(chunk))
                part = slice(at.start, at.stop)
                result = engine.forward(tokens[part], at.start, decisions=decisions[part])
                words = bound.weights(at) + sum(map(bound.kv, at))
                estimated = estimate.run(at.start, len(at), mode=Mode.LOGITS).cycles
                cost.add(LayerCost(Counter(result.counters), words, estimated), sign)
            self.wall_s += time.perf_counter() - begin
            self.cycles += self._device.cycles - started
        return costs


def _row_of(on: str, case: str) -> Callable[..., Row]:
    def row(figure: str, value: float, unit: str = "", aim: str = "") -> Row:
        return Row(
            figure=figure, value=value, unit=unit, kind="rtl", subject=f"{on}, {case}", aim=aim
        )

    return row


def _estimate_error(cost: LayerCost, row: Callable[..., Row]) -> Row:
    error = cost.estimated / cost.counters["cycles"] - 1
    return row("estimate_error", 100 * error, "%", "at most 2 either way")


def _decode_rows(
    cost: LayerCost, core: CoreConfig, dram: Dram | None, row: Callable[..., Row]
) -> list[Row]:
    cycles = cost.counters["cycles"]
    deliverable = 1.0 if dram is None else dram.deliverable(core)
    memory = cost.bound / deliverable  # cycles that memory needs
    # Non-linear functions and hand-over: what neither memory nor the array accounts for.
    lost = cycles - max(memory, cost.counters["array_busy"])
    out = [
        row("decode_layer_cycles", cycles, "cycles"),
        row("decode_layer_bound", cost.bound, "words"),
        row("decode_bandwidth_efficiency", 100 * memory / cycles, "%", "at least 95"),
        row("nonlinear_share", 100 * lost / cycles, "%", "at most 2"),
        _estimate_error(cost, row),
    ]
    if dram is not None:
        peak = cost.bound / cycles / dram.port_share(core)
        out.append(row("decode_bandwidth_efficiency_of_peak", 100 * peak, "%"))
    return out


def _prefill_rows(
    cost: LayerCost, shape: ModelConfig, core: CoreConfig, chunk: int, row: Callable[..., Row]
) -> list[Row]:
    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    weights = shape.hidden * (2 * query + 2 * kv + 3 * shape.ffn)
    multipliers = core.rows * core.columns * core.lanes
    cycles = cost.counters["cycles"]
    used = chunk * weights / (multipliers * cycles)
    return [
        row("prefill_layer_cycles", cycles, "cycles"),
        row("prefill_utilisation", 100 * used, "%", "at least 90"),
        _estimate_error(cost, row),
    ]


def _same_bits(device: RtlDevice) -> int:
    """Words of a small routed model that were compared with golden's: the core computes, too.

    Raises SkipstoneError if one differs.
    """
    core = device.config
    shape = random_shape(
        hidden=2 * core.group, ffn=2 * core.group, head_dim=core.min_head_dim, heads=2, kv_heads=2,
        max_positions=64,
    )  # fmt: skip
    image = compile_model(random_model(shape, group=core.group), core, kv_capacity=64)
    report = verify(image, GoldenDevice(core), [device], range(20), tokens=6)
    if not report.identical:
        raise SkipstoneError(f"{core.name} differs from golden: {report.difference}")
    return report.words_compared


def run(
    shapes: Sequence[str | ModelConfig],
    *,
    core: str = "u280",
    contexts: Sequence[int] = (128,),
    chunks: Sequence[int] = (64,),
    skips: Sequence[float] = (0.0, 0.25),
    tokens: int = 2,
    memory: str | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Rows of each shape on `core`, behind `memory` (a key of `DRAMS`, or "ideal"; default: the
    board's).

    Up to each of `contexts`, `tokens` tokens are decoded one by one for each of `skips`, the share
    of module executions that skip; each of `chunks` is prefilled at once.
    """
    config = named_config(core)
    kind = memory or BOARD_DRAM.get(core, "ideal")
    dram = None if kind == "ideal" else DRAMS[kind]
    say = progress or (lambda line: None)
    behind = None if dram is None else dram.model(config)
    timing = MemoryTiming()
    if dram is not None and behind is not None:
        timing = MemoryTiming(behind.latency, dram.deliverable(config))
    device = RtlDevice(config, memory=behind, watchdog_cycles=0, progress=progress)
    longest = max(0, *contexts, *chunks)
    rng = np.random.default_rng(5)
    out: list[Row] = []
    wall_s, cycles = 0.0, 0
    try:
        say("comparing with golden")
        words = _same_bits(device)
        out.append(_row_of(f"random model on {core}", "routed")("identical_words", words, "words"))
        for given in shapes:
            shape = named_shape(given) if isinstance(given, str) else given
            on = f"{shape.name} layer on {core}, {kind}"
            say(f"making layers of {shape.name}")
            pair = _Pair(device, shape, -(-longest // 64) * 64, timing)

            for context in contexts:
                say(f"{shape.name}: decoding at context {context}")
                maps = [rng.random((1, 2, len(MODULES))) >= s for s in skips for _ in range(tokens)]
                costs = pair.measure(context - len(maps), maps)
                for n, skip in enumerate(skips):
                    total = LayerCost()
                    for cost in costs[n * tokens : (n + 1) * tokens]:
                        total.add(cost)
                    row = _row_of(on, f"context {context}, {skip:.0%} skipped")
                    out += _decode_rows(total, config, dram, row)
            for chunk in chunks:
                say(f"{shape.name}: prefilling {chunk} tokens")
                (cost,) = pair.measure(0, [np.ones((chunk, 2, len(MODULES)), np.bool_)])
                out += _prefill_rows(cost, shape, config, chunk, _row_of(on, f"chunk of {chunk}"))
            wall_s, cycles = wall_s + pair.wall_s, cycles + pair.cycles
    finally:
        device.close()
    rate = Row(
        figure="simulated_cycles_per_wall_second", value=cycles / wall_s, unit="cycles/s",
        kind="rtl", subject=core,
    )  # fmt: skip
    return [*out, rate]
