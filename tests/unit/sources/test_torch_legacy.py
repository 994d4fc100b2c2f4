from __future__ import annotations

import io
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from saliency_exporter.sources.zoo.torch_legacy import read_state_dict

MAGIC = 0x1950A86A20F9469CFC6C


class Tensor:
    """Pickles as a torch tensor does: a view of a storage."""

    def __init__(self, values: np.ndarray, offset: int = 0, strides: tuple[int, ...] | None = None) -> None:
        self.values, self.offset = values, offset
        self.strides = strides or tuple(step // values.itemsize for step in values.strides)
        self.storage = SimpleNamespace(values=values.base if values.base is not None else values)

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (self.storage, self.offset, self.values.shape, self.strides, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, SimpleNamespace):
            return "storage", sys.modules["torch"].FloatStorage, str(id(obj)), "cpu", obj.values.size, None
        return None


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just enough names for a pickle that looks like PyTorch's."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild(*_): ...

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "torch._utils", *["_rebuild_tensor_v2"] * 2
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def write(path: Path, tensors: dict[str, Tensor], *, magic: object = MAGIC, state: object = None) -> Path:
    storages = {str(id(tensor.storage)): tensor.storage.values for tensor in tensors.values()}
    with path.open("wb") as file:
        for obj in (magic, 1001, {"little_endian": True}):
            pickle.dump(obj, file, protocol=2)
        Pickler(file, protocol=2).dump(OrderedDict(tensors) if state is None else state)
        pickle.dump(list(storages), file, protocol=2)
        for values in storages.values():
            file.write(np.int64(values.size).tobytes() + values.tobytes())
    return path


class Attack:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_values_shapes_and_order_survive(torch, tmp_path: Path) -> None:
    arrays = {
        "b": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "a": np.array([-1.5, np.inf], np.float32),
        "scalar": np.array(7, np.float32),
    }
    state = read_state_dict(write(tmp_path / "w.pth", {k: Tensor(v) for k, v in arrays.items()}))
    assert list(state) == list(arrays)
    for key, values in arrays.items():
        np.testing.assert_array_equal(state[key], values)
        assert state[key].dtype == np.float32


def test_offsets_and_strides_are_honoured(torch, tmp_path: Path) -> None:
    base = np.arange(30, dtype=np.float32)
    tensor = Tensor(base[6:].reshape(4, 6).T, offset=6, strides=(1, 6))
    tensor.storage = SimpleNamespace(values=base)
    state = read_state_dict(write(tmp_path / "w.pth", {"t": tensor}))
    np.testing.assert_array_equal(state["t"], base[6:].reshape(4, 6).T)


@pytest.mark.parametrize(("offset", "strides"), [(1, (6, 1)), (0, (7, 1)), (-1, (6, 1)), (0, (6, -1))])
def test_a_tensor_beyond_its_storage_is_refused(torch, tmp_path: Path, offset, strides) -> None:
    tensor = Tensor(np.zeros((4, 6), np.float32), offset=offset, strides=strides)
    with pytest.raises(ValueError, match="beyond its storage"):
        read_state_dict(write(tmp_path / "w.pth", {"t": tensor}))


@pytest.mark.parametrize("place", ["magic", "state", "value"])
def test_code_in_the_pickle_is_refused_and_not_run(torch, tmp_path: Path, place: str) -> None:
    touched = tmp_path / "touched"
    attack = Attack(touched)
    pickle.loads(pickle.dumps(attack))
    assert touched.exists(), "the attack works on an ordinary unpickler"
    touched.unlink()
    tensors = {"t": Tensor(np.zeros(3, np.float32))}
    arguments = {"magic": {"magic": attack}, "state": {"state": attack}, "value": {"state": {"t": attack}}}
    path = write(tmp_path / "w.pth", tensors, **arguments[place])
    with pytest.raises(ValueError, match=r"posix.system is not part of a state dictionary"):
        read_state_dict(path)
    assert not touched.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins\neval",
        "builtins\ngetattr",
        "torch\nload",
        "torch._utils\n_import_dotted_name",
        "numpy\nload",
    ],
)
def test_every_other_name_is_refused(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    for obj in (MAGIC, 1001, {}):
        pickle.dump(obj, buffer, protocol=2)
    (tmp_path / "w.pth").write_bytes(buffer.getvalue() + b"c" + name.encode() + b"\n.")
    with pytest.raises(ValueError, match="is not part of a state dictionary"):
        read_state_dict(tmp_path / "w.pth")


def test_every_cut_of_a_file_is_an_error_and_never_a_wrong_value(torch, tmp_path: Path) -> None:
    whole = write(tmp_path / "w.pth", {"t": Tensor(np.arange(5, dtype=np.float32))}).read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"legacy format|cut short|not of the 5 values"):
            read_state_dict(cut)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"PK\x03\x04 a zip archive, as newer PyTorch writes")
    with pytest.raises(ValueError, match="legacy format"):
        read_state_dict(path)
