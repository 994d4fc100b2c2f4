"""1×1 convolution as a matrix product.

XLA makes one of it by itself, but for the input gradient it first writes a transposed copy of the kernel, at
every call: for a large kernel that takes longer than the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.nodes import attribute, is_plain_convolution
from saliency_exporter.rules.lowering._products import product
from saliency_exporter.rules.lowering.thresholds import ONEDNN, Products


def pointwise(node: NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
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


def pointwise_uncompiled(
    node: NodeDef, inputs: Sequence[tf.Tensor], *, worth: Products = ONEDNN.products
) -> list[tf.Tensor] | None:
    """The Conv2D that `pointwise` takes, with a matrix product as its gradient where that is faster.

    Where the kernel is very large, the value is a product too; else the op stays, and with it the bias and
    the activation that TensorFlow makes part of it. With strides, the gradient is that of the pixels which
    are read, with zeros for the others. None where nothing is gained: strides that do not divide the height
    and the width, or neither strides nor a product.

    Args:
        node: the Conv2D.
        inputs: its data inputs.
        worth: from which sizes on products are worth it.
    """
    if not _is_pointwise(node, inputs):
        return None
    x, kernel = inputs
    strides = attribute(node, "strides").list.i
    _, down, right, _ = strides
    _, height, width, channels = x.shape
    rows, columns, filters = height // down, width // right, kernel.shape[3]
    as_product = _product_is_faster(rows * columns, channels * filters, worth)
    if height % down or width % right or (down == right == 1 and not as_product):
        return None
    if down == right == 1 and _is_large(rows * columns, channels * filters, worth):
        y = tf.matmul(tf.reshape(x, [-1, channels]), kernel[0, 0])
        return [tf.reshape(y, [-1, height, width, filters])]

    @tf.custom_gradient
    def convolve(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            if as_product:
                read = tf.matmul(tf.reshape(dy, [-1, filters]), kernel[0, 0], transpose_b=True)
            else:
                shape = [tf.shape(dy)[0], rows, columns, channels]
                read = tf.nn.conv2d_transpose(dy, kernel, shape, strides=1, padding="VALID")
            if down == right == 1:
                return tf.reshape(read, [-1, height, width, channels])
            read = tf.reshape(read, [-1, rows, 1, columns, 1, channels])
            spread = tf.pad(read, [(0, 0), (0, 0), (0, down - 1), (0, 0), (0, right - 1), (0, 0)])
            return tf.reshape(spread, [-1, height, width, channels])

        return tf.nn.conv2d(x, kernel, strides=strides, padding="VALID"), gradient

    return [convolve(x)]


def _product_is_faster(pixels: int, weights: int, worth: Products) -> bool:
    """Whether a product takes less time than the kernels' own gradient for that many outputs of one image.

    oneDNN lays the kernel out anew at every call. That counts where there is little arithmetic, and where the
    kernel is large beside the picture; between, its convolution is up to a quarter faster than its product.
    """
    return pixels * weights <= worth.little_arithmetic or weights >= worth.weights_per_pixel * pixels


def _is_large(pixels: int, weights: int, worth: Products) -> bool:
    """Whether a product takes less time than a convolution that bias and activation are part of."""
    return weights >= max(worth.value_weights, worth.weights_per_pixel * pixels)


def _is_pointwise(node: NodeDef, inputs: Sequence[tf.Tensor]) -> bool:
    x, kernel = inputs
    if attribute(node, "padding").s == b"EXPLICIT" or not is_plain_convolution(node, inputs):
        return False
    return kernel.shape[:3] == [1, 1, x.shape[3]]
