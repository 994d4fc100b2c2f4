"""From the pixels that a client sends to what the network itself receives.

Preprocessing is data, a list of steps, so that the manifest can hold all of it:
the function is made from the same steps. Only a user's own ``module:callable``
is a function that the manifest can but name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

Operation = Literal["divide", "subtract", "reverse_channels"]
Step = tuple[Operation, float | tuple[float, ...] | None]

ImageDtype = Literal["uint8", "float32"]

_STEPS: dict[Operation, Callable[[tf.Tensor, Any], tf.Tensor]] = {
    "reverse_channels": lambda x, _: tf.reverse(x, axis=[-1]),
    "divide": lambda x, by: x / tf.constant(by, tf.float32),
    "subtract": lambda x, by: x - tf.constant(by, tf.float32),
}

# tf, torch, caffe: the modes of keras.applications.imagenet_utils.preprocess_input, in its order.
BUILTIN: dict[str, tuple[Step, ...]] = {
    "none": (),
    "pixels": (),
    "unit": (("divide", 255.0),),
    "tf": (("divide", 127.5), ("subtract", 1.0)),
    "torch": (
        ("divide", 255.0),
        ("subtract", (0.485, 0.456, 0.406)),
        ("divide", (0.229, 0.224, 0.225)),
    ),
    "caffe": (("reverse_channels", None), ("subtract", (103.939, 116.779, 123.68))),
}


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
    image_dtype: ImageDtype = "uint8"
    steps: tuple[Step, ...] | None = None


def from_steps(name: str, steps: tuple[Step, ...], *, image_dtype: ImageDtype = "uint8") -> Preprocessing:
    """A preprocessing that applies steps in order: ``divide``, ``subtract``, ``reverse_channels``.

    A step's value is one number, or one per channel.
    """

    def apply(images: tf.Tensor) -> tf.Tensor:
        for operation, value in steps:
            images = _STEPS[operation](images, value)
        return images

    return Preprocessing(name, apply, image_dtype, steps)


def builtin(name: str) -> Preprocessing:
    """One of ``none``, ``pixels``, ``unit``, ``tf``, ``torch``, ``caffe``."""
    return from_steps(name, BUILTIN[name], image_dtype="float32" if name == "none" else "uint8")
