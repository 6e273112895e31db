"""The engine: prefill in chunks, decode, sampling and streaming on top of the device contract.

The device keeps the sequence (its KV store and what each layer of each token executed); the engine
keeps how much of it is valid. A run that is broken off, by an error or by Ctrl-C, leaves the tokens
before it valid: the device is reset and the next request works.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..devices import NO_TOKEN, Device, Run
from ..spec.errors import CoreErrorCode, DeviceError, KvRoomError, RequestError
from ..spec.image import Image
from ..spec.isa import INSTRUCTION_BYTES, Instruction, Opcode
from ..spec.records import decisions_of
from ..spec.registers import Mode
from .kv_space import KvSpace
from .mailbox import Mailbox
from .sampling import Sampler
from .schedules import DecisionMap, Given, Schedule
from .statistics import Phase, Statistics
from .text import TextStream, Tokenizer

__all__ = ["Engine", "Generation", "Piece", "StepResult"]

Finish = Literal["eos", "max_tokens", "context", "interrupted"]


@dataclass(frozen=True)
class StepResult:
    """What a forward pass gives.

    Attributes
    ----------
    logits : float32 array (n, vocabulary)
        Of every token with `all_logits`, else of the last one (n = 1).
    records : OUTPUT_RECORD array (tokens,)
    decisions : bool array (tokens, layers, modules)
        What each token executed.
    next_token : int
        Argmax of the last logits.
    counters : dict of str to int
        Of all runs of the pass together.
    """

    logits: NDArray[np.float32]
    records: NDArray[np.void]
    decisions: DecisionMap
    next_token: int
    counters: dict[str, int]


@dataclass(frozen=True)
class Piece:
    """A generated token and the text it completed, which may be empty.

    `token` is None for the rest of a text that ends within a character.
    """

    token: int | None
    text: str


class Engine:
    """One sequence on one device.

    Parameters
    ----------
    device : Device
    image : Image
        Loaded into the device here. Raises ImageError if it was made for another core.
    tokenizer : Tokenizer, optional
        Without it, generated pieces carry no text.
    timeout_s
        Longest wait for a single run; None waits for ever.

    Attributes
    ----------
    length : int
        Tokens of the sequence that the device holds.
    """

    def __init__(
        self,
        device: Device,
        image: Image,
        tokenizer: Tokenizer | None = None,
        *,
        timeout_s: float | None = None,
    ):
        image.check_config(device.config)
        self._mailbox = Mailbox(device, image)
        self.device, self.image, self.tokenizer = device, image, tokenizer
        self.timeout_s = timeout_s
        model = image.model
        self.layers, self.vocabulary = int(model["layers"]), int(model["vocabulary"])
        self.eos = _token_ids(model.get("eos"))
        self.context = min(
            int(model["kv_capacity"]), int(model["max_positions"]), device.config.max_context
        )
        self.length = 0
        device.load(image)

    def kv_space(self) -> KvSpace:
        """What the sequence takes of the KV store; from its records on the device."""
        records = self._mailbox.read_records(0, self.length)
        executed = decisions_of(records, self.layers)
        return KvSpace.of(self.image.model, self.image.config.word_bytes, executed)

    # -- one run ------------------------------------------------------------------------------

    def _run(
        self, position: int, tokens: Sequence[int], decisions: DecisionMap | None, run: Run
    ) -> int:
        """Kick the device; returns how many tokens it completed."""
        self._mailbox.write_tokens(tokens, decisions)
        self.length = position
        try:
            self.device.start(run)
            done = self.device.wait(self.timeout_s).tokens_done
        except DeviceError as error:
            self.device.reset()
            raise self._explained(error, position) from error
        except BaseException:
            self.device.reset()
            raise
        self.length = position + done
        return done

    def _explained(self, error: DeviceError, position: int) -> DeviceError | KvRoomError:
        """What ended a run: a full KV store has an error of its own."""
        if error.code is not CoreErrorCode.KV_OVERFLOW:
            return error
        program = np.asarray(self.image.sections["program"].data)
        raw = program[error.pc * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES]
        i = Instruction.decode(raw.tobytes())
        return KvRoomError(i.layer, i.a, position) if i.opcode is Opcode.LINEAR else error

    def _kick(
        self,
        position: int,
        tokens: Sequence[int],
        phase: Phase,
        *,
        schedule: Schedule | None = None,
        steps: int = 0,
        mode: Mode = Mode(0),  # noqa: B008, an enum member is immutable
    ) -> NDArray[np.void]:
        """One run of a chunk and `steps` further greedy tokens; returns their records."""
        started = time.perf_counter()
        positions = range(position, position + len(tokens))
        decisions = None if schedule is None else schedule.decide(positions)
        run = Run(
            program_address=self.image.sections["program"].address,
            program_length=int(self.image.model["program_length"]),
            position=position,
            chunk_tokens=len(tokens),
            steps=steps,
            eos_token=self.eos[0] if self.eos else NO_TOKEN,
            mode=int(mode),
        )
        done = self._run(position, tokens, decisions, run)
        records = self._mailbox.read_records(position, done)
        if schedule is not None:
            schedule.observe(positions, decisions_of(records, self.layers))
        phase.add(done, time.perf_counter() - started, self.device.counters())
        return records

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        if len(tokens) == 0:
            raise RequestError("the prompt is empty: at least one token is needed")
        for index, token in enumerate(tokens):
            if not 0 <= token < self.vocabulary:
                raise RequestError(
                    f"token {index} has id {token}; ids are 0 to {self.vocabulary - 1}"
                )

    def _chunks(self, tokens: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
        """(offset, tokens) of each chunk."""
        size = self.device.config.max_chunk
        for start in range(0, len(tokens), size):
            yield start, tokens[start : start + size]

    def _schedule(
        self, decisions: Schedule | ArrayLike | None, positions: range
    ) -> Schedule | None:
        if decisions is None or isinstance(decisions, Schedule):
            return decisions
        return Given(decisions, self.layers, positions)

    # -- forward ------------------------------------------------------------------------------

    def forward(
        self,
        tokens: Sequence[int],
        position: int = 0,
        *,
        decisions: Schedule | ArrayLike | None = None,
        all_logits: bool = False,
    ) -> StepResult:
        """Pass `tokens` through the model at `position` of the sequence.

        What the device holds at or after `position` is forgotten.

        Parameters
        ----------
        decisions
            In place of the routers': a schedule, or what `Given` makes one of: true or false for
            all, a mask (layers, modules), or a map (tokens, layers, modules).

        Raises RequestError for no tokens, ids out of range, a position beyond the sequence, more
        tokens than the context holds, or decisions of another shape; KvRoomError if a layer's KV
        store is full (tokens before that chunk are kept); DeviceError if the core stops.
        """
        self._check_tokens(tokens)
        if not 0 <= position <= self.length:
            raise RequestError(
                f"position must be between 0 and the sequence's length {self.length}, "
                f"not {position}"
            )
        if position + len(tokens) > self.context:
            raise RequestError(
                f"{len(tokens)} tokens at position {position} exceed the context of {self.context}"
            )
        schedule = self._schedule(decisions, range(position, position + len(tokens)))
        phase, logits, records = Phase(), [], []
        for offset, chunk in self._chunks(tokens):
            last = offset + len(chunk) == len(tokens)
            mode = Mode.LOGITS if last or all_logits else Mode.NO_OUTPUT
            if all_logits:
                mode |= Mode.ALL_LOGITS
            at = position + offset
            records.append(self._kick(at, chunk, phase, schedule=schedule, mode=mode))
            if last or all_logits:
                logits.append(self._mailbox.read_logits(len(chunk) if all_logits else 1))
        together = np.concatenate(records)
        return StepResult(
            np.concatenate(logits),
            together,
            decisions_of(together, self.layers),
            int(together["next_token"][-1]),
            phase.counters,
        )

    # -- generate -----------------------------------------------------------------------------

    def generate(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampler: Sampler | None = None,
        *,
        steps_per_run: int = 1,
        decisions: Schedule | ArrayLike | None = None,
    ) -> Generation:
        """Start a new sequence with `prompt` and continue it.

        Parameters
        ----------
        max_tokens
            Most tokens to generate; the context may end the text earlier.
        sampler
            Greedy if not given.
        steps_per_run
            Greedy tokens the device takes on its own between two looks of the host; 1 with
            `decisions`, for which the host looks at every token.
        decisions
            As in `forward`; a map has a row for each position up to the last that may run.

        Raises RequestError at once if the request cannot be served; nothing runs before the
        result is iterated.
        """
        self._check_tokens(prompt)
        if len(prompt) > self.context:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, the context holds {self.context}"
            )
        if max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, not {max_tokens}")
        if steps_per_run < 1:
            raise RequestError(f"steps_per_run must be at least 1, not {steps_per_run}")
        if decisions is not None and steps_per_run > 1:
            raise RequestError(
                f"steps_per_run must be 1 where the host decides what is skipped, "
                f"not {steps_per_run}"
            )
        last = min(len(prompt) + max_tokens - 1, self.context)
        schedule = self._schedule(decisions, range(last))
        return Generation(
            self, list(prompt), max_tokens, sampler or Sampler(), steps_per_run, schedule
        )


def _token_ids(value: object) -> tuple[int, ...]:
    """One id, several, or none, as an image's manifest has them."""
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(int(v) for v in value)
    return (int(str(value)),)


