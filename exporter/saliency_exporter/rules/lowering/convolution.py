"""Convolution whose input gradient is fast where XLA's own is not.

XLA's own gradient is a convolution of the signal with the kernel turned and transposed. That is slow

- where it writes few channels, as for a network's first layer: they do not fill a vector register, and for a
  stride the signal is spread with zeros that are then multiplied;
- where the kernel is much larger than the picture: transposing it takes longer than the arithmetic;
- in a loop, as SmoothGrad's: there XLA asks for a layout of the kernel that its library of convolutions does
  not take, and compiles plain loops instead, which takes five times as long.

In the first two cases the gradient is one matrix product, its results added up where they belong; in the last
a convolution with the kernel turned by an op of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.nodes import attribute, is_plain_convolution
from saliency_exporter.graph.windows import Axis, axes, scatter
from saliency_exporter.rules.lowering._products import if_few_rows, times_transposed
from saliency_exporter.rules.lowering.thresholds import XLA_CONVOLUTION_WEIGHTS_PER_ROW, XLA_FEW_CHANNELS


def convolution(node: NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """Conv2D of few channels, with a kernel much larger than the picture, or without strides.

    Inputs: images [B, H, W, C], kernel [taps, taps, C, filters]. None (import the op as it is) for other
    convolutions, groups, NCHW, unknown shapes and kernels that are not weights.
    """
    x, kernel = inputs
    if not is_plain_convolution(node, inputs):
        return None
    height, width, channels = x.shape[1:]
    *taps, kernel_channels, filters = kernel.shape
    rows, columns = axes(node, height, width, (taps[0], taps[1]))
    pixels = rows.outputs * columns.outputs
    most_pixels = kernel.shape.num_elements() // XLA_CONVOLUTION_WEIGHTS_PER_ROW
    padding = [_turned_padding(rows), _turned_padding(columns)]
    turns = rows.stride == columns.stride == 1 and min(map(min, padding)) >= 0
    if kernel_channels != channels or (channels > XLA_FEW_CHANNELS and most_pixels < pixels and not turns):
        return None
    options = {
        "strides": list(attribute(node, "strides").list.i),
        "padding": attribute(node, "padding").s,
        "explicit_paddings": list(attribute(node, "explicit_paddings").list.i),
        "dilations": list(attribute(node, "dilations").list.i) or [1, 1, 1, 1],
    }

    @tf.custom_gradient
    def convolve(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            signal, matrix = tf.reshape(dy, [-1, filters]), tf.reshape(kernel, [-1, filters])

            def added_up(sent: tf.Tensor) -> tf.Tensor:
                by_tap = tf.reshape(sent, [-1, rows.outputs, columns.outputs, *taps, channels])
                return scatter([by_tap], rows, columns, lambda tap, part: part[..., tap[0], tap[1], :])

            if channels <= XLA_FEW_CHANNELS:
                return added_up(tf.matmul(signal, matrix, transpose_b=True))
            return if_few_rows(
                signal,
                pixels,
                most_pixels,
                lambda: added_up(times_transposed(signal, matrix)),
                lambda: turned(dy) if turns else xlas_own(dy),
            )

        def turned(dy: tf.Tensor) -> tf.Tensor:
            other_way = tf.reverse(tf.transpose(kernel, [0, 1, 3, 2]), [0, 1])
            around = [0, 0, *padding[0], *padding[1], 0, 0]
            return tf.raw_ops.Conv2D(
                input=dy,
                filter=other_way,
                **{**options, "padding": "EXPLICIT", "explicit_paddings": around},
            )

        def xlas_own(dy: tf.Tensor) -> tf.Tensor:
            return tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, **options
            )

        return tf.raw_ops.Conv2D(input=x, filter=kernel, **options), gradient

    return [convolve(x)]


def _turned_padding(axis: Axis) -> tuple[int, int]:
    """Padding of the signal, in front and behind, with which a convolution without strides goes back."""
    reach = (axis.taps - 1) * axis.dilation
    return reach - axis.before, reach - axis.after
