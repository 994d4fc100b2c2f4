"""3×3 convolution by minimal filtering, F(2×2, 3×3): 16 products for each 4 outputs of a channel, not 36.

Tiles d of 4×4 inputs that overlap by two give 2×2 outputs, Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, where the product
⊙ is a matrix product over the channels (A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural
Networks, CVPR 2016, equations 7 and 8; S. Winograd, Arithmetic Complexity of Computations, 1980). Bᵀ and
Aᵀ only add and subtract, and G halves, so float32 stays float32: against float64, the error of a
convolution over 256 to 512 channels is 3e-7 to 7e-7 of its norm, where the direct ways have 2e-7 to 6e-7.

The input gradient is the same convolution with the kernel turned and its channels exchanged. The transform of
a turned kernel has its first and last rows, and columns, exchanged: so a call computes it once for both ways.

All tiles together are four times as large as the picture, before and behind the product. An infinity in the
picture makes all outputs of its tiles NaN, not only those that read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.nodes import is_plain_convolution
from saliency_exporter.graph.windows import axes
from saliency_exporter.rules.lowering.thresholds import XLA_MINIMAL, Minimal

_BT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
_AT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
_TURNED = [3, 1, 2, 0]

_DTYPES = frozenset({tf.float32, tf.float64})
"""Of fewer bits, the sums before the product would cost accuracy."""


def winograd(
    node: NodeDef, inputs: Sequence[tf.Tensor], *, worth: Minimal = XLA_MINIMAL
) -> list[tf.Tensor] | None:
    """Conv2D of 3×3 taps with many channels, no strides, and padding that keeps the picture's size.

    Inputs: images [B, H, W, C], kernel [3, 3, C, filters]. None (import the op as it is) for other
    convolutions, where it is not worth it or would take much memory, for groups, NCHW, unknown shapes, fewer
    than 32 bits and kernels that are not weights.

    Args:
        node: the Conv2D.
        inputs: its data inputs.
        worth: from which sizes on it is worth it, and up to which its tiles may grow.
    """
    x, kernel = inputs
    if x.dtype not in _DTYPES or not is_plain_convolution(node, inputs):
        return None
    *taps, channels, filters = kernel.shape
    height, width = x.shape[1:3]
    if taps != [3, 3] or channels != x.shape[3]:
        return None
    for axis in axes(node, height, width, (3, 3)):
        if (axis.stride, axis.dilation, axis.before, axis.outputs) != (1, 1, 1, axis.size):
            return None
    # Products are saved for each channel of each filter, sums cost for each channel; the kernel is
    # transformed once for a batch, however small the picture.
    each_way = channels * filters / (channels + filters)
    if each_way < worth.channels or height * width * each_way < worth.values:
        return None
    if height * width * max(channels, filters) > worth.most_values:
        return None
    transformed = _transformed(_G, tf.reshape(kernel, [9, channels, filters]))

    def convolve(x: tf.Tensor, turned: bool) -> tf.Tensor:
        order = _TURNED if turned else [0, 1, 2, 3]
        data = _transformed(_BT[order], _tiles(x))
        products = tf.matmul(data, transformed, transpose_b=turned)
        return _put_together(_transformed(_AT[:, order], products), height, width)

    @tf.custom_gradient
    def convolution(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return convolve(x, turned=False), lambda dy: convolve(dy, turned=True)

    return [convolution(x)]


def _tiles(x: tf.Tensor) -> tf.Tensor:
    """The elements of all 4×4 tiles of [B, H, W, C], row-major: [16, B, ⌈H/2⌉, ⌈W/2⌉, C]."""
    height, width, channels = x.shape[1:]
    down, right = -(-height // 2), -(-width // 2)
    padded = tf.pad(x, [(0, 0), (1, 2 * down + 1 - height), (1, 2 * right + 1 - width), (0, 0)])
    pairs = tf.reshape(padded, [-1, down + 1, 2, right + 1, 2, channels])
    return tf.stack(
        [
            pairs[:, i // 2 : i // 2 + down, i % 2, j // 2 : j // 2 + right, j % 2]
            for i, j in product(range(4), repeat=2)
        ]
    )


def _transformed(matrix: np.ndarray, square: tf.Tensor) -> tf.Tensor:
    """M S Mᵀ for a square S of n·n tensors, [n·n, …, C]: [m·m, T, C], as one product."""
    both = tf.constant(np.kron(matrix, matrix), square.dtype)
    sums = tf.matmul(both, tf.reshape(square, [both.shape[1], -1]))
    return tf.reshape(sums, [both.shape[0], -1, square.shape[-1]])


def _put_together(outputs: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The picture [B, H, W, filters] from the four outputs of each tile, [4, tiles, filters]."""
    down, right, filters = -(-height // 2), -(-width // 2), outputs.shape[-1]
    by_tile = tf.reshape(outputs, [2, 2, -1, down, right, filters])
    whole = tf.reshape(tf.transpose(by_tile, [2, 3, 0, 4, 1, 5]), [-1, 2 * down, 2 * right, filters])
    return whole[:, :height, :width]