@dataclass
class Generation:
    """A text in the making: iterate for its pieces.

    Closing the iteration early, or Ctrl-C during it, keeps everything below.

    Attributes
    ----------
    tokens : list of int
        Generated so far.
    text : str
    finish : str or None
        "eos", "max_tokens", "context", "interrupted", or None while it is going on.
    statistics : Statistics
    """

    engine: Engine
    prompt: list[int]
    max_tokens: int
    sampler: Sampler
    steps_per_run: int
    schedule: Schedule | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None
    statistics: Statistics = field(init=False)

    def __post_init__(self) -> None:
        self.statistics = Statistics(self.engine.layers)
        self._pieces = self._generate()

    def __iter__(self) -> Iterator[Piece]:
        return self._pieces

    def close(self) -> None:
        """Stop here."""
        self._pieces.close()

    def _generate(self) -> Generator[Piece, None, None]:
        stream = None
        if self.engine.tokenizer is not None:
            stream = TextStream(self.engine.tokenizer, self.prompt)
        try:
            for token in self._tokens():
                self.tokens.append(token)
                self.statistics.generated += 1
                text = stream.add(token) if stream else ""
                self.text += text
                yield Piece(token, text)
            rest = stream.flush() if stream else ""
            self.text += rest
            if rest:
                yield Piece(None, rest)
        except (GeneratorExit, KeyboardInterrupt):
            self.finish = self.finish or "interrupted"
            raise
        finally:
            if stream:
                self.text += stream.flush()

    def _tokens(self) -> Iterator[int]:
        """Generated tokens, without the one that ends the text."""
        engine = self.engine
        left = self.max_tokens
        pending, position, phase = self.prompt, 0, self.statistics.prefill
        while True:
            chosen = self._advance(pending, position, phase, left)
            for token in chosen:
                if token in engine.eos:
                    self.finish = "eos"
                    return
                left -= 1
                if left == 0:
                    self.finish = "max_tokens"
                yield token
                if left == 0:
                    return
            if engine.length >= engine.context:
                self.finish = "context"
                return
            pending, position, phase = chosen[-1:], engine.length, self.statistics.decode

    def _advance(self, pending: list[int], position: int, phase: Phase, left: int) -> list[int]:
        """Feed `pending` to the device; returns the tokens that follow, at most `left`."""
        engine, greedy, schedule = self.engine, self.sampler.greedy, self.schedule
        chunks = list(engine._chunks(pending))
        for offset, chunk in chunks[:-1]:
            records = engine._kick(
                position + offset, chunk, phase, schedule=schedule, mode=Mode.NO_OUTPUT
            )
            self.statistics.add_records(records)
        offset, chunk = chunks[-1]
        room = engine.context - (position + len(pending))
        # Steps on the device belong to the decode phase.
        alone = greedy and phase is self.statistics.decode
        steps = min(self.steps_per_run, left, room + 1) - 1 if alone else 0
        mode = Mode(0) if greedy else Mode.LOGITS
        records = engine._kick(
            position + offset, chunk, phase, schedule=schedule, steps=steps, mode=mode
        )
        self.statistics.add_records(records)
        if greedy:
            return [int(t) for t in records["next_token"][len(chunk) - 1 :]]
        return [self.sampler(engine._mailbox.read_logits(1)[0])]
