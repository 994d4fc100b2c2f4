"""From the pixels that a client sends to what the network itself receives.

Preprocessing is data, a list of steps, so that the manifest can hold all of it:
the function is made from the same steps. Only a user's own ``module:callable``
is a function that the manifest can but name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.references import load_reference

if TYPE_CHECKING:
    from saliency_exporter.sources.source import Source

Step = tuple[str, float | tuple[float, ...] | None]

_STEPS: dict[str, Callable[[tf.Tensor, Any], tf.Tensor]] = {
    "reverse_channels": lambda x, _: tf.reverse(x, axis=[-1]),
    "divide": lambda x, by: x / tf.constant(by, tf.float32),
    "subtract": lambda x, by: x - tf.constant(by, tf.float32),
}

# The modes of keras.applications.imagenet_utils.preprocess_input, in its own order of operations.
_BUILTIN: dict[str, tuple[Step, ...]] = {
    "none": (),
    "pixels": (),
    "tf": (("divide", 127.5), ("subtract", 1.0)),
    "torch": (
        ("divide", 255.0),
        ("subtract", (0.485, 0.456, 0.406)),
        ("divide", (0.229, 0.224, 0.225)),
    ),
    "caffe": (("reverse_channels", None), ("subtract", (103.939, 116.779, 123.68))),
}

NAMES = ("auto", *_BUILTIN, "module:callable")

_WHAT_TO_PASS = (
    "pass --preprocessing: tf (pixels / 127.5 - 1), torch or caffe (as in keras.applications), "
    "pixels (the network takes pixels 0..255 itself, for example through a Rescaling layer), "
    "none (clients send float32 model input), or module:callable (your own function)"
)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to the images of a request before the network receives them.

    Attributes:
        name: as on the command line, or ``module:callable``.
        function: float32 [B, H, W, C] as received to float32 [B, H, W, C] model input;
            made of TensorFlow operations, so that it can be traced and compiled.
        image_dtype: what clients send: ``"uint8"`` pixels 0..255, or ``"float32"`` model input.
        steps: the operations of ``function`` in order; None where a user's callable is all that is known.
    """

    name: str
    function: Callable[[tf.Tensor], tf.Tensor]
    image_dtype: str = "uint8"
    steps: tuple[Step, ...] | None = None

    def to_manifest(self) -> dict[str, Any]:
        """All that is needed to do the same again, as JSON values."""
        manifest: dict[str, Any] = {"name": self.name, "image_dtype": self.image_dtype}
        if self.steps is None:
            return {**manifest, "callable": self.name}
        return {**manifest, "steps": [_step_to_manifest(step) for step in self.steps]}


def from_steps(name: str, steps: tuple[Step, ...], *, image_dtype: str = "uint8") -> Preprocessing:
    """A preprocessing that applies steps in order: ``divide``, ``subtract``, ``reverse_channels``.

    A step's value is one number, or one per channel.
    """

    def apply(images: tf.Tensor) -> tf.Tensor:
        for operation, value in steps:
            images = _STEPS[operation](images, value)
        return images

    return Preprocessing(name, apply, image_dtype, steps)


def builtin(name: str) -> Preprocessing:
    """One of ``none``, ``pixels``, ``tf``, ``torch``, ``caffe``."""
    return from_steps(name, _BUILTIN[name], image_dtype="float32" if name == "none" else "uint8")


def resolve_preprocessing(name: str, source: Source) -> Preprocessing:
    """The preprocessing that ``--preprocessing`` names, for one model.

    Args:
        name: ``auto`` (what the source knows), ``none``, ``pixels``, ``tf``, ``torch``, ``caffe``,
            or ``module:callable``: a function from float32 [B, H, W, C] in 0..255 to model input
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
    if name in _BUILTIN:
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
    try:
        traced = tf.function(function).get_concrete_function(images)
    except Exception as error:
        raise ExportError(
            f"preprocessing {reference!r} failed on float32 images [B, "
            f"{', '.join(map(str, source.input_shape))}]: {brief(error)}",
            hint="it must be made of TensorFlow operations, not of NumPy or PIL calls",
        ) from error
    _check_callable(reference, traced, images)
    return Preprocessing(reference, lambda x: tf.cast(function(x), tf.float32))


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


def _describe(output: object) -> str:
    if tf.is_tensor(output):
        return f"a tensor of {output.dtype.name}"
    return f"a {type(output).__name__}"


def _step_to_manifest(step: Step) -> dict[str, Any]:
    operation, value = step
    return {operation: True if value is None else list(value) if isinstance(value, tuple) else value}
