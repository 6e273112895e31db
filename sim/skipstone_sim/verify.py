"""Whether devices compute the same bits as golden, and if not, the first thing that differs.

All devices pass the same tokens through the same image: the prompt in chunks, then golden's greedy
continuation token by token, one run each, so that a difference does not cascade into other text.
After every run all memory that the core writes is compared (logits, output records, keys and
values); at the end every byte of the image. The first run that differs is repeated on both sides
with their traces on, which names the instruction, the tensor and the element.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Device
from skipstone.runtime import Engine, StepResult, TextStream
from skipstone.runtime.text import Tokenizer
from skipstone.spec.errors import DeviceError, DeviceTimeoutError, RequestError, ToolError
from skipstone.spec.image import Image
from skipstone.spec.isa import disassemble

from .golden import GoldenDevice
from .places import Atlas, Place
from .trace import Departure, Recorder, Tensor, first_departure, transfers

__all__ = ["DeviceReport", "Difference", "Report", "verify"]

Progress = Callable[[int, int], None]
"""Called before each run with its number and how many there are."""


@runtime_checkable
class Traced(Protocol):
    """A device that records what leaves its epilogue."""

    def trace(self, on: bool) -> None:
        """Switch the recording."""

    def take_trace(self) -> NDArray[np.void]:
        """What was recorded, as `trace.TRANSFER`."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first thing a device did otherwise than golden.

    Attributes
    ----------
    step, position, tokens
        The run, its first position in the sequence, and its tokens; None if only the comparison of
        the whole memory at the end showed it.
    instruction, disassembly
        The instruction that made (of read-only memory: read) what differs.
    tensor, layer, token, element
        What differs; `token` counts in the run's chunk.
    golden, actual
        The two values, as ``{"hex", "value"}``.
    memory
        The place in memory, if it is memory that differs: what the instruction computed agrees, or
        the section is not written at all.
    note
        What else there is to say.
    """

    device: str
    step: int | None = None
    position: int | None = None
    tokens: list[int] | None = None
    instruction: int | None = None
    disassembly: str | None = None
    tensor: str | None = None
    layer: int | None = None
    token: int | None = None
    element: int | None = None
    golden: dict[str, str | float] | None = None
    actual: dict[str, str | float] | None = None
    memory: Place | None = None
    note: str = ""


@dataclass
class DeviceReport:
    """How a device fared.

    Attributes
    ----------
    text, tokens
        What it would have said, each token after golden's.
    cycles : int
        Of all runs; 0 if the device counts none.
    runs_different : int
    """

    name: str
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    cycles: int = 0
    runs_different: int = 0
    difference: Difference | None = None

    @property
    def identical(self) -> bool:
        """Every bit agreed."""
        return self.difference is None


@dataclass
class Report:
    """The outcome of `verify`; golden is the first device.

    Attributes
    ----------
    passed : list of int
        The tokens that went through the model.
    words_compared : int
        Memory words, over all runs and devices.
    logits, records
        Golden's, of every token passed.
    """

    devices: list[DeviceReport]
    passed: list[int] = field(default_factory=list)
    words_compared: int = 0
    logits: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    records: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, np.void))

    @property
    def identical(self) -> bool:
        """Every bit of every device agreed."""
        return all(d.identical for d in self.devices)

    @property
    def difference(self) -> Difference | None:
        """The earliest difference of any device."""
        found = [d.difference for d in self.devices if d.difference is not None]
        return min(found, key=lambda d: math.inf if d.step is None else d.step, default=None)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        difference = self.difference
        return {
            "identical": self.identical,
            "tokens_compared": len(self.passed),
            "words_compared": self.words_compared,
            "text": {d.name: d.text for d in self.devices},
            "cycles": {d.name: d.cycles for d in self.devices if d.cycles},
            "runs_different": {d.name: d.runs_different for d in self.devices[1:]},
            "difference": None if difference is None else dataclasses.asdict(difference),
        }


@dataclass(frozen=True)
class _Step:
    """One run."""

    number: int
    position: int
    tokens: list[int]
    all_logits: bool


@dataclass
class _Subject:
    """A device under test."""

    engine: Engine
    report: DeviceReport
    stopped: bool = False


_Stopped = (DeviceError, DeviceTimeoutError)


def verify(
    image: Image,
    golden: GoldenDevice,
    others: Sequence[Device],
    prompt: Sequence[int],
    *,
    tokens: int = 64,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run `prompt` and `tokens` greedy tokens (an end-of-text token ends nothing) on all devices.

    The devices are loaded with the image; they are not closed. Raises RequestError if the sequence
    exceeds the context.
    """
    return _Verifier(image, golden, others).run(prompt, tokens, tokenizer, progress)


