"""The way back through a strided convolution of few channels, a network's first layer, uncompiled.

oneDNN's own gradient writes three channels where a vector register holds sixteen. As one convolution of the
signal without strides (`_phases`) it writes twelve with stride 2: the phases are channels there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.nodes import attribute, is_plain_convolution
from saliency_exporter.graph.phases import kernel_of_phases, put_together, signal_padding
from saliency_exporter.graph.windows import axes
from saliency_exporter.rules.lowering.thresholds import ONEDNN


def strided_uncompiled(
    node: NodeDef, inputs: Sequence[tf.Tensor], *, most_channels: int = ONEDNN.strided_channels
) -> list[tf.Tensor] | None:
    """Conv2D of few channels with strides, as it is; its gradient is one convolution without.

    Inputs: images [B, H, W, C], kernel [taps, taps, C, filters]. None (import the op as it is) for other
    convolutions, dilation, groups, NCHW, unknown shapes and kernels that are not weights.

    Args:
        node: the Conv2D.
        inputs: its data inputs.
        most_channels: the most channels for which it is worth it.
    """
    x, kernel = inputs
    if not is_plain_convolution(node, inputs):
        return None
    height, width, channels = x.shape[1:]
    *taps, kernel_channels, _ = kernel.shape
    rows, columns = axes(node, height, width, (taps[0], taps[1]))
    padding = [signal_padding(rows), signal_padding(columns)]
    strides = rows.stride, columns.stride
    if kernel_channels != channels or channels > most_channels or strides == (1, 1):
        return None
    if min(map(min, padding)) < 0 or (rows.dilation, columns.dilation) != (1, 1):
        return None

    @tf.custom_gradient
    def convolve(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            phases = tf.raw_ops.Conv2D(
                input=dy,
                filter=kernel_of_phases(kernel, rows, columns),
                strides=[1] * 4,
                padding="EXPLICIT",
                explicit_paddings=[0, 0, *padding[0], *padding[1], 0, 0],
            )
            return put_together(phases, rows, columns)

        y = tf.raw_ops.Conv2D(
            input=x,
            filter=kernel,
            strides=list(attribute(node, "strides").list.i),
            padding=attribute(node, "padding").s,
            explicit_paddings=list(attribute(node, "explicit_paddings").list.i),
        )
        return y, gradient

    return [convolve(x)]
