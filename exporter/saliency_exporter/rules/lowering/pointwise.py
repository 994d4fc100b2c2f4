"""1×1 convolution as a matrix product.

XLA turns a 1×1 convolution into one by itself, but for its input gradient it first writes a transposed copy
of the kernel, at every call: a large one costs more than the product. A matrix product reads it transposed.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def pointwise(node: tf.compat.v1.NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """Conv2D with a 1×1 kernel: [B·H·W, C] @ [C, filters] on the pixels that the stride keeps.

    Inputs: images [B, H, W, C], kernel [1, 1, C, filters]. None (import the op as it is) for larger kernels,
    groups, explicit padding, NCHW and shapes unknown at trace time.
    """
    x, kernel = inputs
    if node.attr["data_format"].s == b"NCHW" or node.attr["padding"].s == b"EXPLICIT":
        return None
    if not (x.shape[1:].is_fully_defined() and kernel.shape.is_fully_defined()):
        return None
    if kernel.shape[:3] != [1, 1, x.shape[3]]:
        return None
    _, down, right, _ = node.attr["strides"].list.i
    kept = x[:, ::down, ::right]
    pixels = tf.reshape(kept, [-1, kernel.shape[2]])
    return [tf.reshape(tf.matmul(pixels, kernel[0, 0]), [-1, *kept.shape[1:3], kernel.shape[3]])]
