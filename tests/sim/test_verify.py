# amaranth: UnusedElaboratable=no
"""Verification finds no difference where there is none, and the exact one where there is."""

import json
import sys

import numpy as np
import pytest

from skipstone.build import build_image
from skipstone.cli import main
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import DeviceError, RequestError
from skipstone.spec.isa import Epilogue, Opcode
from skipstone.spec.layout import matrix_words, pack_matrix, unpack_matrix
from skipstone.spec.records import OUTPUT_RECORD, RECORD_BYTES
from skipstone_sim import verify_command
from skipstone_sim.golden import GoldenDevice
from skipstone_sim.places import Atlas
from skipstone_sim.trace import TRANSFER, Kind, Tensor, first_departure, transfers
from skipstone_sim.verify import verify

TINY = CONFIGS["sim-tiny"]
PROMPT = [40, 121, 7, 300, 411, 18, 77, 260, 33, 90, 5]  # more than a chunk
BAD_STEP = 4
BAD_POSITION = len(PROMPT) + BAD_STEP - 2  # two runs hold the prompt


@pytest.fixture(scope="module")
def image():
    return build_image("nano", TINY, kv_rule="kv_recompute", routers="none")


@pytest.fixture(scope="module")
def routed():
    return build_image("nano", TINY, kv_rule="kv_reuse", routers="40")


def check(image, other, tokens=8):
    return verify(image, GoldenDevice(image.config), [other], PROMPT, tokens=tokens)


def find(image, opcode, **fields):
    program = Atlas(image).program
    (pc,) = [
        pc
        for pc, i in enumerate(program)
        if i.opcode is opcode and all(getattr(i, n) == v for n, v in fields.items())
    ]
    return pc


def located(report):
    """(step, position, instruction, tensor, layer, token, element) of the difference."""
    d = report.difference
    return d.step, d.position, d.instruction, d.tensor, d.layer, d.token, d.element


# -- golden against broken copies of itself --------------------------------------------------------


def test_golden_is_itself(routed):
    report = check(routed, GoldenDevice(TINY))
    assert report.identical
    assert report.difference is None
    assert [d.name for d in report.devices] == ["golden", "golden-2"]
    assert report.devices[0].tokens == report.devices[1].tokens
    assert len(report.devices[0].tokens) == 8
    assert report.passed == PROMPT + report.devices[0].tokens[:-1]
    assert report.logits.shape == (len(report.passed), 512)
    assert report.records["token"].tolist() == report.passed
    assert report.words_compared > routed.words


@pytest.mark.parametrize("position", [8, BAD_POSITION], ids=["prefill", "decode"])
def test_a_wrong_result_is_located(image, position):
    class Broken(GoldenDevice):
        def _attend(self, i, s, chunk, pc):
            wrote = super()._attend(i, s, chunk, pc)
            if i.layer == 1 and chunk.position == position:
                y = wrote["attention"]
                y.view(np.uint32)[chunk.count - 1, 7] ^= 1 << 21
                chunk.activation = self._place(chunk.count, np.arange(chunk.count), y, TINY.group)
            return wrote

    report = check(image, Broken(TINY))
    step, token = (1, 2) if position == 8 else (BAD_STEP, 0)
    pc = find(image, Opcode.ATTEND, layer=1)
    assert located(report) == (step, position, pc, "attention", 1, token, 7)
    d = report.difference
    assert d.disassembly.startswith(f"{pc}  attend")
    assert int(d.golden["hex"], 16) ^ int(d.actual["hex"], 16) == 1 << 21
    assert np.uint32(int(d.golden["hex"], 16)).view(np.float32) == d.golden["value"]
    assert d.memory is None
    assert d.device == "golden-2"
    assert report.devices[1].runs_different >= 1


