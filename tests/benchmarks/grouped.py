"""A network of grouped convolutions of `tf.nn.conv2d`, for `lowering.py --models grouped:resnext`.

Keras asks XLA for each of its grouped convolutions, so a Keras model would not show TensorFlow's kernels.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_GROUPS = 32
_STAGES = ((3, 128, 256, 1), (4, 256, 512, 2), (6, 512, 1024, 2), (3, 1024, 2048, 2))
"""Blocks, their inner and their outer channels, and the first block's stride: ResNeXt-50, 32×4d."""


class ResNeXt(tf.Module):
    """ResNeXt-50 (Xie et al. 2017, table 1), random weights, each batch normalization a bias: [N, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        generator = np.random.default_rng(0)

        def weights(*shape: int) -> tf.Variable:
            scale = np.sqrt(2 / np.prod(shape[:-1]))
            return tf.Variable(generator.normal(scale=scale, size=shape).astype(np.float32))

        def layer(size: int, inputs: int, outputs: int, groups: int = 1) -> tuple[tf.Variable, tf.Variable]:
            return weights(size, size, inputs // groups, outputs), tf.Variable(tf.zeros(outputs))

        self.first = layer(7, 3, 64)
        self.blocks = []
        channels = 64
        for blocks, inner, outer, _ in _STAGES:
            for block in range(blocks):
                layers = [layer(1, channels, inner), layer(3, inner, inner, _GROUPS), layer(1, inner, outer)]
                self.blocks.append([*layers, layer(1, channels, outer)] if block == 0 else layers)
                channels = outer
        self.last = layer(1, channels, 1000)

    @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 3], tf.float32)], autograph=False)
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        x = tf.nn.relu(_convolution(images, self.first, 2))
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        blocks = iter(self.blocks)
        for number, _, _, first_stride in _STAGES:
            for stride in (first_stride, *[1] * (number - 1)):
                reduce, grouped, expand, *shortcut = next(blocks)
                y = tf.nn.relu(_convolution(x, reduce))
                y = tf.nn.relu(_convolution(y, grouped, stride))
                around = _convolution(x, shortcut[0], stride) if shortcut else x
                x = tf.nn.relu(_convolution(y, expand) + around)
        kernel, bias = self.last
        return tf.reduce_mean(x, [1, 2]) @ kernel[0, 0] + bias


def _convolution(x: tf.Tensor, layer: tuple[tf.Variable, tf.Variable], stride: int = 1) -> tf.Tensor:
    kernel, bias = layer
    return tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "SAME"), bias)


resnext = ResNeXt()
