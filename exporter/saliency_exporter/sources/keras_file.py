"""A ``.keras`` or ``.h5`` file: of Keras 3, or of Keras 2 by way of tf-keras."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.keras_2 import is_keras_2_file, load_keras_2
from saliency_exporter.sources.keras_model import require_tensorflow_backend, source_from_keras, whole_weights
from saliency_exporter.sources.source import Source

SUFFIXES = (".keras", ".h5", ".hdf5")


def load(path: Path, choices: Choices = NO_CHOICES, *, unsafe: bool = False) -> Source:
    """Loads a whole model from a file.

    Args:
        path: the file.
        choices: size, input and output, where the model leaves them open.
        unsafe: run the Python code that the file may hold (Lambda layers).

    Raises:
        ExportError: the file is missing, corrupt, holds weights alone, holds Python code and
            ``unsafe`` is false, or needs classes that are not importable.
    """
    require_tensorflow_backend()
    _check_file(path)
    try:
        if not unsafe and path.is_file() and h5py.is_hdf5(path):
            _check_stays_inside(path)
        model = _load(path, unsafe)
    except ExportError:
        raise
    except Exception as error:
        raise _explain(path, error) from error
    return source_from_keras(model, name=path.stem, origin=f"Keras file {path.name}", choices=choices)


def _load(path: Path, unsafe: bool) -> Any:
    try:
        with whole_weights():
            model = keras.saving.load_model(path, compile=False, safe_mode=not unsafe)
            if _leaves_weights_random() and path.suffix.lower() == ".keras":
                again = keras.saving.load_model(path, compile=False, safe_mode=not unsafe)
                _check_nothing_is_random(model, again)
            return model
    except Exception:
        if not is_keras_2_file(path):
            raise
    return load_keras_2(path, unsafe=unsafe)


def _leaves_weights_random() -> bool:
    """Keras before 3.15 neither saves layers in lists of lists nor says so: they are drawn at every load."""
    return tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15)


def _check_nothing_is_random(model: keras.Model, again: keras.Model) -> None:
    """Holds two loads of a file against each other: what differs was drawn and not read.

    Raises:
        ValueError: a weight differs.
    """
    for first, second in zip(model.weights, again.weights, strict=True):
        if not np.array_equal(first.numpy(), second.numpy(), equal_nan=first.numpy().dtype.kind == "f"):
            raise ValueError(f"some weights are not in the file: {first.path}")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ExportError(f"there is no file {path}")
    if path.is_dir():
        return  # Keras also writes .keras as a directory, and reports one that it cannot read.
    try:
        readable = zipfile.is_zipfile(path) if path.suffix.lower() == ".keras" else h5py.is_hdf5(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    if not readable:
        kind = "zip archive that a .keras file is" if path.suffix.lower() == ".keras" else "HDF5 file"
        raise ExportError(
            f"{path} is not the {kind}: it is damaged, cut short, or something else",
            hint="copy it again, or save it again with model.save()",
        )
    if path.name.endswith(".weights.h5"):
        raise ExportError(
            f"{path} holds weights alone, without the model",
            hint="save the whole model with model.save('name.keras'), or give the file to a "
            "keras.applications model with --weights",
        )


def _check_stays_inside(path: Path) -> None:
    """Refuses an HDF5 file that reads from other files; not every Keras that may load it does."""
    seen = set()

    def walk(group: h5py.Group) -> None:
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise _points_elsewhere(path, f"{group.name}/{name}".replace("//", "/"))
            member = group.get(name)
            if isinstance(member, h5py.Dataset) and member.external:
                raise _points_elsewhere(path, member.name)
            if isinstance(member, h5py.Group) and member.id not in seen:  # links can make circles
                seen.add(member.id)
                walk(member)

    with h5py.File(path) as file:
        walk(file)


def _points_elsewhere(path: Path, name: str) -> ExportError:
    return ExportError(
        f"{path} takes {name} from another file, whatever that file is",
        hint="pass --unsafe if you trust where the file comes from",
    )


def _explain(path: Path, error: Exception) -> ExportError:
    message = str(error)
    if "Lambda" in message and "safe_mode" in message:
        return ExportError(
            f"{path} holds Python code of its own (a Lambda layer), which loading it would run",
            hint="pass --unsafe if you trust where the file comes from",
        )
    if "Could not locate" in message:
        return ExportError(
            f"{path} needs code that is not in the file: {message.split('. ')[0]}",
            hint="write a function that imports your classes and returns keras.saving.load_model(…), "
            "and export it as module:function",
        )
    return ExportError(
        f"{path} cannot be loaded by Keras {keras.__version__}: {brief(error)}",
        hint="does keras.saving.load_model load it in the environment that saved it?",
    )
