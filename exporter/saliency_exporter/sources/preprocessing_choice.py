"""The preprocessing that `--preprocessing` names: one that is known, or a user's own function."""

from __future__ import annotations

import difflib
from typing import Any

import tensorflow as tf

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.sources.preprocessing import BUILTIN, Preprocessing, builtin
from saliency_exporter.sources.python_object import load_reference
from saliency_exporter.sources.source import Source

NAMES = ("auto", *BUILTIN, "module:callable")

_WHAT_TO_PASS = (
    "pass --preprocessing: unit (pixels / 255), tf (pixels / 127.5 - 1), torch or caffe (as in "
    "keras.applications), pixels (the network takes pixels 0..255 itself, for example through a Rescaling "
    "layer), none (clients send float32 model input), or module:callable (your own function)"
)


def resolve_preprocessing(name: str, source: Source) -> Preprocessing:
    """The preprocessing that ``--preprocessing`` names, for one model.

    Args:
        name: ``auto`` (what the source knows), ``none``, ``pixels``, ``unit``, ``tf``, ``torch``,
            ``caffe``, or ``module:callable``: a function from float32 [B, H, W, C] in 0..255 to model input
            of the same shape.
        source: the model.

    Raises:
        ExportError: nothing is known for ``auto``, there is no such name, the model has a number
            of channels that the mode is not made for, or the callable does not do what it should.
    """
    if name == "auto":
        if source.preprocessing is None:
            raise ExportError(f"it is not known which preprocessing {source.name} needs", hint=_WHAT_TO_PASS)
        return source.preprocessing
    if name in BUILTIN:
        preprocessing = builtin(name)
        _check_channels(preprocessing, source)
        return preprocessing
    if ":" in name:
        return _from_callable(name, source)
    near = difflib.get_close_matches(name.lower(), NAMES, n=1)
    raise ExportError(
        f"there is no preprocessing {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
        hint=_WHAT_TO_PASS,
    )


def _check_channels(preprocessing: Preprocessing, source: Source) -> None:
    channels = source.input_shape[-1]
    if channels != 3 and any(
        operation == "reverse_channels" or isinstance(value, tuple)
        for operation, value in preprocessing.steps or ()
    ):
        raise ExportError(
            f"preprocessing {preprocessing.name!r} is for 3 channels (RGB); {source.name} takes {channels}",
            hint=_WHAT_TO_PASS,
        )


def _from_callable(reference: str, source: Source) -> Preprocessing:
    function = load_reference(reference)
    if not callable(function):
        raise ExportError(f"preprocessing {reference!r} is a {type(function).__name__}, not a function")
    images = tf.TensorSpec([None, *source.input_shape], tf.float32)
    # What is checked is what is used: an export traces without AutoGraph, which the user's ifs may need.
    graph = tf.function(function)
    try:
        traced = graph.get_concrete_function(images)
    except Exception as error:
        raise ExportError(
            f"preprocessing {reference!r} failed on float32 images [B, "
            f"{', '.join(map(str, source.input_shape))}]: {brief(error)}",
            hint="it must be made of TensorFlow operations, not of NumPy or PIL calls",
        ) from error
    _check_callable(reference, traced, images)
    return Preprocessing(reference, lambda x: tf.cast(graph(x), tf.float32))


def _check_callable(reference: str, traced: Any, images: tf.TensorSpec) -> None:
    output = traced.structured_outputs
    if not tf.is_tensor(output) or not output.dtype.is_floating:
        raise ExportError(
            f"preprocessing {reference!r} returned {_describe(output)}; it must return one float tensor"
        )
    if not output.shape.is_compatible_with(images.shape):
        raise ExportError(
            f"preprocessing {reference!r} returned shape {output.shape} for images of {images.shape}; "
            "it must keep the shape",
            hint="clients resize their images to the size that the signature asks for",
        )
    if any(captured.dtype == tf.resource for captured in traced.captured_inputs):
        raise ExportError(
            f"preprocessing {reference!r} uses variables or tables from outside itself",
            hint="use constants inside the function (Python numbers, NumPy arrays)",
        )


def _describe(output: Any) -> str:
    if tf.is_tensor(output):
        return f"a tensor of {output.dtype.name}"
    return f"a {type(output).__name__}"
