"""1×1 convolution as a matrix product.

XLA makes one of it by itself, but for the input gradient it first writes a transposed copy of the kernel, at
every call: for a large kernel that takes longer than the product.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ._nodes import attribute, is_weight
from ._products import product


def pointwise(node: tf.compat.v1.NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """Conv2D with a 1×1 kernel: [B·H·W, C] @ [C, filters] on the pixels that the strides keep.

    Inputs: images [B, H, W, C], kernel [1, 1, C, filters]. None (import the op as it is) for larger kernels,
    groups, explicit padding, NCHW, unknown shapes and kernels that are not weights.
    """
    x, kernel = inputs
    if attribute(node, "data_format").s == b"NCHW" or attribute(node, "padding").s == b"EXPLICIT":
        return None
    if not (x.shape[1:].is_fully_defined() and kernel.shape.is_fully_defined() and is_weight(kernel)):
        return None
    if kernel.shape[:3] != [1, 1, x.shape[3]]:
        return None
    _, down, right, _ = attribute(node, "strides").list.i
    kept = x[:, ::down, ::right]
    _, height, width, channels = kept.shape
    y = product(tf.reshape(kept, [-1, channels]), kernel[0, 0], rows_per_example=height * width)
    return [tf.reshape(y, [-1, height, width, kernel.shape[3]])]
