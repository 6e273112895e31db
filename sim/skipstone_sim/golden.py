"""The golden device: executes the same image as the gateware, instruction by instruction, in numpy.

What each operation computes is in `arithmetic`; here is what the instructions do with it: which
tokens, from where, to where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skipstone.devices import Run, RunResult
from skipstone.spec import fp32
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode, DeviceError, ImageError
from skipstone.spec.formats import (
    ACTIVATION_BITS,
    EXPONENT_MIN,
    KV_BITS,
    fp16_parts,
)
from skipstone.spec.isa import (
    INSTRUCTION_BYTES,
    Epilogue,
    Flag,
    Instruction,
    Opcode,
    Select,
    Source,
)
from skipstone.spec.layout import (
    KvLayout,
    RouterRecord,
    logits_row_words,
    matrix_words,
    router_words,
    unpack_matrix,
    unpack_router,
)
from skipstone.spec.legality import objection
from skipstone.spec.records import FORCE, INPUT_RECORD, OUTPUT_RECORD, RECORD_BYTES
from skipstone.spec.registers import COUNTERS, Mode

from .arithmetic import Float, Int, Tiles, Vectors, attend, linear, reduce_residual, rope, swiglu
from .array_device import ArrayDevice

__all__ = ["GoldenDevice"]

T = TypeVar("T")


def _decode(data: bytes, pc: int) -> Instruction | DeviceError:
    """The instruction at `pc`, or the error that executing it ends in."""
    try:
        return Instruction.decode(data)
    except ImageError as error:
        crc = "CRC" in str(error)
        code = CoreErrorCode.PROGRAM_CRC if crc else CoreErrorCode.BAD_OPCODE
        return DeviceError(code, pc, str(error))


def _outputs(count: int, mode: int) -> NDArray[np.bool_]:
    """Of which tokens of a chunk logits are computed."""
    first = 0 if mode & Mode.ALL_LOGITS else count - 1
    return np.arange(count) >= (count if mode & Mode.NO_OUTPUT else first)


@dataclass
class _Chunk:
    """On-chip state of the tokens being processed."""

    position: int
    tokens: Int
    forced: NDArray[np.void] | None
    residual: Float
    x: Vectors
    cos: Float
    sin: Float
    attention: NDArray[np.bool_]  # decisions of the current layer: execute?
    mlp: NDArray[np.bool_]
    attention_map: Int
    mlp_map: Int
    query: Vectors | None = None
    activation: Vectors | None = None
    logits_argmax: Int | None = None

    @property
    def count(self) -> int:
        return len(self.tokens)


@dataclass
class _Program:
    """What the two set-up instructions fix."""

    geometry: Instruction | None = None
    tables: Instruction | None = None
    router: RouterRecord | None = None
    kv: KvLayout | None = None
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))


class GoldenDevice(ArrayDevice):
    """The numpy device.

    Parameters
    ----------
    config : CoreConfig
    observer : callable, optional
        Called after each instruction with (step, pc, instruction, tensors): the tensors it wrote,
        by name. What `verify` compares.
    """

    name = "golden"

    def __init__(
        self,
        config: CoreConfig,
        *,
        progress: Callable[[str], None] | None = None,
        observer: Callable[[int, Instruction, dict[str, NDArray[np.generic]]], None] | None = None,
    ):
        self.config = config
        self.observer = observer
        self._tiles: dict[tuple[int, int, int], Tiles] = {}
        self._versions = np.zeros((config.max_context, 64), np.bool_)
        self._stores = np.zeros(64, np.int64)
        self._held = np.zeros(config.max_context, np.int64)
        self._result: RunResult | DeviceError | None = None
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._errors = 0
        self.allocate(0)

    # -- the device contract ------------------------------------------------------------------

    def allocate(self, words: int) -> None:
        super().allocate(words)
        self._tiles.clear()

    def write(self, address: int, data: NDArray[np.uint8]) -> None:
        super().write(address, data)
        end = address + -(-data.size // self.config.word_bytes)
        for key in [k for k in self._tiles if k[0] < end]:
            if key[0] + matrix_words(self.config, *key[1:]) > address:
                del self._tiles[key]

    def start(self, run: Run) -> None:
        try:
            self._result = self._execute(run)
        except DeviceError as error:
            self._errors += 1
            self._counters["errors"] = self._errors
            self._result = error

    def wait(self, timeout_s: float | None = None) -> RunResult:
        result, self._result = self._result, None
        if isinstance(result, DeviceError):
            raise result
        if result is None:
            raise RuntimeError("wait() without start()")
        return result

    def counters(self) -> dict[str, int]:
        """Those counters that do not depend on timing; the others are zero."""
        return dict(self._counters)

    def reset(self) -> None:
        self._result = None

    # -- execution ----------------------------------------------------------------------------

    def _words(self, address: int, words: int, pc: int) -> NDArray[np.uint8]:
        if address + words > len(self._memory):
            raise DeviceError(
                CoreErrorCode.ADDRESS_RANGE,
                pc,
                f"word {address + words - 1} of {len(self._memory)}",
            )
        return self._memory[address : address + words]

    def _fetch(self, run: Run) -> list[Instruction | DeviceError]:
        if not 1 <= run.program_length <= self.config.max_program:
            length = f"{run.program_length} instructions"
            raise DeviceError(CoreErrorCode.BAD_OPCODE, 0, length)
        size = run.program_length * INSTRUCTION_BYTES
        words = -(-size // self.config.word_bytes)
        data = self._words(run.program_address, words, 0).reshape(-1)[:size].tobytes()
        return [
            _decode(data[pc * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES], pc)
            for pc in range(run.program_length)
        ]

    def _execute(self, run: Run) -> RunResult:
        self._counters = dict.fromkeys(COUNTERS, 0) | {"errors": self._errors}
        program = self._fetch(run)
        state = _Program()
        chunk: _Chunk | None = None
        met: set[Opcode] = set()
        position, count, steps, done = run.position, run.chunk_tokens, run.steps, 0
        next_token, fed_back, pc = 0, False, 0
        while True:
            if pc >= len(program):
                raise DeviceError(CoreErrorCode.BAD_OPCODE, pc, "ran past the program")
            i = program[pc]
            if isinstance(i, DeviceError):
                raise i
            why = objection(
                i, self.config, geometry=state.geometry, met=met, program_length=len(program)
            )
            if why is not None:
                raise DeviceError(CoreErrorCode.BAD_OPCODE, pc, why)
            met.add(i.opcode)
            self._counters["instructions"] += 1
            wrote: dict[str, NDArray[np.generic]] = {}
            match i.opcode:
                case Opcode.HALT:
                    return RunResult(tokens_done=done, next_token=next_token)
                case Opcode.GEOMETRY:
                    state.geometry = i
                    state.kv = KvLayout(1 << i.exponent, i.a & 0xFFFF, self.config.word_bytes)
                case Opcode.TABLES:
                    state.tables = i
                case Opcode.ROUTER:
                    hidden = self._need(state.geometry, pc).groups * self.config.group
                    words = self._words(i.address, router_words(self.config, hidden), pc)
                    state.router = unpack_router(words, hidden, self.config)
                case Opcode.EMBED:
                    forced_token = next_token if fed_back else None
                    chunk = self._embed(i, state, position, count, forced_token, pc)
                    wrote = {"residual": chunk.residual}
                case Opcode.ROUTE:
                    wrote = self._route(i, state, self._need(chunk, pc), pc)
                case Opcode.LINEAR:
                    wrote = self._linear(i, state, self._need(chunk, pc), run.mode, pc)
                case Opcode.ATTEND:
                    wrote = self._attend(i, state, self._need(chunk, pc), pc)
                case Opcode.NEXT:
                    assert chunk is not None
                    self._report(state, chunk, pc)
                    done += chunk.count
                    if chunk.logits_argmax is not None:
                        next_token = int(chunk.logits_argmax[-1])
                    if self.observer is not None:
                        self.observer(pc, i, {"next_token": np.array([next_token])})
                    if steps and next_token != run.eos_token:
                        position, count, steps, fed_back = position + count, 1, steps - 1, True
                        pc = i.a
                        continue
            if self.observer is not None and wrote:
                self.observer(pc, i, wrote)
            pc += 1

    @staticmethod
    def _need(value: T | None, pc: int) -> T:
        if value is None:
            raise DeviceError(CoreErrorCode.BAD_OPCODE, pc, "before its set-up instruction")
        return value

    def _embed(
        self, i: Instruction, s: _Program, position: int, count: int, fed_back: int | None, pc: int
    ) -> _Chunk:
        g, t = self._need(s.geometry, pc), self._need(s.tables, pc)
        kv, c = self._need(s.kv, pc), self.config
        longest = g.a >> 16
        if position + count > min(longest, c.max_context) or not 1 <= count <= c.max_chunk:
            raise DeviceError(
                CoreErrorCode.KV_OVERFLOW, pc, f"position {position} + {count} tokens of {longest}"
            )
        words = -(-count * RECORD_BYTES // c.word_bytes)
        raw = self._words(i.address, words, pc).reshape(-1)[: count * RECORD_BYTES]
        records = raw.copy().view(INPUT_RECORD)
        if fed_back is not None:
            records = np.zeros(1, INPUT_RECORD)
            records["token"] = fed_back
        tokens = records["token"].astype(np.int64)
        if (tokens >= t.c).any():
            raise DeviceError(CoreErrorCode.TOKEN_RANGE, pc, f"{tokens.max()} of {t.c}")
        hidden = g.groups * c.group
        table = np.stack([self._words(t.address + k * t.groups, t.groups, pc) for k in tokens])
        row = table.reshape(count, -1)[:, : 2 * hidden].copy().view(np.float16)
        mantissa, exponent = fp16_parts(np.abs(row))
        x = fp32.from_int(np.where(row < 0, -mantissa, mantissa), exponent)
        rope_rows = self._words(t.a + position * t.blocks, count * t.blocks, pc)
        angles = rope_rows.reshape(count, -1)[:, : 4 * kv.head_dim].copy().view(np.float32)
        self._versions[position:] = False
        self._held[:] = -1
        executed = np.ones(count, np.bool_)
        return _Chunk(
            position=position,
            tokens=tokens,
            forced=records if (records["flags"] & FORCE).any() else None,
            residual=x,
            x=Vectors.quantize(x, ACTIVATION_BITS, c.group),
            cos=angles[:, 0::2],
            sin=angles[:, 1::2],
            attention=executed,
            mlp=executed,
            attention_map=np.zeros(count, np.int64),
            mlp_map=np.zeros(count, np.int64),
        )

    def _reduce(self, s: _Program, x: Vectors, pc: int) -> tuple[Float, NDArray[np.bool_]]:
        g = self._need(s.geometry, pc)
        inv, eps = np.array([g.b, g.c], np.uint32).view(np.float32)
        return reduce_residual(x, self._need(s.router, pc), inv, eps)

    def _route(
        self, i: Instruction, s: _Program, chunk: _Chunk, pc: int
    ) -> dict[str, NDArray[np.generic]]:
        self._stores[i.layer] = i.a
        ahead = matrix_words(self.config, i.groups, i.blocks)
        self._words(i.address, min(ahead, self.config.prefetch_words), pc)
        _, skip = self._reduce(s, chunk.x, pc)
        execute = ~skip
        if chunk.forced is not None:
            bit = np.uint64(i.layer)
            maps = np.stack([chunk.forced["attention"], chunk.forced["mlp"]], axis=1)
            override = (chunk.forced["flags"] & FORCE).astype(np.bool_)[:, None]
            execute = np.where(override, (maps >> bit & np.uint64(1)).astype(np.bool_), execute)
        chunk.attention, chunk.mlp = execute[:, 0], execute[:, 1]
        chunk.attention_map |= chunk.attention.astype(np.int64) << i.layer
        chunk.mlp_map |= chunk.mlp.astype(np.int64) << i.layer
        for name, mask in (("attention", chunk.attention), ("mlp", chunk.mlp)):
            self._counters[f"{name}_executed"] += int(mask.sum())
            self._counters[f"{name}_skipped"] += int((~mask).sum())
        return {"attention": chunk.attention, "mlp": chunk.mlp}

    def _selected(self, i: Instruction, chunk: _Chunk, mode: int) -> Int:
        mask = {
            Select.ALL: np.ones(chunk.count, np.bool_),
            Select.ATTENTION: chunk.attention,
            Select.MLP: chunk.mlp,
            Select.OUTPUT: _outputs(chunk.count, mode),
        }[i.select]
        tokens = np.flatnonzero(mask)
        if not tokens.size:
            self._counters["instructions_skipped"] += 1
        return tokens

    def _matrix(self, i: Instruction, pc: int) -> Tiles:
        key = (i.address, i.groups, i.blocks)
        if key not in self._tiles:
            words = self._words(i.address, matrix_words(self.config, i.groups, i.blocks), pc)
            w, scales = unpack_matrix(words, i.groups, i.blocks, self.config)
            mantissa, exponent = fp16_parts(scales)
            by_group = w.T.reshape(i.groups, self.config.group, -1).astype(np.float64)
            self._tiles[key] = Tiles(by_group, mantissa.T, exponent.T)
        return self._tiles[key]

    def _linear(
        self, i: Instruction, s: _Program, chunk: _Chunk, mode: int, pc: int
    ) -> dict[str, NDArray[np.generic]]:
        tokens = self._selected(i, chunk, mode)
        if not tokens.size:
            return {}
        source = chunk.x if i.source == Source.RESIDUAL else chunk.activation
        v = self._need(source, pc)[tokens]
        matrix = self._matrix(i, pc)
        if i.epilogue is Epilogue.KEY:
            self._check_room(i, chunk.position, len(tokens), pc)
        accumulator, exponent = linear(v, matrix, i.exponent)
        self._counters["words_weights"] += matrix_words(self.config, i.groups, i.blocks)
        scale = np.ones(len(tokens), np.float32)
        if Flag.NORM in i.flags:
            scale = self._reduce(s, chunk.x[tokens], pc)[0]
        y = fp32.mul(fp32.from_int(accumulator, exponent[:, None]), scale[:, None])
        kv, group = self._need(s.kv, pc), self.config.group
        match i.epilogue:
            case Epilogue.RESIDUAL:
                chunk.residual[tokens] = fp32.add(chunk.residual[tokens], y)
                x = Vectors.quantize(chunk.residual[tokens], ACTIVATION_BITS, group)
                chunk.x.mantissa[tokens], chunk.x.exponent[tokens] = x.mantissa, x.exponent
                return {"residual": chunk.residual[tokens]}
            case Epilogue.QUERY:
                y = rope(y, chunk.cos[tokens], chunk.sin[tokens])
                chunk.query = self._place(chunk.count, tokens, y, kv.head_dim)
                return {"query": y}
            case Epilogue.KEY | Epilogue.VALUE:
                if i.epilogue is Epilogue.KEY:
                    y = rope(y, chunk.cos[tokens], chunk.sin[tokens])
                self._store(i, kv, chunk.position + tokens, y, pc)
                return {i.epilogue.name.lower(): y}
            case Epilogue.SWIGLU:
                h = swiglu(y)
                chunk.activation = self._place(chunk.count, tokens, h, group)
                return {"hidden": h}
            case Epilogue.LOGITS:
                self._logits(i, chunk, tokens, y, mode, pc)
                return {"logits": y}

    @staticmethod
    def _place(count: int, tokens: Int, y: Float, group: int) -> Vectors:
        """BFP(12, group) of the selected tokens' vectors, in a buffer for the whole chunk."""
        v = Vectors.quantize(y, ACTIVATION_BITS, group)
        whole = Vectors(
            np.zeros((count, y.shape[1]), np.int64),
            np.full((count, v.exponent.shape[1]), EXPONENT_MIN, np.int64),
        )
        whole.mantissa[tokens], whole.exponent[tokens] = v.mantissa, v.exponent
        return whole

    def _check_room(self, i: Instruction, position: int, count: int, pc: int) -> None:
        """K and V of `count` more tokens must fit the layer's store."""
        stored = int(self._versions[:position, i.layer].sum())
        if stored + count > i.a:
            raise DeviceError(
                CoreErrorCode.KV_OVERFLOW,
                pc,
                f"layer {i.layer} has stored {stored} + {count} tokens of {i.a}",
            )

    def _store(self, i: Instruction, kv: KvLayout, positions: Int, y: Float, pc: int) -> None:
        """Append K or V of the tokens at `positions` to the layer's packed store."""
        v = Vectors.quantize(y, KV_BITS, kv.head_dim)
        heads = v.mantissa.reshape(len(positions), kv.kv_heads, kv.head_dim).astype(np.int8)
        first = int(self._versions[: positions[0], i.layer].sum())
        per_word, per = kv.tokens_per_exponent_word, kv.heads_per_word
        is_value = i.epilogue is Epilogue.VALUE
        store = int(self._stores[i.layer])
        for head_group in range(kv.head_groups):
            low, high = head_group * per, min((head_group + 1) * per, kv.kv_heads)
            for n in range(len(positions)):
                rank = first + n
                places = kv.places(store, rank, head_group)
                data = heads[n, low:high].reshape(-1).view(np.uint8)
                self._words(places[is_value], 1, pc)[0, : data.size] = data
                word = self._words(places[2], 1, pc)[0].view(np.int8)
                at = (rank % per_word) * 2 * per + is_value * per
                word[at : at + high - low] = v.exponent[n, low:high]
        if is_value:
            self._versions[positions, i.layer] = True

    def _attend(
        self, i: Instruction, s: _Program, chunk: _Chunk, pc: int
    ) -> dict[str, NDArray[np.generic]]:
        tokens = self._selected(i, chunk, 0)
        if not tokens.size:
            return {}
        kv = self._need(s.kv, pc)
        query = self._need(chunk.query, pc)[tokens]
        total = chunk.position + int(tokens[-1]) + 1
        stored = self._versions[:total, : i.layer + 1]
        # The version of each token: the last layer, up to this one, that stored it; its rank there.
        layer = i.layer - np.argmax(stored[:, ::-1], axis=1)
        rank: Int = (np.cumsum(stored, axis=0) - stored)[np.arange(total), layer]
        self._count_history(kv, layer, chunk.position + tokens, i.layer)
        pieces = [self._gather(kv, layer, rank, g, pc) for g in range(kv.head_groups)]
        k, ek, v, ev = (
            np.concatenate(p, axis=1)[:, : kv.kv_heads] for p in zip(*pieces, strict=True)
        )
        visible = np.arange(total)[None] <= (chunk.position + tokens)[:, None]
        y = attend(query, k, ek, v, ev, visible)
        chunk.activation = self._place(chunk.count, tokens, y, self.config.group)
        return {"attention": y}

    def _count_history(self, kv: KvLayout, version: Int, positions: Int, layer: int) -> None:
        """What a KV history buffer spares: of it only the counters can be seen from outside."""
        room = self.config.history_words // (1 << (kv.head_groups - 1).bit_length())
        words = 2 * kv.head_groups
        for last in positions:
            wanted = version[: last + 1]
            hit = self._held[: last + 1] == wanted
            fresh = ~hit & (wanted == layer)
            for name, which in (("hits", hit), ("fresh", fresh), ("gaps", ~hit & ~fresh)):
                self._counters[f"history_{name}"] += words * int(which.sum())
            self._held[: min(last + 1, room)] = wanted[:room]

    def _gather(self, kv: KvLayout, layer: Int, rank: Int, head_group: int, pc: int) -> list[Int]:
        """K, K exponents, V, V exponents of one head group: (t, heads, hd) and (t, heads)."""
        keys, values, shared = kv.places(self._stores[layer], rank, head_group)
        memory = self._words(0, int(shared.max()) + 1, pc)
        per_word, per = kv.tokens_per_exponent_word, kv.heads_per_word
        used = per * kv.head_dim

        def mantissas(address: Int) -> Int:
            rows = memory[address][:, :used].view(np.int8)
            return rows.reshape(len(rank), per, kv.head_dim).astype(np.int64)

        words = memory[shared].view(np.int8)
        at = (rank % per_word) * 2 * per
        columns = at[:, None] + np.arange(2 * per)
        exponents = np.take_along_axis(words, columns, axis=1).astype(np.int64)
        return [
            mantissas(keys),
            exponents[:, :per],
            mantissas(values),
            exponents[:, per:],
        ]

    def _logits(
        self, i: Instruction, chunk: _Chunk, tokens: Int, y: Float, mode: int, pc: int
    ) -> None:
        chunk.logits_argmax = np.zeros(chunk.count, np.int64)
        chunk.logits_argmax[tokens] = y[:, : i.a].argmax(axis=1)
        if not mode & (Mode.LOGITS | Mode.ALL_LOGITS):
            return
        stride = logits_row_words(self.config, i.blocks)
        for n, token in enumerate(tokens):
            row = token if mode & Mode.ALL_LOGITS else 0
            words = self._words(i.b + row * stride, stride, pc).reshape(-1)
            words[: 4 * y.shape[1]] = np.ascontiguousarray(y[n]).view(np.uint8)

    def _report(self, s: _Program, chunk: _Chunk, pc: int) -> None:
        t = self._need(s.tables, pc)
        records = np.zeros(chunk.count, OUTPUT_RECORD)
        records["token"] = chunk.tokens
        if chunk.logits_argmax is not None:
            records["next_token"] = chunk.logits_argmax
        records["attention"], records["mlp"] = chunk.attention_map, chunk.mlp_map
        records["position"] = chunk.position + np.arange(chunk.count)
        base = t.b * self.config.word_bytes
        at = base + chunk.position * RECORD_BYTES
        last = -(-(at + records.nbytes) // self.config.word_bytes)
        self._words(0, last, pc).reshape(-1)[at : at + records.nbytes] = records.view(np.uint8)
