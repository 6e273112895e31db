"""A device that speaks the contract and knows bigrams: after token t comes successor(t)."""

import numpy as np
import pytest

from skipstone.devices import Device, RunResult
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode, DeviceError
from skipstone.spec.image import Image, Section
from skipstone.spec.records import FORCE, INPUT_RECORD, OUTPUT_RECORD
from skipstone.spec.registers import COUNTERS, Mode

CORE = CoreConfig(
    name="fake", rows=16, columns=8, lanes=2, ports=1, port_bits=512, max_hidden=64, max_ffn=64,
    max_query=64, max_context=64, max_chunk=4, max_layers=4,
)  # fmt: skip
VOCABULARY, STRIDE, LAYERS, CONTEXT, EOS = 30, 32, 3, 48, 1


def successor(token):
    """What follows `token`; a walk through the ids 2 … 29, and 1 (end) after 29."""
    return EOS if token == VOCABULARY - 1 else max(token, 1) + 1


def maps(token, position):
    """What the made-up routers decide."""
    return (token * 5 + position) % 8, (token * 3 + 1) % 8


class BigramDevice(Device):
    """Runs no program; reads input records, writes output records and logits."""

    name = "bigram"

    def __init__(self, config=CORE):
        self.config = config
        self.runs, self.resets = [], 0
        self.memory = np.zeros(0, np.uint8)
        self.fail_at = None
        self.history = []
        self._counters = {}

    def allocate(self, words):
        self.memory = np.zeros(words * self.config.word_bytes, np.uint8)

    def _at(self, address, count):
        start = address * self.config.word_bytes
        if address < 0 or start + count > self.memory.size:
            raise ValueError("beyond the allocated words")
        return slice(start, start + count)

    def write(self, address, data):
        self.memory[self._at(address, data.size)] = data

    def read(self, address, count):
        return self.memory[self._at(address, count)].copy()

    def start(self, run):
        self.runs.append(run)

    def wait(self, timeout_s=None):
        run = self.runs[-1]
        if self.fail_at is not None and run.position >= self.fail_at:
            raise DeviceError(CoreErrorCode.WATCHDOG, 7)
        if run.position + run.chunk_tokens + run.steps > CONTEXT:
            raise DeviceError(CoreErrorCode.KV_OVERFLOW, 3)
        base = run.program_address
        assert run.program_length == 5
        raw = self.read(base + 1, run.chunk_tokens * INPUT_RECORD.itemsize)
        inputs = raw.view(INPUT_RECORD)
        tokens = [int(t) for t in inputs["token"]]
        self.history = self.history[: run.position] + tokens
        rows = []
        for n, token in enumerate(tokens):
            last = n == len(tokens) - 1
            following = successor(token) if last or run.mode & Mode.ALL_LOGITS else 0
            attention, mlp = maps(token, run.position + n)
            if inputs[n]["flags"] & FORCE:
                attention, mlp = inputs[n]["attention"], inputs[n]["mlp"]
            rows.append((token, following, attention, mlp, run.position + n, 0))
            if run.mode and (last or run.mode & Mode.ALL_LOGITS):
                logits = np.zeros(STRIDE, "<f4")
                logits[:VOCABULARY] = -np.abs(np.arange(VOCABULARY) - following)
                logits[VOCABULARY:] = 1000  # padding must never be looked at
                row = n if run.mode & Mode.ALL_LOGITS else 0
                self.memory[self._at(base + 32 + 2 * row, 128)] = logits.view(np.uint8)
        steps = run.steps
        while steps and rows[-1][1] != run.eos_token:
            token, position = rows[-1][1], run.position + len(rows)
            rows.append((token, successor(token), *maps(token, position), position, 0))
            self.history.append(token)
            steps -= 1
        records = np.array(rows, OUTPUT_RECORD)
        first = (base + 3) * self.config.word_bytes + 32 * run.position
        self.memory[first : first + records.nbytes] = records.view(np.uint8)
        self._counters = dict.fromkeys(COUNTERS, 0) | {"cycles": 100 * len(rows), "errors": 2}
        return RunResult(tokens_done=len(rows), next_token=rows[-1][1])

    def counters(self):
        return dict(self._counters)

    def reset(self):
        self.resets += 1


def make_image(**changes):
    """An image of which only the mailbox means anything; sections begin at word 5."""
    model = {
        "name": "bigram", "layers": LAYERS, "vocabulary": VOCABULARY, "logits_stride": STRIDE,
        "max_positions": 100, "kv_capacity": CONTEXT, "kv_room": [CONTEXT] * LAYERS,
        "bos": 0, "eos": [EOS], "program_length": 5,
    } | changes  # fmt: skip
    nothing = np.zeros(0, np.uint8)
    places = {"program": (5, 1), "input": (6, 2), "records": (8, 24), "logits": (37, 8)}
    return Image(CORE, model, {n: Section(n, *p, nothing) for n, p in places.items()})


@pytest.fixture
def device():
    return BigramDevice()


@pytest.fixture
def image():
    return make_image()


class Fake:
    """The pieces above, for tests that build their own."""

    device = BigramDevice
    image = staticmethod(make_image)
    successor = staticmethod(successor)
    maps = staticmethod(maps)
    core = CORE
    vocabulary, layers, context, eos = VOCABULARY, LAYERS, CONTEXT, EOS


@pytest.fixture(scope="session")
def fake():
    return Fake
