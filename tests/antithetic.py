"""SmoothGrad's noise as the contract has it: pairs of opposite sign, written out beside the library's."""

from __future__ import annotations

import tensorflow as tf

from saliency_exporter.methods.noise import standard_normal


def antithetic_normal(seed: tf.Tensor, sample: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Noise of samples 2k and 2k + 1: that of (seed, k), and the same with the other sign."""
    sign = tf.where(sample % 2 == 0, 1.0, -1.0)
    return tf.reshape(sign, (-1,) + (1,) * len(shape)) * standard_normal(seed, sample // 2, shape)
