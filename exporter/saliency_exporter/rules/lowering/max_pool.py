"""The gradient of max pooling as comparisons, without XLA's SelectAndScatter.

SelectAndScatter runs on one core, element by element: 3 to 6 times slower than the uncompiled gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.nodes import attribute
from saliency_exporter.graph.windows import axes, gather, scatter


def max_pool(node: NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """MaxPool, whose gradient goes whole to the first maximum of each window, in row-major order.

    That is what TensorFlow's MaxPoolGrad does with ties (frequent: the zeros of a ReLU), and XLA's
    SelectAndScatter too. Input: [B, H, W, C] with known H, W, C. None (import the op as it is) for other
    layouts, pooling over channels or batch, and shapes unknown at trace time.
    """
    (x,) = inputs
    window = attribute(node, "ksize").list.i
    strides = attribute(node, "strides").list.i
    if attribute(node, "data_format").s not in (b"", b"NHWC") or not x.shape[1:].is_fully_defined():
        return None
    if (window[0], window[3], strides[0], strides[3]) != (1, 1, 1, 1):
        return None
    rows, columns = axes(node, x.shape[1], x.shape[2], (window[1], window[2]))

    @tf.custom_gradient
    def pool(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        pieces = gather(x, rows, columns, fill=x.dtype.min)
        y = reduce(tf.maximum, pieces.values())

        def gradient(dy: tf.Tensor) -> tf.Tensor:
            number = {tap: n for n, tap in enumerate(pieces)}
            first = tf.zeros_like(y, tf.int32)
            for tap, piece in reversed(pieces.items()):
                first = tf.where(piece == y, number[tap], first)
            return scatter(
                [dy, first],
                rows,
                columns,
                lambda tap, signal, winner: tf.where(winner == number[tap], signal, 0),
            )

        return y, gradient

    return [pool(x)]
