"""Depthwise convolution as shifted multiply-adds, which XLA fuses into one loop on a CPU.

XLA has no fast CPU code for a grouped convolution: 7 to 27 times slower than the uncompiled op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.nodes import is_plain_convolution
from saliency_exporter.graph.windows import add, axes, gather, scatter


def depthwise(node: NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """DepthwiseConv2dNative: the sum over taps of shifted input × per-channel weight, and its input gradient.

    Also Conv2D with as many groups as channels, which is the same. Inputs: images [B, H, W, C], kernel
    [taps, taps, C, multiplier] or [taps, taps, 1, C · multiplier]. None (import the op as it is) for other
    convolutions, NCHW, unknown shapes and kernels that are not weights.
    """
    x, kernel = inputs
    if not is_plain_convolution(node, inputs):
        return None
    height, width, channels = x.shape[1:]
    if node.op == "Conv2D":
        if kernel.shape[2] != 1:
            return None
        kernel = tf.reshape(kernel, [*kernel.shape[:2], channels, -1])
    *taps, _, multiplier = kernel.shape
    rows, columns = axes(node, height, width, (taps[0], taps[1]))

    # One channel out for each in, the usual case, needs no axis of its own and no sum over it.
    depth = [channels] if multiplier == 1 else [channels, multiplier]
    by_tap = tf.unstack(tf.reshape(kernel, [taps[0] * taps[1], *depth]))
    weights = dict(zip(product(range(taps[0]), range(taps[1])), by_tap, strict=True))

    @tf.custom_gradient
    def convolve(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        pieces = gather(x if multiplier == 1 else x[..., tf.newaxis], rows, columns, fill=0)
        y = add([piece * weights[tap] for tap, piece in pieces.items()])

        def sent(tap: tuple[int, int], part: tf.Tensor) -> tf.Tensor:
            parts = part * weights[tap]
            return parts if multiplier == 1 else tf.reduce_sum(parts, axis=-1)

        def gradient(dy: tf.Tensor) -> tf.Tensor:
            signal = tf.reshape(dy, [-1, rows.outputs, columns.outputs, *depth])
            return scatter([signal], rows, columns, sent)

        return tf.reshape(y, [-1, rows.outputs, columns.outputs, channels * multiplier]), gradient

    return [convolve(x)]
