"""The way back through a strided convolution as one convolution of the signal without strides.

All inputs of one phase (equal modulo the stride) are read through the same taps, so the phases are channels
of the result. The kernel has the taps of every phase, filled up with zeros where a phase has fewer; W. Shi et
al., Is the deconvolution layer the same as a convolutional layer?, arXiv 1609.07009, shows the equality.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from saliency_exporter.graph.windows import Axis


def signal_padding(axis: Axis) -> tuple[int, int]:
    """Zeros in front of and behind the signal, so that every reader of every phase finds its output.

    Negative where outputs at that end are read by no phase at all.
    """
    first, last = axis.reach
    return -first, axis.phase_size - 1 + last - (axis.outputs - 1)


def kernel_of_phases(kernel: tf.Tensor, rows: Axis, columns: Axis, groups: int = 1) -> tf.Tensor:
    """The kernel of the way back, [row offsets, column offsets, filters / groups, groups · phases · C].

    Args:
        kernel: [taps, taps, C, filters], with C the channels of one group.
        rows: the window along the height.
        columns: the window along the width.
        groups: number of groups of channels that do not see each other.
    """
    *taps, channels, filters = kernel.shape
    apart = tf.reshape(kernel, [*taps, channels, groups, filters // groups])
    with_zeros = tf.pad(apart, [(0, 1), (0, 1), (0, 0), (0, 0), (0, 0)])
    by_row = tf.gather(with_zeros, _taps(rows), axis=0)
    by_both = tf.gather(by_row, _taps(columns), axis=2)
    order = tf.transpose(by_both, [0, 2, 6, 5, 1, 3, 4])
    row_offsets, column_offsets, out_of_group, *rest = order.shape
    return tf.reshape(order, [row_offsets, column_offsets, out_of_group, np.prod(rest)])


def put_together(phases: tf.Tensor, rows: Axis, columns: Axis, groups: int = 1) -> tf.Tensor:
    """The signal at the input, [B, H, W, groups · C], from [B, rows, columns, groups · phases · C]."""
    strides = rows.stride, columns.stride
    channels = phases.shape[-1] // (groups * strides[0] * strides[1])
    whole = [
        -1,
        rows.phase_size * strides[0],
        columns.phase_size * strides[1],
        groups * channels,
    ]
    if groups == 1:
        apart = [-1, rows.phase_size, columns.phase_size, strides[0], strides[1] * channels]
        lines = tf.transpose(tf.reshape(phases, apart), [0, 1, 3, 2, 4])
    else:
        apart = [-1, rows.phase_size, columns.phase_size, groups, *strides, channels]
        lines = tf.transpose(tf.reshape(phases, apart), [0, 1, 4, 2, 5, 3, 6])
    return tf.reshape(lines, whole)[:, : rows.size, : columns.size]


def _taps(axis: Axis) -> np.ndarray:
    """The tap that reads each phase at each offset, int [offsets, phases]; the one behind the last: none."""
    first, last = axis.reach
    taps = np.full((last - first + 1, axis.stride), axis.taps)
    for phase in range(axis.stride):
        for tap, offset in axis.readers(phase):
            taps[offset - first, phase] = tap
    return taps
