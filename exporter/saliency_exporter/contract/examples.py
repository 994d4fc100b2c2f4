"""The two examples that an export is measured, verified and warmed up with."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from saliency_exporter.methods.declarations import CLASS_INDEX, Method

EXAMPLES = 2

# Example 0 asks for the predicted class, example 1 for a given one; everything else differs too, so that an
# answer that mixes up examples or parameters cannot be right.
_CLASS_OF_FIRST = -1


def parameter_examples(method: Method, images: tf.TensorSpec) -> dict[str, np.ndarray]:
    """Two values of each parameter of a method.

    Gray levels are declared as those of pixels. For images -1..1 they are what these are there: far outside
    of them a network's rectifiers are all shut, or all open, and its maps show nothing.

    Args:
        method: the method.
        images: of its signature.
    """
    return {
        parameter.name: np.array(
            [_of_model_input(value) for value in parameter.examples]
            if parameter.pixel and images.dtype != tf.uint8
            else parameter.examples,
            parameter.dtype,
        )
        for parameter in method.parameters
    }


def _of_model_input(level: float) -> float:
    return level / 127.5 - 1


def reference_inputs(spec: tf.TensorSpec, classes: int) -> dict[str, np.ndarray]:
    """Two images and two classes, the inputs that every signature of a method has, by name.

    The images are smooth random patterns with a little noise, 0..255 or −1..1: like photos, they leave a
    network's rectifiers partly open.
    """
    rng = np.random.default_rng(20260101)
    shape = spec.shape[1:].as_list()
    coarse = rng.normal(size=(EXAMPLES, *(max(2, -(-size // 16)) for size in shape[:-1]), shape[-1]))
    pattern = coarse
    for axis, size in enumerate(shape[:-1], start=1):
        positions = np.linspace(0, pattern.shape[axis] - 1, size)
        low = np.minimum(positions.astype(int), pattern.shape[axis] - 2)
        weight = (positions - low).reshape([-1 if a == axis else 1 for a in range(pattern.ndim)])
        pattern = pattern.take(low, axis) * (1 - weight) + pattern.take(low + 1, axis) * weight
    pattern = np.clip(0.35 * pattern + 0.02 * rng.normal(size=pattern.shape), -1, 1)
    images = (pattern + 1) * 127.5 if spec.dtype == tf.uint8 else pattern
    return {
        "images": images.astype(spec.dtype.as_numpy_dtype),
        CLASS_INDEX: np.array([_CLASS_OF_FIRST, classes // 2], np.int32),
    }
