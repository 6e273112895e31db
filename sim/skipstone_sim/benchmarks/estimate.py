"""The cycle model against the simulated gateware, and the fit of its constants.

Random models of several shapes run on several cores, with memories of several latencies and
bandwidths: prefill in chunks, then decoding at several contexts, with and without skipping. Each
run's cycles are what the core counted. The model is given the decisions that the core reports.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.compiler import compile_model
from skipstone.estimate import Calibration, Decisions, MemoryTiming, Parameters, RunModel
from skipstone.model import ModelConfig
from skipstone.runtime import Engine
from skipstone.runtime.mailbox import Mailbox
from skipstone.spec.config import named_config
from skipstone.spec.isa import decode_program
from skipstone.spec.registers import Mode
from skipstone_sim.random_model import random_model, random_shape
from skipstone_sim.rtl import RtlDevice
from skipstone_sim.verilated import MemoryModel

from .rows import Row

__all__ = ["GRID", "Measured", "Phase", "Point", "errors", "fit", "measure", "rows", "worst"]

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place of the grid.

    Attributes
    ----------
    prompt : int
        Tokens of the prefill.
    decode : int
        Tokens decoded after it, each in a run with logits; then as many greedily in one run.
    """

    core: str
    shape: ModelConfig
    skip: float | None
    prompt: int
    decode: int = 4
    latency: int = 40
    bandwidth: float = 1.0

    @property
    def name(self) -> str:
        """For the table."""
        s = self.shape
        memory = "" if (self.latency, self.bandwidth) == (40, 1.0) else (
            f", latency {self.latency}, bandwidth {self.bandwidth:g}"
        )  # fmt: skip
        skip = "dense" if self.skip is None else f"skip {self.skip:g}"
        gqa = s.heads // s.kv_heads
        return (
            f"{self.core}, {s.hidden}×{s.layers}, ffn {s.ffn}, {s.heads}·{s.head_dim} gqa {gqa}, "
            f"{skip}, context {self.prompt}{memory}"
        )


def _shape(hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int,
           vocab: int, **fields: object) -> ModelConfig:  # fmt: skip
    return random_shape(
        hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn,
        vocab=vocab, max_positions=1024, **fields,
    )  # fmt: skip


_TINY = _shape(128, 2, 4, 2, 32, 256, 256)
_STORIES = _shape(128, 6, 4, 2, 32, 384, 512)
_SMALL = _shape(256, 4, 4, 1, 64, 768, 512)
_RECOMPUTE = dataclasses.replace(_STORIES, kv_rule="kv_recompute")
_LARGE = _shape(1024, 2, 16, 4, 64, 2816, 2048)
_WIDE = _shape(512, 3, 8, 8, 64, 1408, 512)

GRID = (
    *(Point(core="sim-tiny", shape=_TINY, skip=s, prompt=p, latency=16)
      for s, p in ((None, 20), (0.3, 60))),
    *(Point(core="sim-small", shape=_STORIES, skip=s, prompt=p)
      for s, p in ((None, 16), (0.25, 48), (0.5, 130), (0.25, 420))),
    *(Point(core="sim-small", shape=_SMALL, skip=s, prompt=p)
      for s, p in ((None, 70), (0.25, 330), (0.75, 40))),
    Point(core="sim-small", shape=_RECOMPUTE, skip=0.3, prompt=60),
    Point(core="sim-small", shape=_STORIES, skip=0.25, prompt=40, latency=20),
    Point(core="sim-small", shape=_SMALL, skip=0.25, prompt=40, bandwidth=0.8),
    *(Point(core="sim-large", shape=_LARGE, skip=s, prompt=p)
      for s, p in ((None, 20), (0.25, 100))),
    *(Point(core="sim-large", shape=_WIDE, skip=s, prompt=p)
      for s, p in ((None, 40), (0.25, 500), (0.5, 150))),
)  # fmt: skip
"""What is measured if nothing else is asked for."""


@dataclass(frozen=True)
class Phase:
    """Runs that are judged together: (position, count, steps, mode, cycles) of each."""

    name: str
    runs: tuple[tuple[int, int, int, int, int], ...]

    @property
    def cycles(self) -> int:
        """Of the gateware."""
        return sum(run[-1] for run in self.runs)


@dataclass(frozen=True)
class Measured:
    """What the gateware did at a point, with what the model needs to be asked the same."""

    point: Point
    program: tuple
    attention: NDArray[np.bool_]
    mlp: NDArray[np.bool_]
    phases: tuple[Phase, ...]

    def model(self, parameters: Parameters) -> RunModel:
        """The cycle model of this point."""
        return RunModel(
            self.program,
            named_config(self.point.core),
            Decisions(self.attention, self.mlp),
            parameters,
            MemoryTiming(self.point.latency, self.point.bandwidth),
        )

    def estimates(self, parameters: Parameters) -> list[float]:
        """Cycles of each phase."""
        model = self.model(parameters)
        return [
            sum(model.run(at, n, steps=s, mode=m).cycles for at, n, s, m, _ in phase.runs)
            for phase in self.phases
        ]


def _maps(records: NDArray[np.void], name: str, layers: int) -> NDArray[np.bool_]:
    bits = records[name][:, None] >> np.arange(layers, dtype=np.uint64)
    return (bits & np.uint64(1)).astype(np.bool_)


