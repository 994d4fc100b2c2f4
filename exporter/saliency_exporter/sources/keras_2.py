"""Models of Keras 2, by way of the package tf-keras where it is installed."""

from __future__ import annotations

import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.versions import minor


def is_keras_2_model(model: object) -> bool:
    """Whether an object is a model of tf-keras; does not import it."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(model, tf_keras.Model)


def is_keras_2_file(path: Path) -> bool:
    """Whether a ``.keras`` or ``.h5`` file says that Keras 2 wrote it; false where it cannot be read."""
    try:
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
        else:
            with h5py.File(path) as file:
                version = file.attrs["keras_version"]
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        return False
    return str(version).startswith("2.")


def load_keras_2(path: Path, *, unsafe: bool) -> Any:
    """Loads a whole model of Keras 2.

    Raises:
        ExportError: tf-keras is not installed, or the file holds Python code and ``unsafe`` is false.
        Exception: whatever tf-keras raises for a file that it cannot load.
    """
    # In an .h5 file tf-keras runs Lambda layers whatever its safe_mode says.
    if not unsafe and path.suffix.lower() != ".keras" and _has_lambda(path):
        raise ExportError(
            f"{path} holds Python code of its own (a Lambda layer), which loading it would run",
            hint="pass --unsafe if you trust where the file comes from",
        )
    try:
        import tf_keras
    except ModuleNotFoundError as error:
        # The newest tf-keras would bring the newest TensorFlow with it.
        raise ExportError(
            f"{path} was written by Keras 2, and Keras 3 cannot load it",
            hint=f"pip install 'tf-keras=={minor(tf.__version__)}.*'",
        ) from error
    return tf_keras.models.load_model(path, compile=False, safe_mode=not unsafe)


def _has_lambda(path: Path) -> bool:
    def search(config: Any) -> bool:
        if isinstance(config, dict):
            return config.get("class_name") == "Lambda" or any(map(search, config.values()))
        return isinstance(config, list) and any(map(search, config))

    with h5py.File(path) as file:
        return search(json.loads(file.attrs["model_config"]))
