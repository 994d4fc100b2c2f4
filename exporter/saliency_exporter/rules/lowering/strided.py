"""The way back through a strided convolution of few channels, a network's first layer, uncompiled.

oneDNN's own gradient writes three channels where a vector register holds sixteen. All inputs of one phase
(equal modulo the stride) are read through the same taps, so the phases are channels of one convolution of
the signal without strides: with stride 2 it writes twelve. Its kernel has the taps of every phase, filled up
with zeros where a phase has fewer; W. Shi et al., Is the deconvolution layer the same as a convolutional
layer?, arXiv 1609.07009, shows the equality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from ._nodes import attribute, is_plain_convolution
from ._windows import Axis, axes
from .thresholds import ONEDNN


def strided_uncompiled(
    node: tf.compat.v1.NodeDef, inputs: Sequence[tf.Tensor], *, most_channels: int = ONEDNN.strided_channels
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
    padding = [_padding(rows), _padding(columns)]
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
                filter=_kernel_of_phases(kernel, rows, columns),
                strides=[1] * 4,
                padding="EXPLICIT",
                explicit_paddings=[0, 0, *padding[0], *padding[1], 0, 0],
            )
            apart = [-1, rows.phase_size, columns.phase_size, strides[0], strides[1] * channels]
            lines = tf.transpose(tf.reshape(phases, apart), [0, 1, 3, 2, 4])
            whole = [-1, rows.phase_size * strides[0], columns.phase_size * strides[1], channels]
            return tf.reshape(lines, whole)[:, :height, :width]

        y = tf.raw_ops.Conv2D(
            input=x,
            filter=kernel,
            strides=list(attribute(node, "strides").list.i),
            padding=attribute(node, "padding").s,
            explicit_paddings=list(attribute(node, "explicit_paddings").list.i),
        )
        return y, gradient

    return [convolve(x)]


def _padding(axis: Axis) -> tuple[int, int]:
    """Zeros in front of and behind the signal, so that every reader of every phase finds its output."""
    first, last = axis.reach
    return -first, axis.phase_size - 1 + last - (axis.outputs - 1)


def _kernel_of_phases(kernel: tf.Tensor, rows: Axis, columns: Axis) -> tf.Tensor:
    """[row offsets, column offsets, filters, row phases · column phases · C] of [taps, taps, C, filters]."""
    with_zeros = tf.pad(kernel, [(0, 1), (0, 1), (0, 0), (0, 0)])
    by_row = tf.gather(with_zeros, _taps(rows), axis=0)
    by_both = tf.gather(by_row, _taps(columns), axis=2)
    order = tf.transpose(by_both, [0, 2, 5, 1, 3, 4])
    filters, *phases_and_channels = order.shape[2:]
    return tf.reshape(order, [*order.shape[:2], filters, np.prod(phases_and_channels)])


def _taps(axis: Axis) -> np.ndarray:
    """The tap that reads each phase at each offset, int [offsets, phases]; the one behind the last: none."""
    first, last = axis.reach
    taps = np.full((last - first + 1, axis.stride), axis.taps)
    for phase in range(axis.stride):
        for tap, offset in axis.readers(phase):
            taps[offset - first, phase] = tap
    return taps