@pytest.mark.parametrize("part", ["key", "value", "key exponent", "value exponent"])
def test_a_wrong_byte_of_the_cache_is_located(image, part):
    kind = part.split()[0]
    rank = BAD_POSITION

    class Broken(GoldenDevice):
        def _store(self, i, kv, positions, y, pc):
            super()._store(i, kv, positions, y, pc)
            if i.layer == 1 and rank in positions and i.epilogue.name == kind.upper():
                *rows, word = kv.places(int(self._stores[1]), rank, 0)
                if "exponent" in part:
                    byte = (rank % kv.tokens_per_exponent_word) * 2 + (kind == "value")
                else:
                    word, byte = rows[kind == "value"], 19
                self._memory[word, byte] ^= 0x10

    report = check(image, Broken(TINY))
    pc = find(image, Opcode.LINEAR, layer=1, epilogue=Epilogue[kind.upper()])
    element = None if "exponent" in part else 19
    assert located(report) == (BAD_STEP, BAD_POSITION, pc, kind, 1, None, element)
    place = report.difference.memory
    assert place.section == "kv"
    expected = {
        "tensor": kind, "layer": 1, "head group": 0, "rank": rank, "head": 0,
        "element": "exponent" if element is None else 19,
    }  # fmt: skip
    assert place.fields == expected
    d = report.difference
    assert int(d.golden["hex"], 16) ^ int(d.actual["hex"], 16) == 0x10


@pytest.mark.parametrize("module", ["attention", "mlp"])
def test_a_wrong_decision_is_located(routed, module):
    class Broken(GoldenDevice):
        def _route(self, i, s, chunk, pc):
            wrote = super()._route(i, s, chunk, pc)
            if i.layer == 2 and chunk.position == 0:
                mask, name = wrote[module], f"{module}_map"
                mask[3] = not mask[3]
                setattr(chunk, name, getattr(chunk, name) ^ (np.arange(chunk.count) == 3) << 2)
            return wrote

    report = check(routed, Broken(TINY))
    pc = find(routed, Opcode.ROUTE, layer=2)
    assert located(report) == (0, 0, pc, f"{module} executes", 2, 3, None)
    d = report.difference
    assert {d.golden["value"], d.actual["value"]} == {0, 1}


def test_a_wrong_record_is_located(image):
    class Broken(GoldenDevice):
        def _report(self, s, chunk, pc):
            super()._report(s, chunk, pc)
            if chunk.position == BAD_POSITION:
                at = s.tables.b * TINY.word_bytes + BAD_POSITION * RECORD_BYTES
                self._memory.reshape(-1)[at + OUTPUT_RECORD.fields["position"][1]] ^= 1

    report = check(image, Broken(TINY))
    pc = find(image, Opcode.NEXT)
    assert located(report) == (BAD_STEP, BAD_POSITION, pc, "record", None, None, None)
    place = report.difference.memory
    assert place.fields == {"tensor": "record", "position": BAD_POSITION, "field": "position"}


def test_a_wrong_logit_in_memory_is_located(image):
    class Broken(GoldenDevice):
        def _logits(self, i, chunk, tokens, y, mode, pc):
            super()._logits(i, chunk, tokens, y, mode, pc)
            if chunk.position == BAD_POSITION:
                self._memory[i.b].view(np.uint32)[6] ^= 1

    report = check(image, Broken(TINY))
    pc = find(image, Opcode.LINEAR, epilogue=Epilogue.LOGITS)
    assert located(report) == (BAD_STEP, BAD_POSITION, pc, "logits", None, None, 6)


def test_a_difference_that_does_not_come_again(image):
    class Broken(GoldenDevice):
        done = False

        def _logits(self, i, chunk, tokens, y, mode, pc):
            super()._logits(i, chunk, tokens, y, mode, pc)
            if chunk.position == BAD_POSITION and not self.done:
                self.done = True
                self._memory[i.b, 0] ^= 1

    report = check(image, Broken(TINY))
    d = report.difference
    assert (d.step, d.instruction) == (BAD_STEP, None)
    assert d.note == "it did not come again when repeated"
    assert report.devices[1].runs_different == 1


def test_memory_that_no_run_reads_is_compared_at_the_end(image):
    class Broken(GoldenDevice):
        def load(self, image):
            super().load(image)
            self._memory[image.sections["rope"].end - 1, 3] ^= 1

    d = check(image, Broken(TINY)).difference
    assert (d.step, d.instruction) == (None, None)
    assert (d.memory.section, d.memory.byte) == ("rope", 3)
    assert d.memory.word == image.sections["rope"].words - 1


