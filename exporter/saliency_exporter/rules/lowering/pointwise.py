"""1×1 convolution as a matrix product.

XLA makes one of it by itself, but for the input gradient it first writes a transposed copy of the kernel, at
every call: for a large kernel that takes longer than the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from ._nodes import attribute, is_weight
from ._products import product


def pointwise(node: tf.compat.v1.NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """Conv2D with a 1×1 kernel: [B·H·W, C] @ [C, filters] on the pixels that the strides keep.

    Inputs: images [B, H, W, C], kernel [1, 1, C, filters]. None (import the op as it is) for larger kernels,
    groups, explicit padding, NCHW, unknown shapes and kernels that are not weights.
    """
    if not _is_pointwise(node, inputs):
        return None
    x, kernel = inputs
    _, down, right, _ = attribute(node, "strides").list.i
    kept = x[:, ::down, ::right]
    _, height, width, channels = kept.shape
    y = product(tf.reshape(kept, [-1, channels]), kernel[0, 0], rows_per_example=height * width)
    return [tf.reshape(y, [-1, height, width, kernel.shape[3]])]


def pointwise_uncompiled(node: tf.compat.v1.NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """The Conv2D that `pointwise` takes, where it has no strides, with a matrix product as its gradient."""
    if not _is_pointwise(node, inputs) or set(attribute(node, "strides").list.i) != {1}:
        return None
    x, kernel = inputs
    channels, filters = kernel.shape[2:]

    @tf.custom_gradient
    def convolve(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            dx = tf.matmul(tf.reshape(dy, [-1, filters]), kernel[0, 0], transpose_b=True)
            return tf.reshape(dx, [-1, *x.shape[1:3], channels])

        return tf.nn.conv2d(x, kernel, strides=1, padding="VALID"), gradient

    return [convolve(x)]


def _is_pointwise(node: tf.compat.v1.NodeDef, inputs: Sequence[tf.Tensor]) -> bool:
    x, kernel = inputs
    if attribute(node, "data_format").s == b"NCHW" or attribute(node, "padding").s == b"EXPLICIT":
        return False
    if not (x.shape[1:].is_fully_defined() and kernel.shape.is_fully_defined() and is_weight(kernel)):
        return False
    return kernel.shape[:3] == [1, 1, x.shape[3]]
