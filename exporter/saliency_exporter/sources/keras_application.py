"""A keras.applications model by its name."""

from __future__ import annotations

import contextlib
import inspect
import sys
from functools import cache
from pathlib import Path

import keras

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.sources import imagenet
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.keras_model import require_tensorflow_backend, source_from_keras, whole_weights
from saliency_exporter.sources.preprocessing import Preprocessing, builtin
from saliency_exporter.sources.source import Source

# Each family's own preprocess_input, by the name of the preprocessing that equals it.
# "pixels": the preprocessing is inside the model.
FAMILIES = {
    "convnext": "pixels",
    "densenet": "torch",
    "efficientnet": "pixels",
    "efficientnet_v2": "pixels",
    "inception_resnet_v2": "tf",
    "inception_v3": "tf",
    "mobilenet": "tf",
    "mobilenet_v2": "tf",
    "mobilenet_v3": "pixels",
    "nasnet": "tf",
    "resnet": "caffe",
    "resnet_v2": "tf",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "tf",
}


@cache
def names() -> tuple[str, ...]:
    """The names of the models of keras.applications."""
    members = inspect.getmembers(keras.applications, inspect.isfunction)
    return tuple(
        name
        for name, function in members
        if "classifier_activation" in inspect.signature(function).parameters
    )


def load(name: str, choices: Choices = NO_CHOICES, *, weights: str | None = None) -> Source:
    """Builds a model with its classification head and the weights asked for.

    Args:
        name: one of ``names()``.
        choices: the image size; by default the family's own.
        weights: ``imagenet`` (the default; downloaded by Keras), ``none`` for random ones, or a
            weights file of the very same architecture.

    Raises:
        ExportError: the weights cannot be downloaded, or the file is missing, damaged or of another
            architecture; the image size is one that the architecture cannot take.
    """
    require_tensorflow_backend()
    weights = weights or "imagenet"
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise ExportError(f"there is no weights file {weights}", hint="--weights is imagenet, none or a file")
    size = choices.image_size or _image_size(choices.input_shape)
    model = _build(name, size, "imagenet" if weights == "imagenet" else None)
    if weights not in ("imagenet", "none"):
        _load_weights(model, name, weights)
    return source_from_keras(
        model,
        name=name,
        origin=f"keras.applications.{name}, Keras {keras.__version__}, weights "
        f"{Path(weights).name if weights not in ('imagenet', 'none') else weights}",
        choices=choices,
        preprocessing=_preprocessing(name),
        labels=imagenet.labels() if weights == "imagenet" else None,
    )


def family(name: str) -> str:
    """The keras.applications module that a model is defined in: ``mobilenet_v2`` for MobileNetV2."""
    return getattr(keras.applications, name).__module__.rpartition(".")[2]


def _preprocessing(name: str) -> Preprocessing | None:
    known = FAMILIES.get(family(name))
    return builtin(known) if known else None


def _image_size(input_shape: tuple[int, ...] | None) -> tuple[int, int] | None:
    """The height and width that an input shape (H, W, C) says."""
    return None if input_shape is None or len(input_shape) != 3 else (input_shape[0], input_shape[1])


def _build(name: str, image_size: tuple[int, int] | None, weights: str | None) -> keras.Model:
    shape = (*image_size, 3) if image_size else None
    try:
        # Keras reports its downloads on stdout, which belongs to the command's results.
        with contextlib.redirect_stdout(sys.stderr):
            return getattr(keras.applications, name)(weights=weights, input_shape=shape)
    except ValueError as error:
        raise ExportError(
            f"{name} cannot be built for --image-size {shape and shape[:2]}: {error}",
            hint="leave the size out for the one that the model was trained with",
        ) from error
    except Exception as error:
        if weights is None:
            raise
        raise ExportError(
            f"the ImageNet weights of {name} could not be downloaded: {error}",
            hint=f"where there is internet, run keras.applications.{name}() and copy the file that it leaves "
            "in ~/.keras/models here; then pass --weights FILE. --weights none builds the model with "
            "random weights",
        ) from error


def _load_weights(model: keras.Model, name: str, path: str) -> None:
    try:
        with whole_weights():
            model.load_weights(path)
    except Exception as error:
        raise ExportError(
            f"weights file {path} does not fit {name} with {model.output_shape[-1]} classes: {brief(error)}",
            hint="it must be written by save_weights of this very architecture. A model with a head of its "
            "own is exported as a whole file: model.save('name.keras')",
        ) from error
