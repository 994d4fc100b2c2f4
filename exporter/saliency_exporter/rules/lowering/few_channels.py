"""Convolution that reads few channels, such as a network's first: its input gradient as one matrix product.

XLA's own gradient is a convolution that writes those few channels, too few to fill a vector register, and
for a stride it spreads the signal with zeros that it then multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from ._nodes import attribute, is_weight
from ._windows import axes, scatter

_FEW = 4


def few_channels(node: tf.compat.v1.NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """Conv2D of at most 4 channels; the gradient is (signal @ kernelᵀ), each product added where it belongs.

    Inputs: images [B, H, W, C], kernel [taps, taps, C, filters]. None (import the op as it is) for more
    channels, groups, NCHW, unknown shapes and kernels that are not weights.
    """
    x, kernel = inputs
    if attribute(node, "data_format").s == b"NCHW":
        return None
    if not (x.shape[1:].is_fully_defined() and kernel.shape.is_fully_defined() and is_weight(kernel)):
        return None
    height, width, channels = x.shape[1:]
    *taps, kernel_channels, filters = kernel.shape
    if channels > _FEW or kernel_channels != channels:
        return None
    rows, columns = axes(node, height, width, (taps[0], taps[1]))

    @tf.custom_gradient
    def convolve(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        y = tf.raw_ops.Conv2D(
            input=x,
            filter=kernel,
            strides=list(attribute(node, "strides").list.i),
            padding=attribute(node, "padding").s,
            explicit_paddings=list(attribute(node, "explicit_paddings").list.i),
            dilations=list(attribute(node, "dilations").list.i) or [1, 1, 1, 1],
        )

        def gradient(dy: tf.Tensor) -> tf.Tensor:
            sent = tf.matmul(
                tf.reshape(dy, [-1, filters]), tf.reshape(kernel, [-1, filters]), transpose_b=True
            )
            by_tap = tf.reshape(sent, [-1, rows.outputs, columns.outputs, *taps, channels])
            return scatter([by_tap], rows, columns, lambda tap, part: part[..., tap[0], tap[1], :])

        return y, gradient

    return [convolve(x)]