def test_a_device_that_stops_is_a_difference(image):
    class Broken(GoldenDevice):
        def _attend(self, i, s, chunk, pc):
            if chunk.position == BAD_POSITION and i.layer == 2:
                raise DeviceError(6, pc)
            return super()._attend(i, s, chunk, pc)

    report = check(image, Broken(TINY))
    d = report.difference
    assert (d.step, d.instruction) == (BAD_STEP, find(image, Opcode.ATTEND, layer=2))
    assert "the core stopped with WATCHDOG" in d.note
    assert len(report.devices[1].tokens) == BAD_STEP - 1  # it ran no further


def test_requests_are_checked(image):
    golden = GoldenDevice(TINY)
    with pytest.raises(RequestError, match="tokens must be at least 1, not 0"):
        verify(image, golden, [], PROMPT, tokens=0)
    with pytest.raises(RequestError, match="exceed the context of 512"):
        verify(image, golden, [], PROMPT, tokens=503)


# -- pairs -----------------------------------------------------------------------------------------


@pytest.fixture
def tensors(image):
    rng = np.random.default_rng(0)
    instruction = Atlas(image).program[4]
    return [
        Tensor(pc, instruction, kind, np.array(tokens), rng.standard_normal(shape, np.float32))
        for pc, kind, tokens, shape in [(4, Kind.QUERY, [1, 4], (2, 8)), (5, Kind.KEY, [4], (1, 4))]
    ]


def test_pairs_of_a_tensor_come_in_any_order(tensors):
    pairs = transfers(tensors)
    assert first_departure(tensors, pairs) is None
    pairs[:8] = pairs[:8][np.random.default_rng(1).permutation(8)]
    assert first_departure(tensors, pairs) is None
    assert transfers([]).dtype == TRANSFER


def test_pairs_that_do_not_belong(tensors):
    pairs = transfers(tensors)
    swapped = pairs.copy()
    swapped[[7, 8]] = swapped[[8, 7]]
    assert first_departure(tensors, swapped).found == "pair 0 of key, token 4"
    twice = pairs.copy()
    twice[3] = twice[2]
    assert first_departure(tensors, twice).found == "pair 2 of query, token 1"
    assert first_departure(tensors, pairs[:-1]).found == "only 1 of 2 pairs"
    more = first_departure(tensors, np.concatenate([pairs, pairs[:1]]))
    assert (more.tensor, more.found) == (None, "pair 0 of query, token 1")
    stranger = pairs.copy()
    stranger["kind"][0] = 9
    assert first_departure(tensors, stranger).found == "pair 0 of kind 9, token 1"


def test_the_first_wrong_element_wins(tensors):
    pairs = transfers(tensors)
    pairs["value1"][5] ^= 3
    pairs["value0"][6] ^= 1
    d = first_departure(tensors, pairs)
    assert (d.tensor, d.token, d.element, d.expected ^ d.actual) == (tensors[0], 4, 3, 3)


def test_kinds_are_the_gateware_s():
    layouts = pytest.importorskip("skipstone_hw.layouts", reason="pip install 'skipstone[rtl]'")
    assert [(k.name, k.value) for k in Kind] == [(k.name, k.value) for k in layouts.PairKind]


def test_only_simulated_cores_have_the_probe():
    core = pytest.importorskip("skipstone_hw.core", reason="pip install 'skipstone[rtl]'")
    assert "probe" not in core.Core(config=TINY).signature.members
    assert "probe" in core.Core(config=TINY, probe=True).signature.members


# -- places ----------------------------------------------------------------------------------------


def change_weight(image, pc, output, element):
    """(word, data) of a matrix in which one int4's sign bit is flipped."""
    i, c = Atlas(image).program[pc], image.config
    section = image.sections["weights"]
    first = (i.address - section.address) * c.word_bytes
    words = np.array(section.data[first:][: matrix_words(c, i.groups, i.blocks) * c.word_bytes])
    weights, scales = unpack_matrix(words.reshape(-1, c.word_bytes), i.groups, i.blocks, c)
    weights[output, element] ^= -8
    return i.address, pack_matrix(weights, scales, c)


