"""Reads tensors that PyTorch saved before version 1.6, without PyTorch.

The file is a sequence of pickles: magic number, protocol, system information, the state dictionary,
whose storages are persistent ids, and the list of storage keys; then for each key an int64 count and
the raw little-endian values. Pickles can run code when they are loaded; this reader knows three kinds
of names and refuses every other, so that a hostile file is an error and nothing more.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}

_Tensor = tuple[str, int, tuple[int, ...], tuple[int, ...]]  # storage key, offset, shape, strides


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dictionary.

    Returns:
        name to array, in the file's order.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not in PyTorch's legacy format, is damaged, or names something that
            is not part of a state dictionary.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (pickle.UnpicklingError, EOFError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"not a state dictionary in PyTorch's legacy format: {error}") from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _PROTOCOL:
        raise pickle.UnpicklingError("the magic number is another")
    _Unpickler(file).load()  # byte order and sizes of the writer's C types
    unpickler = _Unpickler(file)
    tensors: dict[str, _Tensor] = dict(unpickler.load())
    storages = {}
    for key in _Unpickler(file).load():
        dtype, size = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != size:
            raise ValueError(f"storage {key} is not of the {size} values that it should have")
        content = file.read(size * dtype.itemsize)
        if len(content) != size * dtype.itemsize:
            raise ValueError(f"storage {key} is cut short")
        storages[key] = np.frombuffer(content, dtype)
    return {name: _array(storages, *tensor) for name, tensor in tensors.items()}


def _array(
    storages: dict[str, np.ndarray], key: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    values = storages[key]
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or (0 not in shape and last >= len(values)):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its storage")
    bytes_apart = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, bytes_apart, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Knows ordered dictionaries, tensors and storages. Anything else is refused."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, tuple[np.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a state dictionary")

    def persistent_load(self, pid: Any) -> str:
        kind, dtype, key, _location, size, _view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(size, int) or size < 0:
            raise pickle.UnpicklingError(f"{kind!r} is not a storage")
        self.storages[key] = dtype, size
        return key


def _rebuild_tensor(
    storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return storage, offset, tuple(shape), tuple(strides)
