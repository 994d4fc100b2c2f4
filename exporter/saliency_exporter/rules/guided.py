"""The guided rule: what every rectifier does to the signal on its way back."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from saliency_exporter.graph.activations.find import Activation, Coverage
from saliency_exporter.graph.forward_graph import Replacement, ReplacementRule


def guided_replacements(coverage: Coverage) -> list[Replacement]:
    """A replacement for every rectifier of a model."""
    return [
        Replacement(activation.nodes, activation.input, activation.output, guided_rule(activation))
        for activation in coverage.rectifiers
    ]


def guided_rule(activation: Activation) -> ReplacementRule:
    """The guided rule of a rectifier f: dx = f'(x) · dy where x is in its passing region and dy > 0, else 0.

    The passing region is threshold < x < max_value. For a ReLU this is the rule of Springenberg et al. 2014
    (arXiv 1412.6806, section 3.4, f' = 1 there); for smooth rectifiers (swish, GELU, …) its extension by the
    true derivative. The forward ops are the activation's own.
    """

    def rule(x: tf.Tensor, forward: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        @tf.custom_gradient
        def guided(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            y = forward(x)

            def backward(dy: tf.Tensor) -> tf.Tensor:
                signal = tf.nn.relu(dy)
                if not activation.passes_unchanged:
                    (signal,) = tf.gradients(y, x, signal)
                # Nothing but the activation should read x where y tells the same: uncompiled, the convolution
                # before a ReLU then computes both at once.
                told_by = y if activation.kind in ("relu", "relu6") else x
                # Of a model of mixed precision the signal may have another dtype than the activation.
                return tf.cast(_where_passing(activation, told_by, tf.cast(signal, told_by.dtype)), x.dtype)

            return y, backward

        return guided(x)

    return rule


def _where_passing(activation: Activation, x: tf.Tensor, signal: tf.Tensor) -> tf.Tensor:
    """The signal where threshold < x < max_value, else 0."""
    # One op where TensorFlow has it: uncompiled, each comparison and selection is a pass over the memory.
    bounds = (activation.threshold, activation.upper)
    if bounds == (0, math.inf):
        return tf.raw_ops.ReluGrad(gradients=signal, features=x)
    if bounds == (0, 6):
        return tf.raw_ops.Relu6Grad(gradients=signal, features=x)
    passing = x > tf.cast(activation.threshold, x.dtype)
    if math.isfinite(activation.upper):
        passing &= x < tf.cast(activation.upper, x.dtype)
    return tf.where(passing, signal, tf.zeros_like(signal))
