"""safetensors headers: no damage gets through, whatever the bytes."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipstone.model.tensors import TensorFile
from skipstone.spec.errors import CheckpointError

DATA = bytes(range(32))


def write(path, header, data=DATA, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start, end, shape=None, dtype="F32"):
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_sound_file(tmp_path):
    header = {"__metadata__": {"a": "b"}, "x": entry(0, 16, [2, 2]), "y": entry(16, 32)}
    file = TensorFile(write(tmp_path / "f", header))
    assert file.metadata == {"a": "b"}
    np.testing.assert_array_equal(file.read("x"), np.frombuffer(DATA, "<f4")[:4].reshape(2, 2))
    np.testing.assert_array_equal(file.read("y"), np.frombuffer(DATA, "<f4")[4:])


X, Y = entry(0, 16), entry(16, 32)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"x": X, "y": entry(12, 28)}, "tensors 'x' and 'y' overlap"),
        ({"x": entry(0, 32), "y": entry(8, 16)}, "tensors 'x' and 'y' overlap"),
        ({"x": X, "y": X}, "overlap"),
        ({"x": X}, "16 bytes after the last tensor belong to no tensor"),
        ({"y": Y}, "bytes 0 to 16 belong to no tensor"),
        ({"x": X, "y": entry(16, 36)}, r"'y': bytes 16 to 36 are out of range, .* 32 bytes"),
        ({"x": entry(16, 0, [1])}, "'x': bytes 16 to 0 are out of range"),
        ({"x": entry(0, 16, [5])}, r"F32 of shape \[5\] needs 20 bytes, data_offsets give 16"),
        ({"x": entry(0, 16, [2**40, 2**40])}, "needs"),
        ({"x": entry(0, 16, dtype="F4")}, "unknown dtype 'F4'"),
        ({"x": entry(0, 16, dtype=["F32"])}, "unknown dtype"),
        ({"x": entry(0, 16, [-4])}, "shape must be a list of sizes"),
        ({"x": entry(0, 16, [True])}, "shape must be a list of sizes"),
        ({"x": X | {"data_offsets": [0]}}, "data_offsets must be two sizes"),
        ({"x": X | {"data_offsets": [0.0, 16.0]}}, "data_offsets must be two sizes"),
        ({"x": X | {"more": 1}}, "needs exactly dtype, shape and data_offsets"),
        ({"x": 3}, "needs exactly dtype"),
        ({"__metadata__": {"a": 1}}, "__metadata__ must map names to text"),
        ([], "must be a JSON object"),
        (b'{"x": 1, "x": 2}', "the name 'x' occurs twice"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
    ],
)
def test_damaged_headers(tmp_path, header, message):
    with pytest.raises(CheckpointError, match=message):
        TensorFile(write(tmp_path / "f", header))


def test_truncation(tmp_path):
    path = write(tmp_path / "f", {"x": X, "y": Y})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"truncated|out of range|belong"):
            TensorFile(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match=r"1 bytes after the last tensor"):
        TensorFile(path)


def test_an_absurd_header_length(tmp_path):
    with pytest.raises(CheckpointError, match=r"the header has 18446744073709551615 bytes"):
        TensorFile(write(tmp_path / "f", {}, length=2**64 - 1))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot be read: No such file"):
        TensorFile(tmp_path / "f")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_change_of_a_byte_is_refused_or_harmless(tmp_path, data):
    header = {"__metadata__": {"k": "v"}, "x": entry(0, 16, [2, 2]), "y": entry(16, 32)}
    path = write(tmp_path / "f", header)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 33))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        file = TensorFile(path)
    except CheckpointError:
        return
    covered = 0
    for name, tensor in file.tensors.items():
        covered += tensor.end - tensor.start
        if tensor.dtype in ("F32", "F16", "BF16"):
            try:
                value = file.read(name)
            except CheckpointError:
                continue
            assert value.shape == tensor.shape
    assert covered == 32
