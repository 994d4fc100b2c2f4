"""Files and models of Keras 2, by way of the package tf-keras where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.versions import minor
from saliency_exporter.sources.keras_config import FileConfig, Part, is_hdf5, parts

_KERAS = re.compile(r"(tf_)?keras(\.|$)|builtins$")
"""The modules of Keras's own classes and functions."""
_OPS = re.compile(
    r"(compat\.v1\.)?((__operators__|audio|bitwise|dtypes|image|linalg|math|nn|quantization|ragged|random|sets"
    r"|signal|sparse|strings|keras\.(activations|backend|losses|metrics))\.(experimental\.)?)?\w+"
)
"""The TensorFlow functions that compute from tensors alone, by their public name."""
_NO_OPS = re.compile(r"(compat\.v1\.)?(load_\w+|import_\w+|py_func\w*|numpy_function|function|print)")
_FLIPPED = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "ConvLSTM2D")
"""The layers whose kernels Keras 2 itself turned around, when it read a file of Theano's."""


def is_keras_2_model(model: object) -> bool:
    """Whether an object is a model of tf-keras; does not import it."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(model, tf_keras.Model)


def import_tf_keras() -> Any:
    """The package tf-keras; None where it is not installed, or does not fit the installed TensorFlow."""
    try:
        import tf_keras
    except ImportError:
        return None
    return tf_keras


def install_hint() -> str:
    """How to get the tf-keras of the installed TensorFlow; the newest would bring the newest TensorFlow."""
    return f"pip install 'tf-keras=={minor(tf.__version__)}.*'"


def load_keras_2(path: Path, config: FileConfig, objects: Mapping[str, Any], *, unsafe: bool) -> Any:
    """Loads a whole model of Keras 2 with tf-keras, which has to be installed.

    Args:
        path: the file.
        config: what it says.
        objects: further classes and functions by name.
        unsafe: run the Python code that the file may hold, and any function that it names.

    Raises:
        ExportError: the file holds Python code, or names code outside Keras, and ``unsafe`` is false.
        Exception: whatever tf-keras raises for a file that it cannot load.
    """
    tf_keras = import_tf_keras()
    if not unsafe:
        _check_runs_no_code(path, config, {**tf_keras.saving.get_custom_objects(), **objects})
    options = {"custom_objects": dict(objects), "compile": False, "safe_mode": not unsafe}
    with _readable(path, config) as readable:
        model = tf_keras.models.load_model(readable, **options)
    if config.backend == "theano":
        _turn_kernels(model)
    return model


def other_meaning(config: FileConfig) -> str | None:
    """What in a file of Keras 2 is another function in Keras 3, which loads it without a word; None if none.

    Of all layers, activations and options that tf-keras saves and Keras 3 loads, these are the ones.
    """
    found = list(parts(config.model))
    for part in found:
        for key in ("activation", "recurrent_activation"):
            if _function_name(part.config.get(key)) == "hard_sigmoid":
                return (
                    f"{part} has {key} 'hard_sigmoid', which is clip(0.2 x + 0.5, 0, 1) in Keras 2 and "
                    "clip(x/6 + 0.5, 0, 1) in Keras 3"
                )
        if part.kind == "Softmax" and isinstance(part.config.get("axis"), list):
            return f"{part} is over several axes, which Keras 3 takes for other ones"
        if _is_old_gru(part):
            return f"{part} resets its state before the product, as in Keras 2.1, and in Keras 3 behind it"
        if part.kind in _FLIPPED and config.backend == "theano":
            return f"{part} has the kernel of Keras on Theano, which has to be turned around"
    if (first := _without_input_layer(config.model)) is not None:
        return f"{first} begins a Sequential model without InputLayer, and Keras 3 gives it an axis too many"
    return None


def holds_python_code(part: Part) -> bool:
    """Whether a serialized object is Python code: a ``lambda``, or a Lambda layer of one or of a ``def``."""
    names = _class_names(part)
    if "__lambda__" in names:
        return True
    if "Lambda" not in names:
        return False
    kinds = [value for key, value in part.config.items() if key.endswith("_type")]
    return not kinds or not set(kinds) <= {"function", "raw"}


def _class_names(part: Part) -> set[str]:
    """Every name by which tf-keras may look for the class; it looks in classes and modules, too."""
    names = (part.kind, part.entry.get("registered_name"))
    return {name.rpartition(".")[2] for name in names if isinstance(name, str)}


def python_code_refused(path: Path, part: Part) -> ExportError:
    """The refusal of a file whose ``part`` is Python code."""
    return ExportError(
        f"{path} holds Python code of its own (a Lambda layer: {part.layer!r}), which loading it would run",
        hint="pass --unsafe if you trust where the file comes from",
    )


def _function_name(value: Any) -> Any:
    """The name of an activation, which Keras writes as a string or as an object."""
    if isinstance(value, Mapping):
        config = value.get("config")
        return config if isinstance(config, str) else value.get("class_name")
    return value


def _without_input_layer(config: Any) -> Part | None:
    """The first layer of a Sequential model of Keras before 2.4, which names no InputLayer."""
    for part in parts(config):
        if part.kind != "Sequential":
            continue
        own = part.entry.get("config")
        layers = own.get("layers") if isinstance(own, Mapping) else own
        first = next(parts(layers), None) if isinstance(layers, list) else None
        if first is not None and "batch_input_shape" in first.config and first.kind != "InputLayer":
            return first
    return None


def _is_old_gru(part: Part) -> bool:
    return part.kind == "GRU" and "reset_after" not in part.config


def _spelled_for_tf_keras(config: Any) -> Any:
    """The configuration of an HDF5 file, with what tf-keras misreads or cannot read in words that it reads.

    A GRU of before 2.1.3 says that it resets before the product. cuDNN's layers, which run on a GPU alone,
    are those that tf-keras turns their weights into. A number that was saved as an array is a number. A
    function that Keras 2.13 or newer saved as an object, and does not find again, is its name.
    """
    if isinstance(config, list):
        return [_spelled_for_tf_keras(value) for value in config]
    if not isinstance(config, Mapping):
        return config
    if config.get("type") == "ndarray" and isinstance(config.get("value"), int | float):
        return config["value"]
    kind, arguments = config.get("class_name"), config.get("config")
    if kind == "function" and isinstance(arguments, str):
        return arguments
    spelled = {key: _spelled_for_tf_keras(value) for key, value in config.items()}
    if kind in ("CuDNNLSTM", "CuDNNGRU", "GRU") and isinstance(arguments, Mapping):
        spelled["class_name"] = kind.removeprefix("CuDNN")
        if kind != "CuDNNLSTM":
            spelled["config"].setdefault("reset_after", kind == "CuDNNGRU")
    return spelled


@contextmanager
def _readable(path: Path, config: FileConfig) -> Iterator[Path]:
    """The file, or where tf-keras would misread it a copy that says the same in other words."""
    spelled = _spelled_for_tf_keras(config.model) if is_hdf5(path) else config.model
    if spelled == config.model:
        yield path
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(spelled)
        yield copy


def _turn_kernels(model: Any) -> None:
    """Theano's convolution turns its kernel around; TensorFlow's does not."""
    for layer in model.submodules:
        if type(layer).__name__ in _FLIPPED:
            kernels = 2 if type(layer).__name__ == "ConvLSTM2D" else 1
            arrays = layer.get_weights()
            turned = [np.flip(array, tuple(range(array.ndim - 2))) for array in arrays[:kernels]]
            layer.set_weights([*turned, *arrays[kernels:]])


def _check_runs_no_code(path: Path, config: FileConfig, objects: Mapping[str, Any]) -> None:
    """Refuses what tf-keras would run whatever its safe_mode says.

    In an HDF5 file that is every Lambda layer. In a newer file it imports any module that the file names. In
    both it calls any function that TensorFlow makes public, among them those that write files.

    Raises:
        ExportError: the file holds Python code, or names code that is neither Keras's own nor imported.
    """
    for part in parts(config.model):
        if holds_python_code(part):
            raise python_code_refused(path, part)
        module, name = part.entry.get("module"), part.entry.get("registered_name")
        if isinstance(module, str) and _KERAS.match(module) is None and not {name, part.kind} & set(objects):
            raise unknown_code(path, config, part.kind)
        if (call := _call_beyond_the_model(part)) is not None:
            raise ExportError(
                f"{path} calls {call} ({part}), which may reach beyond the model",
                hint="pass --unsafe if you trust where the file comes from",
            )


def _call_beyond_the_model(part: Part) -> str | None:
    """The TensorFlow function or op that a layer calls, if more than computing from tensors is possible."""
    names = _class_names(part)
    symbol = part.config.get("function" if {"TFOpLambda", "SlicingOpLambda"} & names else "cls_symbol")
    if isinstance(symbol, str) and (_OPS.fullmatch(symbol) is None or _NO_OPS.fullmatch(symbol)):
        return f"tf.{symbol}"
    if "TensorFlowOpLayer" in names:  # of Keras up to 2.3
        node = part.config.get("node_def")
        op = str(node.get("op")) if isinstance(node, Mapping) else "that it does not name"
        definition = op_def_registry.get(op)
        if definition is None or definition.is_stateful or "File" in op or "PyFunc" in op:
            return f"the op {op}"
    return None


def unknown_code(path: Path, config: FileConfig | None, name: str) -> ExportError:
    """The refusal of a file that needs a class or function that is neither Keras's nor imported.

    Args:
        path: the file.
        config: what it says, if it could be read.
        name: the class or function; "function" where Keras does not tell which.
    """
    found = [] if config is None else list(parts(config.model))
    if name == "function":
        name = next(
            (text for p in found if p.kind == name and isinstance(text := p.entry["config"], str)), name
        )
    users = [p for p in found if name == p.kind or name in map(_function_name, p.config.values())]
    own = name.rpartition(">")[2]
    where = f" ({users[0]})" if users and users[0].layer else ""
    module = users[0].entry.get("module") if users and users[0].kind == name else None
    if name == "KerasLayer":
        module = "tensorflow_hub"
    if ">" in name:  # the name under which a decorator registered the class: package>class
        hint = (
            f"pass --import module, of the module that registers {name}, or import {own} of it: module:{own}"
        )
    elif isinstance(module, str) and module not in ("__main__", "builtins"):
        hint = f"pass --import {module}:{name}"
    elif callable(getattr(tf.nn, name, None)):
        return ExportError(
            f"{path} needs {name}{where}, which is neither in the file nor part of Keras",
            hint=f"pass --import tensorflow.nn:{name}, if it is tf.nn.{name}",
        )
    else:
        hint = f"pass --import module:{name}, of the module that has it"
    if config is not None and config.keras_2:
        hint += "; it has to be made for tf-keras, since Keras 2 wrote the file"
        hint += "" if import_tf_keras() is not None else f": {install_hint()}"
    return ExportError(
        f"{path} needs {name}{where}, which is neither in the file nor part of Keras", hint=hint
    )