def measure(points: Sequence[Point], progress: Progress | None = None) -> list[Measured]:
    """Run the gateware at every point."""
    out = []
    devices: dict[tuple[str, int, float], RtlDevice] = {}
    try:
        for point in points:
            key = (point.core, point.latency, point.bandwidth)
            core = named_config(point.core)
            if key not in devices:
                for old in devices.values():
                    old.close()
                memory = MemoryModel(
                    latency=point.latency, bandwidth=point.bandwidth, outstanding=core.outstanding
                )
                devices = {key: RtlDevice(core, memory=memory, progress=progress)}
            if progress is not None:
                progress(point.name)
            out.append(_measure(point, devices[key]))
    finally:
        for device in devices.values():
            device.close()
    return out


def _measure(point: Point, device: RtlDevice) -> Measured:
    capacity = -(-(point.prompt + 2 * point.decode) // 64) * 64
    model = random_model(point.shape, group=device.config.group, skip=point.skip, branch=0.3)
    image = compile_model(model, device.config, kv_capacity=capacity)
    engine = Engine(device, image)
    mailbox = Mailbox(device, image)
    rng = np.random.default_rng(3)
    tokens = rng.integers(2, point.shape.vocab, point.prompt + point.decode).tolist()

    runs: list[tuple[int, int, int, int, int]] = []
    chunk = device.config.max_chunk
    for at in range(0, point.prompt, chunk):
        part = tokens[at : min(at + chunk, point.prompt)]
        cycles = engine.forward(part, at).counters["cycles"]
        runs.append((at, len(part), 0, int(Mode.LOGITS), cycles))
    phases = [Phase("prefill", tuple(runs))]
    runs = []
    for token in tokens[point.prompt :]:
        at = engine.length
        runs.append((at, 1, 0, int(Mode.LOGITS), engine.forward([token], at).counters["cycles"]))
    phases.append(Phase("decode", tuple(runs)))
    at = engine.length
    engine._kick(at, [tokens[-1]], total := _counting(), steps=point.decode - 1)
    phases.append(Phase("decode in one run", ((at, 1, point.decode - 1, 0, total.cycles),)))
    records = mailbox.read_records(0, engine.length)
    program = decode_program(np.asarray(image.sections["program"].data).tobytes())
    layers = point.shape.layers
    return Measured(
        point, tuple(program), _maps(records, "attention", layers), _maps(records, "mlp", layers),
        tuple(phases),
    )  # fmt: skip


def _counting():
    from skipstone.runtime.statistics import Phase as Counted

    return Counted()


def errors(measured: Sequence[Measured], parameters: Parameters) -> NDArray[np.float64]:
    """estimated / simulated − 1 of every phase of every point."""
    return np.array(
        [
            estimate / phase.cycles - 1
            for m in measured
            for estimate, phase in zip(m.estimates(parameters), m.phases, strict=True)
        ]
    )


def worst(measured: Sequence[Measured], parameters: Parameters) -> float:
    """The largest |error|."""
    return float(np.abs(errors(measured, parameters)).max())


def fit(
    measured: Sequence[Measured],
    start: Parameters | None = None,
    *,
    rounds: int = 12,
    prior: float = 0.003,
) -> Parameters:
    """Parameters of least squared relative error, held near `start` where nothing tells them apart.

    Gauss-Newton with numeric slopes (the model is piecewise linear); parameters stay above 0.
    """
    start = start or Parameters()
    names = [f.name for f in dataclasses.fields(Parameters)]
    first = np.array([getattr(start, n) for n in names])
    weight = prior / np.maximum(first, 5.0)
    best, x = first, first.copy()
    least = np.inf
    for _ in range(rounds):
        at = Parameters(**dict(zip(names, x.tolist(), strict=True)))
        error = errors(measured, at)
        loss = float(np.square(error).sum() + np.square(weight * (x - first)).sum())
        if loss < least:
            best, least = x.copy(), loss
        slopes = np.empty((len(error), len(x)))
        for n, name in enumerate(names):
            moved = dataclasses.replace(at, **{name: float(x[n]) + 1.0})
            slopes[:, n] = errors(measured, moved) - error
        a = np.concatenate([slopes, np.diag(weight)])
        b = np.concatenate([-error, -weight * (x - first)])
        x = np.maximum(x + np.linalg.lstsq(a, b, rcond=None)[0], 0.0)
    return Parameters(**dict(zip(names, best.tolist(), strict=True)))


def calibration(measured: Sequence[Measured], parameters: Parameters) -> Calibration:
    """The parameters with their errors on what was measured."""
    error = np.abs(errors(measured, parameters))
    return Calibration(
        parameters=parameters,
        worst_error=round(float(error.max()), 5),
        mean_error=round(float(error.mean()), 5),
        phases=len(error),
        cycles=sum(phase.cycles for m in measured for phase in m.phases),
        on=tuple(dict.fromkeys(m.point.core for m in measured)),
    )


def rows(measured: Sequence[Measured], parameters: Parameters) -> list[Row]:
    """Errors of every phase, and the worst."""
    out = []
    for m in measured:
        for estimate, phase in zip(m.estimates(parameters), m.phases, strict=True):
            out.append(
                Row(
                    figure=f"estimate_error, {phase.name}",
                    value=100 * (estimate / phase.cycles - 1),
                    unit="%",
                    kind="rtl",
                    subject=f"{m.point.name}: {phase.cycles} cycles",
                )
            )
    error = 100 * np.abs(errors(measured, parameters))
    subject = f"{len(error)} phases"
    for name, value, aim in (
        ("estimate_mean_error", error.mean(), ""),
        ("estimate_worst_error", error.max(), "≤ 2"),
    ):
        out.append(
            Row(figure=name, value=float(value), unit="%", kind="rtl", subject=subject, aim=aim)
        )
    return out
