"""A ``.keras`` or ``.h5`` file: of Keras 3, or of Keras 2 by way of tf-keras."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.custom_objects import under_registered_names
from saliency_exporter.sources.keras_2 import (
    import_tf_keras,
    install_hint,
    load_keras_2,
    other_meaning,
    unknown_code,
)
from saliency_exporter.sources.keras_config import FileConfig, class_names, is_hdf5, read_config
from saliency_exporter.sources.keras_lambda import defaults_of_code, provide_names, refuse_lost_code
from saliency_exporter.sources.keras_model import require_tensorflow_backend, source_from_keras, whole_weights
from saliency_exporter.sources.source import Source

SUFFIXES = (".keras", ".h5", ".hdf5")

_AGREE = 1e-3
"""The largest difference, as a part of the largest score, that rounding makes between two implementations."""
_UNKNOWN = re.compile(
    r"(?:Could not (?:locate|deserialize) (?:class|function)|Unknown [\w ]+:|Unknown [\w ]+function"
    r"|Cannot deserialize object of type|Could not interpret \w+ function identifier:)"
    r" (?:['`](?P<quoted>[^'`{]+)['`]|(?P<bare>[\w<>.]+)|.*?'config': '(?P<inside>[\w<>.]+)')"
)
"""How Keras 2 and 3 say that a name is neither theirs nor registered."""
_MISSING = re.compile(r"Could not deserialize \w+ '(\S+)' because its parent module (\S+) cannot be imported")
"""How they say that they would import the name, from a package of theirs such as keras_hub, but cannot."""


def load(
    path: Path,
    choices: Choices = NO_CHOICES,
    *,
    unsafe: bool = False,
    objects: Mapping[str, Any] | None = None,
) -> Source:
    """Loads a whole model from a file.

    A file of Keras 2 is read by tf-keras where that is installed, so that every layer means what it meant.

    Args:
        path: the file.
        choices: size, input and output, where the model leaves them open.
        unsafe: run the Python code that the file may hold (Lambda layers).
        objects: classes and functions that are not Keras's, by the names that the file has for them.

    Raises:
        ExportError: the file is missing, corrupt, holds weights alone, holds Python code and
            ``unsafe`` is false, needs classes that are not known, or is of Keras 2 and means something else
            in Keras 3, and tf-keras is not installed.
    """
    require_tensorflow_backend()
    _check_file(path)
    config, objects = read_config(path), objects or {}
    try:
        if config is not None:
            objects = under_registered_names(objects, class_names(config.model))
        if not unsafe and is_hdf5(path):
            _check_stays_inside(path)
        if config is not None:
            refuse_lost_code(path, config)
        notes = provide_names(path, config, objects) if unsafe and config is not None else ()
        model, other = _load(path, config, objects, unsafe)
    except ExportError:
        raise
    except Exception as error:
        raise _explain(path, config, objects, error) from error
    origin = f"Keras file {path.name}"
    source = source_from_keras(model, name=path.stem, origin=origin, choices=choices)
    if config is not None and other is not None:
        notes += _disagreement(source, config, other, choices)
    return replace(source, notes=notes)


def _load(
    path: Path, config: FileConfig | None, objects: Mapping[str, Any], unsafe: bool
) -> tuple[Any, Any | None]:
    """The model; of a file of Keras 2 also what Keras 3 makes of it, where it can read it."""
    if config is None or not config.keras_2:
        return _load_keras_3(path, objects, unsafe), None
    if import_tf_keras() is None:
        if (meaning := other_meaning(config)) is not None:
            raise ExportError(f"{path} was written by Keras {config.version}: {meaning}", hint=install_hint())
        try:
            return _load_keras_3(path, objects, unsafe), None
        except Exception as error:
            if _is_about_code(str(error)):
                raise
            raise ExportError(
                f"{path} was written by Keras {config.version}, and Keras 3 cannot load it: {brief(error)}",
                hint=install_hint(),
            ) from error
    try:
        model = load_keras_2(path, config, objects, unsafe=unsafe)
        if not is_hdf5(path):  # tf-keras's own format has the gap of Keras before 3.15
            _check_nothing_is_random(model, load_keras_2(path, config, objects, unsafe=unsafe))
    except ExportError:
        raise
    except Exception:
        # The classes that were imported may be of Keras 3.
        if other_meaning(config) is None and (model := _try_keras_3(path, objects, unsafe)) is not None:
            return model, None
        raise
    return model, _try_keras_3(path, objects, unsafe)


def _try_keras_3(path: Path, objects: Mapping[str, Any], unsafe: bool) -> Any | None:
    try:
        return _load_keras_3(path, objects, unsafe)
    except Exception:
        return None


def _load_keras_3(path: Path, objects: Mapping[str, Any], unsafe: bool) -> Any:
    options = {"custom_objects": dict(objects), "compile": False, "safe_mode": not unsafe}
    with whole_weights(), defaults_of_code():
        model = keras.saving.load_model(path, **options)
        if _leaves_weights_random() and path.suffix.lower() == ".keras":
            _check_nothing_is_random(model, keras.saving.load_model(path, **options))
        return model


def _disagreement(source: Source, config: FileConfig, model: Any, choices: Choices) -> tuple[str, ...]:
    """What to say where Keras 3 makes another function of a file of Keras 2 than tf-keras; empty if none."""
    reason = other_meaning(config) or _distance(source, model, choices)
    return (
        ()
        if reason is None
        else (f"the export is what Keras 2 saved; Keras 3 reads the file otherwise: {reason}",)
    )


def _distance(source: Source, model: Any, choices: Choices) -> str | None:
    """How far the scores of two loads of a file are apart on random input; None if rounding explains it."""
    random = np.random.default_rng(0)
    examples = [random.normal(0, size, source.input_shape) for size in (0.1, 1, 100)]
    try:
        other = source_from_keras(model, name=source.name, origin=source.origin, choices=choices)
        for example in np.asarray(examples, np.float32):
            right, given = (call(tf.constant(example[None])).numpy() for call in (source.call, other.call))
            if given.shape != right.shape:
                return f"its scores are {list(given.shape[1:])} and not {list(right.shape[1:])}"
            distance = np.abs(given - right).max() / max(np.abs(right).max(), np.finfo(np.float32).tiny)
            if distance > _AGREE:
                return f"on random input its scores are {distance:.1%} of the largest off"
    except Exception:
        return None  # Keras 3 cannot run it, which nobody asked of it.
    return None


def _leaves_weights_random() -> bool:
    """Keras before 3.15 neither saves layers in lists of lists nor says so: they are drawn at every load."""
    return tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15)


def _check_nothing_is_random(model: Any, again: Any) -> None:
    """Holds two loads of a file against each other: what differs was drawn and not read.

    Raises:
        ValueError: a weight differs.
    """
    for first, second in zip(model.weights, again.weights, strict=True):
        if not np.array_equal(first.numpy(), second.numpy(), equal_nan=first.numpy().dtype.kind == "f"):
            raise ValueError(f"some weights are not in the file: {getattr(first, 'path', first.name)}")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise ExportError(f"there is no file {path}")
    if path.is_dir():
        return  # Keras also writes .keras as a directory, and reports one that it cannot read.
    try:
        readable = h5py.is_hdf5(path) or (path.suffix.lower() == ".keras" and zipfile.is_zipfile(path))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    if not readable:
        kind = "zip archive that a .keras file is" if path.suffix.lower() == ".keras" else "HDF5 file"
        raise ExportError(
            f"{path} is not the {kind}: it is damaged, cut short, or something else",
            hint="copy it again, or save it again with model.save()",
        )
    if path.name.endswith(".weights.h5") or (is_hdf5(path) and not _describes_model(path)):
        raise ExportError(
            f"{path} holds weights alone, without the model",
            hint="save the whole model with model.save('name.keras'), give the file to a keras.applications "
            "model with --weights, or export a function that builds the model, calls its load_weights and "
            "returns it, as module:function",
        )


def _describes_model(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return "model_config" in file.attrs
    except OSError:
        return True  # It is damaged, which Keras tells when it reads it.


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


def _is_about_code(message: str) -> bool:
    return "safe_mode" in message and ("Lambda" in message or "TFSMLayer" in message)


def _explain(
    path: Path, config: FileConfig | None, objects: Mapping[str, Any], error: Exception
) -> ExportError:
    message = str(error)
    if "TFSMLayer" in message and _is_about_code(message):
        return ExportError(
            f"{path} takes a part of its network from a SavedModel beside the file (TFSMLayer)",
            hint="pass --unsafe if you trust where the SavedModel comes from",
        )
    if _is_about_code(message):
        return ExportError(
            f"{path} holds Python code of its own (a Lambda layer), which loading it would run",
            hint="pass --unsafe if you trust where the file comes from",
        )
    if (missing := _MISSING.search(message)) is not None:
        package = missing[2].partition(".")[0]
        return ExportError(
            f"{path} needs {missing[1]} of the Python package {package!r}, which is not installed",
            hint=f"pip install {package.replace('_', '-')}, if that is the package's name",
        )
    if (unknown := _UNKNOWN.search(brief(error))) is not None:
        return unknown_code(path, config, next(name for name in unknown.groups() if name is not None))
    if config is None or not config.keras_2:
        by, hint = f"Keras {keras.__version__}", "does load_model load it in the environment that saved it?"
    else:
        by, hint = "tf-keras", "does load_model of tf-keras load it?"
        if any(isinstance(value, type) and issubclass(value, keras.Layer) for value in objects.values()):
            by += ", since what was imported is a layer of Keras 3"
            hint = "set TF_USE_LEGACY_KERAS=1 if it was made from tf.keras; else make it from tf_keras"
    if "some weights are not in the file" in message:
        hint = "save it again with model.save('name.h5'), or with Keras 3.15 or newer"
    if "SavedModel file does not exist" in message:
        hint = "its path is in the file; a relative one is seen from the current directory"
    return ExportError(f"{path} cannot be loaded by {by}: {brief(error)}", hint=hint)
