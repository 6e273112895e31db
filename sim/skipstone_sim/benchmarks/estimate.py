"""The cycle model against the simulated gateware, the fit of its constants, and what it says of
public models.

Random models of several shapes run on several cores, with memories of several latencies and
bandwidths: prefill in chunks, then decoding at several contexts, with and without skipping. Each
run's cycles are what the core counted. The model is given the decisions that the core reports.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skipstone.compiler import compile_model
from skipstone.estimate import (
    Calibration,
    Decisions,
    MemoryTiming,
    Parameters,
    RunModel,
    estimate,
    find_target,
    load_calibration,
)
from skipstone.model import SHAPES, ModelConfig
from skipstone.runtime import Engine
from skipstone.runtime.mailbox import Mailbox
from skipstone.runtime.statistics import Phase as Counted
from skipstone.spec.boards import BOARDS
from skipstone.spec.config import named_config
from skipstone.spec.errors import ConfigError
from skipstone.spec.isa import Instruction, decode_program
from skipstone.spec.records import decisions_of
from skipstone.spec.registers import Mode
from skipstone_sim.random_model import random_model, random_shape
from skipstone_sim.rtl import RtlDevice
from skipstone_sim.verilated import MemoryModel

from .rows import Row

__all__ = ["GRID", "Measured", "Phase", "Point", "calibrate", "errors", "fit", "measure", "run"]

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
    program: tuple[Instruction, ...]
    attention: NDArray[np.bool_]
    mlp: NDArray[np.bool_]
    phases: tuple[Phase, ...]

    @cached_property
    def model(self) -> RunModel:
        """The cycle model of this point."""
        return RunModel(
            self.program,
            named_config(self.point.core),
            Decisions(self.attention, self.mlp),
            Parameters(),
            MemoryTiming(self.point.latency, self.point.bandwidth),
        )

    def estimates(self, parameters: Parameters) -> list[float]:
        """Cycles of each phase."""
        model = self.model.with_parameters(parameters)
        return [
            sum(model.run(at, n, steps=s, mode=m).cycles for at, n, s, m, _ in phase.runs)
            for phase in self.phases
        ]


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
    engine._kick(at, [tokens[-1]], counted := Counted(), steps=point.decode - 1)
    phases.append(Phase("decode in one run", ((at, 1, point.decode - 1, 0, counted.cycles),)))
    records = mailbox.read_records(0, engine.length)
    program = decode_program(np.asarray(image.sections["program"].data).tobytes())
    layers = point.shape.layers
    executed = decisions_of(records, layers)
    return Measured(point, tuple(program), executed[..., 0], executed[..., 1], tuple(phases))


def errors(measured: Sequence[Measured], parameters: Parameters) -> NDArray[np.float64]:
    """estimated / simulated − 1 of every phase of every point."""
    return np.array(
        [
            estimate / phase.cycles - 1
            for m in measured
            for estimate, phase in zip(m.estimates(parameters), m.phases, strict=True)
        ]
    )


def fit(
    measured: Sequence[Measured],
    start: Parameters | None = None,
    *,
    rounds: int = 6,
    prior: float = 0.01,
) -> Parameters:
    """Parameters of least squared relative error, held near `start` where nothing tells them apart.

    Levenberg's method (Quart. Appl. Math. 2, 1944) with numeric slopes: the model is piecewise
    linear, so a step that does not help is repeated shorter. Parameters stay above 0.
    """
    start = start or Parameters()
    names = [f.name for f in dataclasses.fields(Parameters)]
    first = np.array([getattr(start, n) for n in names])
    weight = np.diag(prior / np.maximum(first, 5.0))

    def at(x: NDArray[np.float64]) -> Parameters:
        return Parameters(**dict(zip(names, x.tolist(), strict=True)))

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([errors(measured, at(x)), weight @ (x - first)])

    x, here = first, residuals(first)
    damping = 1e-3
    for _ in range(rounds):
        slopes = np.stack([residuals(x + step) - here for step in np.eye(len(x))], axis=1)
        while damping < 1e3:
            shorten = damping * np.diag(np.sqrt(np.square(slopes).sum(axis=0)))
            a = np.concatenate([slopes, shorten])
            b = np.concatenate([-here, np.zeros(len(x))])
            moved = np.maximum(x + np.linalg.lstsq(a, b, rcond=None)[0], 0.0)
            there = residuals(moved)
            if there @ there < here @ here:
                x, here, damping = moved, there, damping / 4
                break
            damping *= 4
        else:
            break
    return at(x)


def calibrate(measured: Sequence[Measured], parameters: Parameters) -> Calibration:
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


def _error_rows(measured: Sequence[Measured], found: Calibration) -> list[Row]:
    """Errors of every phase, their mean and the worst."""
    out = []
    for m in measured:
        for estimated, phase in zip(m.estimates(found.parameters), m.phases, strict=True):
            out.append(
                Row(
                    figure=f"estimate_error, {phase.name}",
                    value=100 * (estimated / phase.cycles - 1),
                    unit="%",
                    kind="rtl",
                    subject=f"{m.point.name}: {phase.cycles:,} cycles",
                )
            )
    subject = f"{found.phases} phases, {found.cycles:,} cycles on {', '.join(found.on)}"
    for name, value, aim in (
        ("estimate_mean_error", found.mean_error, ""),
        ("estimate_worst_error", found.worst_error, "≤ 2"),
    ):
        row = Row(figure=name, value=100 * value, unit="%", kind="rtl", subject=subject, aim=aim)
        out.append(row)
    return out


PUBLISHED = (
    ("SkipOPU, [128, 1024]", 143.4),
    ("AccLLM, its simulator", 164.0),
    ("FlightLLM, measured independently, KV 128", 57.1),
)
"""Tokens per second of Llama-2-7B on a U280: arXiv 2603.14785, 2505.03745, 2401.03868."""


def _model_rows(found: Calibration) -> list[Row]:
    """Public models on the boards that they fit, beside what was published for a U280."""
    out = []
    for board in BOARDS:
        for shape in SHAPES.values():
            try:
                e = estimate(shape, find_target(board), calibration=found)
            except ConfigError:
                continue
            subject = f"{shape.name} on {board}, 25 % skipped, [{e.prompt}, {e.generate}]"
            for figure, value, unit in (
                ("decode_tokens_per_second", e.decode.tokens_per_s, "tokens/s"),
                ("request_tokens_per_second", e.tokens_per_s, "tokens/s"),
                ("time_to_first_token", 1e3 * e.time_to_first_token_s, "ms"),
                ("decode_bandwidth_efficiency", 100 * e.decode.bandwidth_efficiency, "%"),
                ("…_of_peak", 100 * e.decode.bandwidth_efficiency_of_peak, "%"),
            ):
                out.append(
                    Row(figure=figure, value=value, unit=unit, kind="estimated", subject=subject)
                )
    out += [
        Row(
            figure="published_tokens_per_second",
            value=value,
            unit="tokens/s",
            kind="published",
            subject=f"llama-2-7b on u280: {who}",
        )
        for who, value in PUBLISHED
    ]
    return out


def run(
    *,
    cores: Sequence[str] | None = None,
    write: bool = False,
    progress: Progress | None = None,
) -> list[Row]:
    """Measure the grid; judge the stored calibration, or with `write` a new one, and store it.

    Raises ConfigError for a core that the grid does not use.
    """
    known = dict.fromkeys(point.core for point in GRID)
    for core in cores or ():
        if core not in known:
            raise ConfigError(f"the grid has no core {core!r}; it has {', '.join(known)}")
    measured = measure([p for p in GRID if not cores or p.core in cores], progress)
    if write:
        if progress is not None:
            progress("fitting")
        found = calibrate(measured, fit(measured))
        found.save()
    else:
        found = calibrate(measured, load_calibration().parameters)
    return _error_rows(measured, found) + _model_rows(found)
