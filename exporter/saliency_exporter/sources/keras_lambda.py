"""Python code in a model file: the names that it uses, and where Keras looks for them."""

from __future__ import annotations

import binascii
import builtins
import codecs
import dis
import marshal
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils import python_utils

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.keras_2 import import_tf_keras
from saliency_exporter.sources.keras_config import FileConfig, Part, parts

_KERAS_3 = "keras.src.utils.python_utils"
_KERAS_2 = ("tf_keras.src.layers.core.lambda_layer", "tf_keras.src.utils.generic_utils")
"""The modules among whose names Keras runs the code of a file."""

_REBUILD = (
    "write a function that builds the model, calls its load_weights with this file and returns it, and "
    "export that as module:function"
)


def provide_names(path: Path, config: FileConfig, objects: Mapping[str, Any]) -> tuple[str, ...]:
    """Gives the code of a file the names that Keras does not save with it.

    A Lambda layer's code is saved without the imports of its module. What it calls ``tf`` or ``np`` is
    known by convention; any other name has to be among ``objects``.

    Args:
        path: the file, for messages.
        config: what it says.
        objects: objects by name, from ``--import``.

    Returns:
        What was taken for what by convention, one sentence for each name.

    Raises:
        ExportError: a name is not known, or the code is of another version of Python.
    """
    usual, notes = _usual_names(config), {}
    spaces = [space for name in (_KERAS_3, *_KERAS_2) if (space := _names_of(name)) is not None]
    for part, text in _codes(config):
        code = _code(path, part, text)
        known = set(dir(builtins)) | set(vars(sys.modules.get(str(part.config.get("module")), builtins)))
        for name in sorted(_free_names(code) - known):
            missing = [space for space in spaces if name not in space]
            if name in objects:
                value = objects[name]
            elif name in usual:
                value = usual[name]
                notes[name] = f"{part} uses {name}, which is taken for {getattr(value, '__name__', name)}"
            elif missing:
                raise ExportError(
                    f"{path}: the Python code of {part} uses {name!r}, which the file does not hold",
                    hint=f"pass --import module:{name}, where module is a Python module that has {name}",
                )
            for space in missing:
                space[name] = value
    return tuple(notes.values())


@contextmanager
def defaults_of_code() -> Iterator[None]:
    """Lets Keras 3 load code whose parameters have defaults, as in ``lambda x, i=i: x[:, i]``.

    It saves them as a list, and a Python function takes a tuple.
    """
    load = python_utils.func_load

    def func_load(code: Any, defaults: Any = None, closure: Any = None, globs: Any = None) -> Any:
        return load(code, tuple(defaults) if isinstance(defaults, list) else defaults, closure, globs)

    python_utils.func_load = func_load
    try:
        yield
    finally:
        python_utils.func_load = load


def _usual_names(config: FileConfig) -> dict[str, Any]:
    of_file = (import_tf_keras() if config.keras_2 else None) or tf.keras
    return {
        "tf": tf,
        "tensorflow": tf,
        "np": np,
        "numpy": np,
        "math": math,
        "keras": of_file,
        "K": of_file.backend,
        "backend": of_file.backend,
        "layers": of_file.layers,
        "ops": keras.ops,
    }


def _names_of(module: str) -> dict[str, Any] | None:
    try:
        return vars(import_module(module))
    except ImportError:
        return None


def refuse_lost_code(path: Path, config: FileConfig) -> None:
    """Refuses a file with a ``lambda`` where Keras saves it, or its name alone, and cannot load it.

    Raises:
        ExportError: there is one, such as an activation.
    """
    for part in parts(config.model):
        for key, value in part.config.items():
            if value == "<lambda>" or (isinstance(value, Mapping) and set(value) == {"value"}):
                raise ExportError(
                    f"{path}: {part} has a lambda for its {key}, which Keras cannot load from a file",
                    hint=_REBUILD,
                )


def _codes(config: FileConfig) -> Iterator[tuple[Part, str]]:
    """The text of every compiled function in a file, with the object that has it."""
    for part in parts(config.model):
        if part.kind == "__lambda__":
            value = part.config.get("value")
            text = value[0] if isinstance(value, list) and value else part.config.get("code")
            if isinstance(text, str):
                yield part, text
        for key in ("function", "output_shape", "mask"):
            if part.config.get(f"{key}_type") == "lambda":
                value = part.config[key]
                yield part, value[0] if isinstance(value, list) else value


def _code(path: Path, part: Part, text: str) -> CodeType:
    """The compiled function, as Keras itself decodes it."""
    try:
        code = marshal.loads(codecs.decode(text.encode("ascii"), "base64"))
        strange = any(step.opname.startswith("<") for step in dis.get_instructions(code))
    except (ValueError, EOFError, TypeError, IndexError, UnicodeEncodeError, binascii.Error):
        strange = True
    if strange:
        raise ExportError(
            f"{path}: the Python code of {part} is not of Python {sys.version.split()[0]}, or damaged",
            hint=f"export it with the version of Python that saved it, or {_REBUILD}",
        )
    return code


def _free_names(code: CodeType) -> set[str]:
    """The names that a function, and those inside it, look up in their module."""
    names = {
        str(step.argval) for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return names.union(*map(_free_names, inner))
