"""What a ``.keras`` or HDF5 file says of its model, read without Keras."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py


@dataclass(frozen=True)
class FileConfig:
    """The description of a model in a file.

    Attributes:
        version: the Keras that wrote it, such as 2.3.1; "1" where the file does not say, as Keras takes it.
        backend: what Keras ran on: tensorflow, theano, cntk, jax, torch; None where the file does not say.
        model: the model's configuration, as Keras serialized it.
    """

    version: str
    backend: str | None
    model: Any

    @property
    def keras_2(self) -> bool:
        """Whether Keras 2 or an older one wrote the file."""
        return self.version.partition(".")[0] in ("1", "2")


@dataclass(frozen=True)
class Part:
    """One serialized object: a layer, an initializer, a function.

    Attributes:
        kind: the name of its class, such as Conv2D.
        layer: the name of the layer that it is, or that it is in.
        layer_kind: the name of that layer's class.
        entry: all that Keras wrote of it.
    """

    kind: str
    layer: str
    layer_kind: str
    entry: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """Its arguments; empty for one that Keras wrote in another form."""
        config = self.entry.get("config")
        return config if isinstance(config, Mapping) else {}

    def __str__(self) -> str:
        """As a message names it."""
        return f"layer {self.layer!r} ({self.layer_kind})"


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5; Keras before 2.12 wrote ``.keras`` files so, too."""
    return path.is_file() and h5py.is_hdf5(path)


def read_config(path: Path) -> FileConfig | None:
    """What the file says; None where it cannot be read, which Keras itself can tell best."""
    try:
        if is_hdf5(path):
            return _of_hdf5(path)
        with zipfile.ZipFile(path) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
            return FileConfig(str(version), None, json.loads(archive.read("config.json")))
    except (OSError, KeyError, TypeError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error):
        return None


def parts(config: Any, layer: tuple[str, str] = ("", "")) -> Iterator[Part]:
    """Every serialized object of a configuration, from the outside in, each with the layer that it is in.

    Args:
        config: what Keras serialized, or any part of it.
        layer: name and class of the layer that it is in.
    """
    if isinstance(config, Mapping):
        kind, own = config.get("class_name"), config.get("config")
        if isinstance(kind, str):
            name = own.get("name") if isinstance(own, Mapping) else None
            if isinstance(name, str) and not kind.endswith("Policy"):  # of dtypes, which have names, too
                layer = (name, kind)
            yield Part(kind, *layer, config)
        for value in config.values():
            yield from parts(value, layer)
    elif isinstance(config, list):
        for value in config:
            yield from parts(value, layer)


def class_names(config: Any) -> set[str]:
    """Every name of a class or registered object in a configuration."""
    names = (name for part in parts(config) for name in (part.kind, part.entry.get("registered_name")))
    return {name for name in names if isinstance(name, str)}


def _of_hdf5(path: Path) -> FileConfig:
    with h5py.File(path) as file:
        version, backend = _text(file, "keras_version"), _text(file, "backend")
        return FileConfig(version or "1", backend, json.loads(file.attrs["model_config"]))


def _text(file: h5py.File, name: str) -> str | None:
    value = file.attrs.get(name)
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