@pytest.mark.parametrize(("output", "element"), [(0, 0), (5, 37), (63, 62), (30, 16)])
@pytest.mark.parametrize("core", ["sim-tiny", "sim-small"])
def test_weights_have_places(core, output, element):
    image = build_image("nano", CONFIGS[core], routers="none")
    pc = find(image, Opcode.LINEAR, layer=1, epilogue=Epilogue.QUERY)
    address, changed = change_weight(image, pc, output, element)
    section = image.sections["weights"]
    before = np.array(section.data).reshape(-1, image.config.word_bytes)
    after = before.copy()
    after[address - section.address :][: len(changed)] = changed
    (offset,) = np.flatnonzero((before != after).reshape(-1))
    place = Atlas(image).place("weights", int(offset))
    assert place.instruction == pc
    assert place.fields == {"layer": 1, "output": output, "input": element // 2 * 2}


@pytest.mark.parametrize("core", ["sim-tiny", "sim-small"])
@pytest.mark.parametrize("name", ["key", "value"])
def test_keys_and_values_have_places(core, name):
    """Two KV heads: on the small core they share a word, on the tiny one they are two groups."""
    image = build_image("stories", CONFIGS[core], routers="none")
    atlas = Atlas(image)
    kv, width = atlas.kv, image.config.word_bytes
    groups, per_word, is_value = kv.head_groups, kv.heads_per_word, name == "value"
    assert (groups, per_word) == ((2, 1) if core == "sim-tiny" else (1, 2))
    rng = np.random.default_rng(5)
    room = image.model["kv_room"][0]
    for layer, rank, head, element in rng.integers(0, [6, room, 2, 32], (50, 4)).tolist():
        group, lane = divmod(head, per_word)
        *rows, exponents = kv.places(layer * kv.words(room), rank, group)
        slot = rank % kv.tokens_per_exponent_word
        offsets = {
            element: rows[is_value] * width + lane * 32 + element,
            "exponent": exponents * width + (2 * slot + is_value) * per_word + lane,
        }
        for what, offset in offsets.items():
            place = atlas.place("kv", offset)
            assert list(place.fields.values()) == [name, layer, group, rank, head, what]
            epilogue = Epilogue[name.upper()]
            assert place.instruction == find(image, Opcode.LINEAR, layer=layer, epilogue=epilogue)
            assert place == atlas.first_written("kv", np.array([offset]))


def test_of_several_bytes_the_first_written_is_named(image):
    """Keys are stored before values, though their exponents lie behind both."""
    kv = Atlas(image).kv
    _, *words = kv.places(0, 0, 0)
    value, exponents = (word * TINY.word_bytes for word in words)
    place = Atlas(image).first_written("kv", np.array([value, exponents, exponents + 1]))
    assert (place.fields["tensor"], place.fields["element"]) == ("key", "exponent")


def test_scales_have_places(image):
    pc = find(image, Opcode.LINEAR, layer=0, epilogue=Epilogue.SWIGLU)
    i = Atlas(image).program[pc]
    block_words = matrix_words(TINY, i.groups, i.blocks) // i.blocks
    word = i.address - image.sections["weights"].address + 3 * block_words
    place = Atlas(image).place("weights", word * TINY.word_bytes + 2 * (TINY.columns + 4))
    assert place.instruction == pc
    assert place.fields == {"layer": 0, "output": 3 * TINY.columns + 4, "scale of group": 1}
    assert str(place).endswith("(layer 0, output 28, scale of group 1)")


# -- the gateware ----------------------------------------------------------------------------------


@pytest.mark.rtl
@pytest.mark.parametrize("routers", ["none", "40"])
@pytest.mark.parametrize("rule", ["kv_reuse", "kv_recompute"])
def test_the_gateware_is_identical(rule, routers):
    from skipstone_sim.rtl import RtlDevice

    image = build_image("nano", TINY, kv_rule=rule, routers=routers)
    device = RtlDevice(TINY)
    report = check(image, device, tokens=24)
    device.close()
    assert report.difference is None
    assert report.devices[0].tokens == report.devices[1].tokens
    assert report.devices[1].cycles > 24 * 1000


@pytest.mark.rtl
def test_a_wrong_weight_in_the_gateware_s_memory_is_located(image):
    from skipstone_sim.rtl import RtlDevice

    pc = find(image, Opcode.LINEAR, layer=1, epilogue=Epilogue.SWIGLU)
    address, changed = change_weight(image, pc, output=26, element=37)

    class Broken(RtlDevice):
        def load(self, image):
            super().load(image)
            self.write(address, changed.reshape(-1))

    device = Broken(TINY)
    report = check(image, device)
    device.close()
    d = report.difference
    # Rows 26 and 27 are gate and up of element 13.
    assert (d.step, d.instruction, d.tensor, d.layer, d.element) == (0, pc, "swiglu", 1, 13)
    assert d.token == 0
    assert "read-only memory differs: weights" in d.note
    assert "(layer 1, output 26, input 36)" in d.note
    assert d.device == "rtl"


@pytest.mark.rtl
def test_traces_are_taken_once_and_only_when_wanted(routed):
    from skipstone.runtime import Engine
    from skipstone_sim.rtl import RtlDevice

    device = RtlDevice(TINY)
    engine = Engine(device, routed)
    engine.forward([1, 2, 3])
    assert len(device.take_trace()) == 0
    device.trace(True)
    engine.forward([1, 2, 3])
    device.trace(False)
    engine.forward([1, 2, 3])
    trace = device.take_trace()
    assert trace.dtype == TRANSFER
    assert (trace["kind"][:32] == Kind.EMBED).all()
    assert trace["index"][:32].tolist() == list(range(32))
    assert (trace["kind"] == Kind.LOGITS).sum() == 256
    assert len(device.take_trace()) == 0
    device.close()


# -- the command -----------------------------------------------------------------------------------


def command(*arguments):
    main(["verify", "--model", "nano", "--core", "sim-tiny", "--tokens", "4", *arguments])


def test_command_prints_json(capsys):
    with pytest.raises(SystemExit) as exit_:
        command("--device", "golden,golden", "--prompt", "Once upon a time", "--json")
    assert exit_.value.code == 0
    result = json.loads(capsys.readouterr().out)
    assert result["identical"] is True
    assert result["difference"] is None
    assert result["text"]["golden"] == result["text"]["golden-2"]
    assert result["tokens_compared"] >= 4
    assert (result["model"], result["core"], result["kv_rule"]) == ("nano", "sim-tiny", "kv_reuse")


class Mute(GoldenDevice):
    name = "mute"

    def _logits(self, i, chunk, tokens, y, mode, pc):
        super()._logits(i, chunk, tokens, np.zeros_like(y), mode, pc)


def test_command_exits_with_1_on_a_difference(capsys, monkeypatch):
    monkeypatch.setattr(verify_command, "open_device", lambda name, config, **options: Mute(config))
    with pytest.raises(SystemExit) as exit_:
        command("--device", "mute,golden", "--json")
    assert exit_.value.code == 1
    result = json.loads(capsys.readouterr().out)
    assert result["identical"] is False
    assert result["difference"]["device"] == "mute"
    assert result["difference"]["memory"]["section"] == "logits"
    with pytest.raises(SystemExit) as exit_:
        command("--device", "golden,mute")
    assert exit_.value.code == 1
    text = capsys.readouterr().out
    assert "DIFFERENT" in text
    assert "first difference" in text
    assert "linear" in text


def test_command_needs_golden(capsys):
    with pytest.raises(SystemExit) as exit_:
        command("--device", "rtl")
    assert exit_.value.code == 1
    assert "must name golden" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.parametrize("routers", ["none", "40"])
def test_torch_judges_accuracy(capsys, routers):
    pytest.importorskip("torch", reason="pip install 'skipstone[torch]'")
    with pytest.raises(SystemExit) as exit_:
        command("--device", "golden,torch", "--routers", routers, "--json")
    assert exit_.value.code == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]["torch"]
    assert accuracy["kl"] < 0.01
    assert 0 < accuracy["logits_max_abs_error"] < 1
    assert accuracy["top1_agreement"] > 0.9
    assert accuracy["skip_agreement"] >= (1 if routers == "none" else 0.97)


def test_without_torch_the_command_says_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as exit_:
        command("--device", "golden,torch")
    assert exit_.value.code == 1
    assert "pip install 'skipstone[torch]'" in capsys.readouterr().err
