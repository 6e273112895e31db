"""Conversion straight into a file: the same bytes as in memory, and little memory."""

import json
import tracemalloc

import numpy as np
import pytest

from skipstone.compiler import compile_model, compile_to_file, plan_image
from skipstone.model import SHAPES, load_checkpoint, make_checkpoint
from skipstone.model.config import ModelConfig
from skipstone.quant import Quantizer, fold, quantize, quantize_model
from skipstone.spec.config import CoreConfig, named_config
from skipstone.spec.errors import ConfigError
from skipstone.spec.image import Image, ImageWriter
from skipstone.spec.isa import decode_program

CORE = named_config("sim-small")
BIG = CoreConfig(
    name="big", rows=128, columns=32, lanes=8, ports=32, port_bits=512, group=128,
    max_hidden=8192, max_ffn=28672, max_query=8192, max_context=4096, max_chunk=64,
    max_layers=64, max_program=512, min_head_dim=64,
)  # fmt: skip
SHAPE = ModelConfig(
    name="m", hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=288, vocab=300,
    max_positions=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Sharded, with routers and a tokenizer."""
    path = tmp_path_factory.mktemp("models") / "m"
    make_checkpoint(SHAPE, path, shard_bytes=100_000)
    return load_checkpoint(path)


@pytest.fixture
def small_blocks(monkeypatch):
    """Row blocks far smaller than the matrices."""
    for module in (fold, quantize):
        monkeypatch.setattr(module, "BLOCK_ROWS", 128)


TEXT = "The rain fell on the hills.\n\nNobody was at home but the cat, who slept.\n\n" * 2


@pytest.mark.parametrize(("method", "text"), [("rtn", None), ("gptq", TEXT)])
def test_the_file_is_what_memory_would_hold(checkpoint, tmp_path, small_blocks, method, text):
    model = quantize_model(checkpoint, method, CORE.group, text)
    compile_model(model, CORE, kv_capacity=64).save(tmp_path / "memory")
    seen = []
    compile_to_file(
        Quantizer(checkpoint, method, CORE.group, text),
        CORE,
        tmp_path / "streamed",
        kv_capacity=64,
        progress=lambda *step: seen.append(step),
    )
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "memory").read_bytes()
    assert seen[0][:2] == ("convert", 0)
    assert [s[1] for s in seen] == sorted(s[1] for s in seen)
    assert seen[-1][1] < seen[-1][2]


def test_row_blocks_do_not_matter(checkpoint, monkeypatch):
    whole = quantize_model(checkpoint, "rtn", 32)
    for module in (fold, quantize):
        monkeypatch.setattr(module, "BLOCK_ROWS", 128)
    blocks = quantize_model(checkpoint, "rtn", 32)
    for (name, a), (_, b) in zip(whole.matrices(), blocks.matrices(), strict=True):
        np.testing.assert_array_equal(a.weights, b.weights, err_msg=name)
        np.testing.assert_array_equal(a.scales, b.scales, err_msg=name)
    np.testing.assert_array_equal(whole.embedding, blocks.embedding)


def test_memory_does_not_grow_with_the_model(tmp_path, small_blocks):
    peaks = []
    for layers in (2, 8):
        shape = ModelConfig(
            name="m", hidden=256, layers=layers, heads=8, kv_heads=8, head_dim=32, ffn=768,
            vocab=512, max_positions=64,
        )  # fmt: skip
        make_checkpoint(shape, tmp_path / f"{layers}")
        source = Quantizer(load_checkpoint(tmp_path / f"{layers}"), "rtn", 32)
        tracemalloc.start()
        compile_to_file(source, CORE, tmp_path / "image", kv_capacity=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    largest = 4 * 2 * 768 * 256
    assert peaks[1] < 1.1 * peaks[0] + 50_000
    assert peaks[1] < 4 * largest


def test_a_failed_conversion_leaves_nothing(checkpoint, tmp_path):
    class Breaking(Quantizer):
        def matrices(self):
            matrices = super().matrices()
            yield next(matrices)
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="the disk went away"):
        compile_to_file(Breaking(checkpoint, "rtn", 32), CORE, tmp_path / "image", kv_capacity=64)
    assert not list(tmp_path.iterdir())


def test_sections_must_be_filled_exactly(tmp_path):
    def write(*pieces):
        with ImageWriter(tmp_path / "i", CORE, {}, {"a": (0, 4)}, {"a": 100}) as writer:
            for piece in pieces:
                writer.write("a", np.full(piece, 7, np.uint8))

    with pytest.raises(ValueError, match="section 'a' has 100 bytes"):
        write(60, 41)
    with pytest.raises(ValueError, match="section 'a' must have 100 bytes, not 99"):
        write(60, 39)
    with pytest.raises(ValueError, match="has 300 bytes, but 4 words of room"):
        ImageWriter(tmp_path / "i", CORE, {}, {"a": (0, 4)}, {"a": 300})
    assert not list(tmp_path.iterdir())
    write(60, 40)
    assert (Image.load(tmp_path / "i").sections["a"].data == 7).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda s: s.name)
def test_public_shapes_fit_a_large_core(shape):
    plan = plan_image(shape, BIG)
    program = plan.program()
    encoded = b"".join(i.encode() for i in program)  # every field fits its bits
    assert decode_program(encoded) == program
    assert plan.words < 1 << 32
    json.dumps(plan.manifest(routed=True))


def test_the_plan_is_what_is_compiled(checkpoint):
    image = compile_model(quantize_model(checkpoint, "rtn", 32), CORE, kv_capacity=64)
    plan = plan_image(checkpoint.config, CORE, 64)
    assert {n: (s.address, s.words) for n, s in image.sections.items()} == plan.sections
    compiled = decode_program(np.asarray(image.sections["program"].data).tobytes())
    unknown = [i for i in plan.program() if i.exponent == 0]
    assert len(compiled) == len(plan.program())
    for ours, theirs in zip(plan.program(), compiled, strict=True):
        assert (ours.opcode, ours.address, ours.groups) == (
            theirs.opcode, theirs.address, theirs.groups,
        )  # fmt: skip
    assert unknown


def test_fields_that_would_overflow_are_refused():
    big = CoreConfig(**{**json.loads(BIG.to_json()), "max_context": 1 << 17})
    with pytest.raises(ConfigError, match=r"KV capacity \(tokens\) is 65536"):
        plan_image(SHAPES["llama-3.2-1b"], big, 65536)
