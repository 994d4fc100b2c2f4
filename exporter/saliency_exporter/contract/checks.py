"""What a signature accepts: assertions that end a call with the input, the value and the bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from saliency_exporter.methods.declarations import MASKS_A_SAMPLE, Parameter


@dataclass(frozen=True)
class Bounds:
    """The values that an input may have.

    Attributes:
        low: the least, itself allowed; None for no bound.
        high: the greatest, itself allowed; None for no bound.
        text: what they are in words, after "it must be".
    """

    low: float | None
    high: float | None
    text: str


def class_bounds(classes: int) -> Bounds:
    """Of `class_index`."""
    return Bounds(-1, classes - 1, f"in [0, {classes - 1}], or -1 for the predicted class")


def bounds_of(parameter: Parameter, max_samples: int, images: tf.DType) -> Bounds | None:
    """Of a method's parameter; None where it has none. `images` is the dtype of the images."""
    low = parameter.low
    if parameter.pixel and images == tf.uint8:
        return Bounds(images.min, images.max, f"in [{images.min}, {images.max}]")
    high = _high(parameter, max_samples)
    if low is None and high is None:
        return Bounds(None, None, "a finite number") if parameter.dtype == "float32" else None
    if low is None:
        return Bounds(low, high, f"at most {high}")
    if high is None and parameter.dtype == "float32":
        return Bounds(low, high, f"a finite number, at least {low}")
    return Bounds(low, high, f"at least {low}" if high is None else f"in [{low}, {high}]")


def extremes(bounds: Bounds | None, dtype: str) -> tuple[float, float]:
    """The least and the greatest value that an input takes: where there is no bound, that of its dtype."""
    of_dtype = tf.as_dtype(dtype)
    low = None if bounds is None else bounds.low
    high = None if bounds is None else bounds.high
    return (float(of_dtype.min if low is None else low), float(of_dtype.max if high is None else high))


def default_of(parameter: Parameter, max_samples: int) -> float:
    """The default of a method's parameter: the declared one, or the greatest value where that is less."""
    high = _high(parameter, max_samples)
    return parameter.default if high is None else min(parameter.default, high)


def _high(parameter: Parameter, max_samples: int) -> float | None:
    settings = {"max_samples": max_samples, "max_masks": MASKS_A_SAMPLE * max_samples}
    return settings[parameter.high] if isinstance(parameter.high, str) else parameter.high


def image_checks(images: tf.Tensor) -> list[tf.Operation]:
    """Assertions that images have the signature's shape, that there are any and that floats are finite.

    A server feeds whatever shape a request has, and some kernels do not survive another rank: they end the
    process. Nothing that computes may see images before these assertions hold.
    """
    # Behind a placeholder of unknown shape, so that no optimizer takes the signature's word for the shape.
    shape = tf.shape(tf.compat.v1.placeholder_with_default(images, shape=None))
    expected = ", ".join(map(str, images.shape.as_list()[1:]))
    sizes = tf.as_string(shape)
    # As text: it is there for the message, and shapes of any rank compare.
    fits = tf.equal(tf.strings.reduce_join(sizes[1:], separator=", "), expected)
    given = tf.strings.reduce_join(sizes, separator=", ")
    message = ["images has shape [", given, f"]; it must be [B, {expected}]"]
    with tf.control_dependencies([assertion(fits, message)]):
        images, shape = tf.identity(images), tf.identity(shape)
    checks = [assertion(shape[0] > 0, ["images has batch size 0; it must hold at least 1 image"])]
    if images.dtype.is_floating:
        finite = tf.reduce_all(tf.math.is_finite(images), axis=list(range(1, images.shape.rank)))
        example = tf.argmin(tf.cast(finite, tf.int32))
        message = ["images must be finite; example ", tf.as_string(example), " holds NaN or infinity"]
        checks.append(assertion(tf.reduce_all(finite), message))
    return checks


def broadcast_parameter(name: str, value: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
    """One value for each example, [B], from a scalar, one value or B values."""
    rank = tf.rank(value)
    with tf.control_dependencies(
        [assertion(rank <= 1, [f"{name} must be a scalar or a vector; it has rank ", tf.as_string(rank)])]
    ):
        flat = tf.reshape(value, [-1])
    length = tf.size(flat)
    message = [f"{name} has ", tf.as_string(length), " values for a batch of ", tf.as_string(batch)]
    message.append(" images; it must be 1 value or one for each image")
    with tf.control_dependencies([assertion((length == 1) | (length == batch), message)]):
        return tf.broadcast_to(flat, [tf.maximum(batch, 1)])


def bound_check(name: str, value: tf.Tensor, bounds: Bounds) -> tf.Operation:
    """Assertion that every example's value, [B], lies within bounds, and is finite."""
    inside = tf.math.is_finite(value) if value.dtype.is_floating else tf.ones_like(value, tf.bool)
    if bounds.low is not None:
        inside &= value >= tf.cast(bounds.low, value.dtype)
    if bounds.high is not None:
        inside &= value <= tf.cast(bounds.high, value.dtype)
    first = value[tf.argmin(tf.cast(inside, tf.int32))]
    given = tf.as_string(first, shortest=value.dtype.is_floating)
    message = [f"{name} is ", given, f"; it must be {bounds.text}"]
    return assertion(tf.reduce_all(inside), message)


def assertion(condition: tf.Tensor, message: Sequence[str | tf.Tensor]) -> tf.Operation:
    """INVALID_ARGUMENT with a message unless the condition holds."""
    return tf.debugging.Assert(condition, [tf.strings.join(message)])