def _value(bits: int) -> dict[str, str | float]:
    """A binary32 in both spellings; JSON has no infinities."""
    value = float(np.array(bits, np.uint32).view(np.float32))
    return {"hex": f"{bits:#010x}", "value": value if math.isfinite(value) else str(value)}


def _byte(value: int) -> dict[str, str | float]:
    return {"hex": f"{value:#04x}", "value": int(value)}


class _Verifier:
    def __init__(self, image: Image, golden: GoldenDevice, others: Sequence[Device]):
        self._image, self._golden = image, Engine(golden, image)
        self._device = golden
        names = _unique([golden.name, *(d.name for d in others)])
        self._subjects = [
            _Subject(Engine(device, image), DeviceReport(name))
            for device, name in zip(others, names[1:], strict=True)
        ]
        self._report = Report([DeviceReport(names[0]), *(s.report for s in self._subjects)])
        self._atlas = Atlas(image)
        self._listing = disassemble(self._atlas.program).splitlines()
        self._written = [s.name for s in image.sections.values() if not s.data.size]
        self._fixed = [s.name for s in image.sections.values() if s.data.size]

    def run(
        self,
        prompt: Sequence[int],
        tokens: int,
        tokenizer: Tokenizer | None,
        progress: Progress | None,
    ) -> Report:
        if tokens < 1:
            raise RequestError(f"tokens must be at least 1, not {tokens}")
        if len(prompt) + tokens - 1 > self._golden.context:
            raise RequestError(
                f"{len(prompt)} prompt tokens and {tokens} more exceed the context of "
                f"{self._golden.context}"
            )
        report, logits, records = self._report, [], []
        predicted = report.devices[0].tokens
        chunk = self._image.config.max_chunk
        total = -(-len(prompt) // chunk) + tokens - 1
        for step in self._steps(list(prompt), tokens):
            if progress is not None:
                progress(step.number, total)
            result = _pass(self._golden, step)
            report.passed += step.tokens
            logits.append(result.logits)
            records.append(result.records)
            _continue(predicted, result, step, len(prompt))
            for subject in self._subjects:
                if not subject.stopped:
                    self._compare(subject, step, len(prompt))
        self._compare_everything()
        report.logits, report.records = np.concatenate(logits), np.concatenate(records)
        if tokenizer is not None:
            for device in report.devices:
                stream = TextStream(tokenizer, prompt)
                device.text = "".join([*map(stream.add, device.tokens), stream.flush()])
        return report

    def _steps(self, prompt: list[int], tokens: int) -> Iterator[_Step]:
        """Chunks of the prompt, then golden's own tokens."""
        number, size = 0, self._image.config.max_chunk
        for position in range(0, len(prompt), size):
            yield _Step(number, position, prompt[position : position + size], True)
            number += 1
        predicted = self._report.devices[0].tokens
        for n in range(tokens - 1):
            yield _Step(number, len(prompt) + n, predicted[-1:], False)
            number += 1

    # -- comparing ----------------------------------------------------------------------------

    def _compare(self, subject: _Subject, step: _Step, prompt_length: int) -> None:
        """Run a step on a device, and find the difference if it is the first."""
        report = subject.report
        try:
            result = _pass(subject.engine, step)
        except _Stopped as error:
            report.runs_different += 1
            if report.difference is None:
                report.difference = self._locate(subject, step, error)
            subject.stopped = True
            return
        report.cycles += result.counters.get("cycles", 0)
        _continue(report.tokens, result, step, prompt_length)
        if self._differing(subject, self._written):
            report.runs_different += 1
            if report.difference is None:
                report.difference = self._locate(subject, step, None)

    def _differing(self, subject: _Subject, names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Of each section that differs, the offsets of the bytes."""
        found = {}
        for name in names:
            section = self._image.sections[name]
            count = section.words * self._image.config.word_bytes
            expected = self._device.read(section.address, count)
            actual = subject.engine.device.read(section.address, count)
            self._report.words_compared += section.words
            if not np.array_equal(expected, actual):
                found[name] = np.flatnonzero(expected != actual)
        return found

    def _compare_everything(self) -> None:
        """Every byte of the image's memory, sections and what lies between."""
        count = self._image.words * self._image.config.word_bytes
        expected = self._device.read(0, count)
        for subject in self._subjects:
            actual = subject.engine.device.read(0, count)
            self._report.words_compared += self._image.words
            if subject.report.difference is None and not np.array_equal(expected, actual):
                found = self._differing(subject, list(self._image.sections))
                place = self._place(found)
                subject.report.difference = (
                    Difference(device=subject.report.name, note="between the sections")
                    if place is None
                    else self._at(subject, place, {"note": "found at the end"})
                )

    # -- locating -----------------------------------------------------------------------------

    def _locate(self, subject: _Subject, step: _Step, error: Exception | None) -> Difference:
        """Repeat a step on both sides with traces, and name what differs first."""
        tensors, wanted = self._record(self._golden, step)
        trace, got, repeated = self._capture(subject, step)
        error = repeated or error
        corrupt = self._place(self._differing(subject, self._fixed))
        notes = [] if error is None else [str(error)]
        if corrupt is not None:
            notes.append(f"read-only memory differs: {corrupt}")
        base: dict[str, Any] = {
            "step": step.number,
            "position": step.position,
            "tokens": step.tokens,
            "note": "; ".join(notes),
        }
        candidates = []
        if trace is not None:
            departure = first_departure(tensors, trace)
            if departure is not None:
                candidates.append(self._departed(subject, departure, wanted, got, base))
        if error is None:
            place = self._place(self._differing(subject, self._written))
            if place is not None:
                candidates.append(self._at(subject, place, base))
        if not candidates:
            if error is None:
                base["note"] = "; ".join([*notes, "it did not come again when repeated"])
            pc = error.pc if isinstance(error, DeviceError) else None
            return Difference(device=subject.report.name, **self._instruction(pc), **base)
        # What an instruction computed comes before what it stored.
        last = len(self._atlas.program)
        return min(candidates, key=lambda d: last if d.instruction is None else d.instruction)

    def _record(self, engine: Engine, step: _Step) -> tuple[list[Tensor], StepResult]:
        """The tensors of a step on a golden device."""
        device = engine.device
        assert isinstance(device, GoldenDevice)
        recorder = Recorder(self._atlas.program, len(step.tokens))
        previous, device.observer = device.observer, recorder
        try:
            result = _pass(engine, step)
        finally:
            device.observer = previous
        return recorder.tensors, result

    def _capture(
        self, subject: _Subject, step: _Step
    ) -> tuple[NDArray[np.void] | None, StepResult | None, Exception | None]:
        """The pairs of a step on a device, its result or its error; None if it has no trace."""
        engine, device = subject.engine, subject.engine.device
        try:
            if isinstance(device, GoldenDevice):
                tensors, result = self._record(engine, step)
                return transfers(tensors), result, None
            if not isinstance(device, Traced):
                return None, _pass(engine, step), None
        except _Stopped as error:
            return None, None, error
        try:
            device.trace(True)
        except ToolError:  # this build has no probe
            return None, None, None
        device.take_trace()
        caught: Exception | None = None
        outcome = None
        try:
            outcome = _pass(engine, step)
        except _Stopped as error:
            caught = error
        finally:
            device.trace(False)
        return device.take_trace(), outcome, caught

    def _departed(
        self,
        subject: _Subject,
        departure: Departure,
        wanted: StepResult,
        got: StepResult | None,
        base: dict[str, Any],
    ) -> Difference:
        """A difference in what was computed."""
        name, tensor = subject.report.name, departure.tensor
        if departure.found and got is not None:
            decision = self._decision(name, wanted.records, got.records, base)
            if decision is not None:
                return decision
        if departure.found:
            due = "nothing" if tensor is None else f"{tensor.kind.name.lower()}"
            note = f"{departure.found} came where {due} was due"
            base = base | {"note": "; ".join(filter(None, [base["note"], note]))}
        if tensor is None:
            return Difference(device=name, **base)
        computed = departure.expected is not None and departure.actual is not None
        return Difference(
            device=name,
            **self._instruction(tensor.pc),
            tensor=tensor.kind.name.lower(),
            layer=tensor.instruction.layer,
            token=departure.token,
            element=departure.element,
            golden=_value(int(departure.expected or 0)) if computed else None,
            actual=_value(int(departure.actual or 0)) if computed else None,
            **base,
        )

    def _decision(
        self,
        name: str,
        wanted: NDArray[np.void],
        got: NDArray[np.void],
        base: dict[str, Any],
    ) -> Difference | None:
        """The first router decision that differs."""
        for layer in range(self._golden.layers):
            for module in ("attention", "mlp"):
                bit = np.uint64(1 << layer)
                ours, theirs = ((r[module] & bit) != 0 for r in (wanted, got))
                if (ours != theirs).any():
                    token = int(np.argmax(ours != theirs))
                    return Difference(
                        device=name,
                        **self._instruction(self._atlas.route(layer)),
                        tensor=f"{module} executes",
                        layer=layer,
                        token=token,
                        golden=_byte(int(ours[token])),
                        actual=_byte(int(theirs[token])),
                        **base,
                    )
        return None

    def _place(self, found: dict[str, NDArray[np.int64]]) -> Place | None:
        """Of the bytes that differ, the one that the program writes first."""
        places = [self._atlas.first_written(name, offsets) for name, offsets in found.items()]
        last = len(self._atlas.program)
        return min(
            places, key=lambda p: last if p.instruction is None else p.instruction, default=None
        )

    def _at(self, subject: _Subject, place: Place, base: dict[str, Any]) -> Difference:
        """A difference in memory."""
        section = self._image.sections[place.section]
        values = [
            int(device.read(section.address + place.word, place.byte + 1)[place.byte])
            for device in (self._device, subject.engine.device)
        ]
        tensor, layer, element = (place.fields.get(n) for n in ("tensor", "layer", "element"))
        return Difference(
            device=subject.report.name,
            **self._instruction(place.instruction),
            tensor=None if tensor is None else str(tensor),
            layer=layer if isinstance(layer, int) else None,
            element=element if isinstance(element, int) else None,
            golden=_byte(values[0]),
            actual=_byte(values[1]),
            memory=place,
            **base,
        )

    def _instruction(self, pc: int | None) -> dict[str, Any]:
        if pc is None or pc >= len(self._listing):
            return {}
        return {"instruction": pc, "disassembly": self._listing[pc].strip()}


def _unique(names: Sequence[str]) -> list[str]:
    """Names, numbered from the second of its kind."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return out


def _pass(engine: Engine, step: _Step) -> StepResult:
    return engine.forward(step.tokens, step.position, all_logits=step.all_logits)


def _continue(predicted: list[int], result: StepResult, step: _Step, prompt_length: int) -> None:
    """Note the token that follows, once the prompt is in."""
    if step.position + len(step.tokens) >= prompt_length:
        predicted.append(result.next_token)
