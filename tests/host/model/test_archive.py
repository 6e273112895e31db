"""router.pth: what torch writes is read, and nothing else is run."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from skipstone.model import load_checkpoint
from skipstone.model.archive import read_torch_archive
from skipstone.spec.errors import CheckpointError


class Global:
    """Pickles as the bare global `module.name`, without importing it."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __hash__(self):
        return hash((self.module, self.name))


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Pickler(pickle._Pickler):
    """Writes what torch.save writes: globals by name, storages as persistent ids."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(tuple(obj.arguments))
            self.write(pickle.REDUCE)
        elif isinstance(obj, PersistentId):
            self.save(tuple(obj.parts))
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)


class PersistentId:
    def __init__(self, *parts):
        self.parts = parts


def dumps(value):
    out = io.BytesIO()
    Pickler(out, 2).dump(value)
    return out.getvalue()


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(key, value, dtype="FloatStorage", **changes):
    fields = {"offset": 0, "shape": value.shape, "count": value.size, "rebuild": REBUILD}
    fields |= {"stride": tuple(s // value.itemsize for s in value.strides)} | changes
    storage = PersistentId("storage", Global("torch", dtype), key, "cpu", fields["count"])
    hooks = Call(Global("collections", "OrderedDict"))
    return Call(fields["rebuild"], storage, fields["offset"], fields["shape"], fields["stride"],
                False, hooks)  # fmt: skip


def write(path, value, storages, *, compress=zipfile.ZIP_STORED, **extra):
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("router/data.pkl", value if isinstance(value, bytes) else dumps(value))
        for key, data in storages.items():
            archive.writestr(f"router/data/{key}", np.ascontiguousarray(data).tobytes())
        for name, data in extra.items():
            archive.writestr(f"router/{name}", data)
    return path


ONE = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_tensors_of_each_storage(tmp_path):
    bf16 = (ONE.view(np.uint32) >> 16).astype(np.uint16)
    value = {
        "a": tensor("0", ONE),
        "b": tensor("1", ONE.astype(np.float16), "HalfStorage"),
        "c": tensor("2", bf16, "BFloat16Storage"),
        "d": tensor("0", ONE, shape=(2,), stride=(3,), offset=1),
        "e": tensor("0", ONE, shape=(0, 3)),
    }
    storages = {"0": ONE, "1": ONE.astype(np.float16), "2": bf16}
    found = read_torch_archive(write(tmp_path / "r.pth", value, storages, byteorder=b"little"))
    for name in "abc":
        np.testing.assert_array_equal(found[name], ONE)
    np.testing.assert_array_equal(found["d"], [1, 4])
    assert found["e"].shape == (0, 3)
    assert all(v.dtype == np.float32 for v in found.values())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Call(Global("os", "system"), "true"), "it names os.system"),
        (Call(Global("builtins", "eval"), "1"), "it names builtins.eval"),
        ({"a": Global("torch", "IntStorage")}, "it names torch.IntStorage"),
        ({"a": Global("torch._utils", "_rebuild_parameter")}, "names torch._utils._rebuild_param"),
        ({"a": Global("collections", "deque")}, "it names collections.deque"),
        ([1, 2], "must hold a dict of tensors, not list"),
        ({"a": 3}, r"these are not: \['a'\]"),
        ({"a": tensor("0", ONE, shape=(2, 4))}, "reaches element 6 of a storage of 6"),
        ({"a": tensor("0", ONE, offset=1)}, "reaches element 6"),
        ({"a": tensor("0", ONE, stride=(10**12, 1))}, "reaches element 1000000000002"),
        ({"a": tensor("0", ONE, stride=(-3, 1))}, "malformed tensor"),
        ({"a": tensor("0", ONE, offset=-1)}, "malformed tensor"),
        ({"a": tensor("0", ONE, shape=(6,))}, "malformed tensor"),
        ({"a": tensor("0", ONE, count=7)}, "7 elements of F32 need 28"),
        ({"a": tensor("9", ONE)}, "malformed pickle: KeyError"),
        ({"a": tensor(0, ONE)}, "malformed storage reference"),
        (b"\x80\x02}", "malformed pickle"),
        (b"", "malformed pickle"),
    ],
)
def test_what_is_refused(tmp_path, value, message):
    with pytest.raises(CheckpointError, match=message):
        read_torch_archive(write(tmp_path / "r.pth", value, {"0": ONE}))


def test_a_refused_global_is_never_called(tmp_path):
    target = tmp_path / "ran"
    value = Call(Global("pathlib", "Path.touch"), str(target))
    with pytest.raises(CheckpointError, match=r"it names pathlib\.Path\.touch"):
        read_torch_archive(write(tmp_path / "r.pth", value, {}))
    assert not target.exists()


def test_damaged_archives(tmp_path):
    path = write(tmp_path / "r.pth", {"a": tensor("0", ONE)}, {"0": ONE})
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(CheckpointError, match=r"not an intact archive of torch\.save"):
        read_torch_archive(path)
    at = whole.index(ONE.tobytes())
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"CRC"):
        read_torch_archive(path)
    with pytest.raises(CheckpointError, match=r"cannot be read"):
        read_torch_archive(tmp_path / "nowhere.pth")


def test_other_damage(tmp_path):
    path = tmp_path / "r.pth"
    value, data = {"a": tensor("0", ONE)}, {"0": ONE}
    with pytest.raises(CheckpointError, match=r"byte order must be little"):
        read_torch_archive(write(path, value, data, byteorder=b"big"))
    with pytest.raises(CheckpointError, match=r"storage '0' has 24 bytes"):
        read_torch_archive(write(path, value, data, compress=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something", b"")
    with pytest.raises(CheckpointError, match=r"must hold one data\.pkl, not 0"):
        read_torch_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("r/data.pkl", struct.pack("B", 0) * (17 << 20))
    with pytest.raises(CheckpointError, match=r"more than 16777216"):
        read_torch_archive(path)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_skipgpt_router_file(tmp_path, build, prefix):
    model = build.write_model(tmp_path / "m")
    routers = build.random_routers(build.config)
    value = OrderedDict(
        (prefix + name, tensor(str(i), v)) for i, (name, v) in enumerate(routers.items())
    )
    write(model / "router.pth", dict(value), {str(i): v for i, v in enumerate(routers.values())})
    checkpoint = load_checkpoint(model)
    np.testing.assert_array_equal(
        checkpoint.routers[1].attention.weight,
        routers["model.layers.1.router_attention.weight_predictor.weight"],
    )


@pytest.mark.torch
def test_files_of_torch_itself(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")
    layer = torch.nn.Linear(5, 2)
    state = layer.state_dict()
    state["half"] = layer.weight.detach().half().t()
    state["bfloat"] = layer.weight.detach().bfloat16()[:, 1:]
    torch.save(state, tmp_path / "r.pth")
    found = read_torch_archive(tmp_path / "r.pth")
    assert found.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.float().numpy())
