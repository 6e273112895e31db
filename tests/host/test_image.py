"""Image files: what was saved is what is loaded, and nothing damaged passes."""

import dataclasses
import json
import struct

import numpy as np
import pytest

from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import ImageError
from skipstone.spec.image import Image, Section

CONFIG = CONFIGS["sim-tiny"]


@pytest.fixture
def saved(tmp_path):
    """An image with two full sections and a reserved one, and its file."""
    rng = np.random.default_rng(1)

    def data(size):
        return rng.integers(0, 256, size).astype(np.uint8)

    sections = [
        Section("program", 0, 4, data(100)),
        Section("weights", 4, 300, data(300 * CONFIG.word_bytes)),
        Section("kv", 304, 50, data(0)),
    ]
    image = Image(CONFIG, {"name": "test", "layers": 2}, {s.name: s for s in sections})
    path = tmp_path / "image.skipstone"
    image.save(path)
    return image, path


def change(path, at: int, value: bytes):
    raw = bytearray(path.read_bytes())
    raw[at : at + len(value)] = value
    path.write_bytes(raw)


def edit_header(path, edit):
    """Change the header's JSON; the file stays whole."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<I", raw, 12)
    header = json.loads(raw[16 : 16 + length])
    edit(header)
    text = json.dumps(header).encode()
    head = raw[:12] + struct.pack("<I", len(text)) + text
    path.write_bytes(head.ljust(4096, b"\0") + raw[4096:])


def test_what_was_saved_is_loaded(saved):
    image, path = saved
    loaded = Image.load(path)
    assert loaded.config == image.config
    assert loaded.model == image.model
    assert loaded.words == 354
    for name, section in image.sections.items():
        assert (loaded.sections[name].address, loaded.sections[name].words) == (
            section.address,
            section.words,
        )
        assert (loaded.sections[name].data == section.data).all()


@pytest.mark.parametrize("size", [0, 7, 15, 16, 200, 4096, 4150, 8192, 17_000])
def test_a_truncated_file(saved, size):
    _, path = saved
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ImageError):
        Image.load(path)


@pytest.mark.parametrize(("name", "at"), [("program", 4096 + 99), ("weights", 8192 + 5000)])
def test_a_flipped_bit(saved, name, at):
    _, path = saved
    change(path, at, bytes([path.read_bytes()[at] ^ 1]))
    with pytest.raises(ImageError, match=f"section '{name}' is corrupted"):
        Image.load(path)
    Image.load(path, verify=False)


def test_another_kind_of_file(saved):
    _, path = saved
    change(path, 0, b"GGUF")
    with pytest.raises(ImageError, match="magic must be"):
        Image.load(path)


def test_another_version(saved):
    _, path = saved
    change(path, 8, struct.pack("<I", 99))
    with pytest.raises(ImageError, match="format version must be 2, not 99"):
        Image.load(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda h: h["config"].update(lanes=3), "its fields give"),
        (lambda h: h["config"].update(rows=7), "rows must be a power of two"),
        (lambda h: h["config"].pop("rows"), "malformed header"),
        (lambda h: h.pop("model"), "malformed header"),
        (lambda h: h["sections"][0].pop("bytes"), "malformed section"),
        (lambda h: h["sections"][0].update(offset=-4096), "bad fields"),
        (lambda h: h["sections"][0].update(words=1.5), "bad fields"),
        (lambda h: h["sections"][1].update(name="program"), "duplicated"),
        (lambda h: h["sections"][0].update(words=3), "has 100 bytes, but room for 96"),
        (lambda h: h["sections"][1].update(offset=1 << 40), "but the file has"),
        (lambda h: h["sections"][1].update(address=3), "overlap"),
    ],
)
def test_headers_that_contradict_themselves(saved, edit, message):
    _, path = saved
    edit_header(path, edit)
    with pytest.raises(ImageError, match=message):
        Image.load(path)


def test_another_core(saved):
    image, _ = saved
    other = dataclasses.replace(CONFIG, name="other")
    with pytest.raises(ImageError, match=f"{CONFIG.hash64:016x}.*{other.hash64:016x}"):
        image.check_config(other)
    image.check_config(CONFIG)


def test_saving_replaces_the_file_whole(saved):
    image, path = saved
    before = path.read_bytes()
    image.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
