"""Matrix products with a weight, whose input gradient XLA computes as fast as the product itself."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from ._windows import once

_LARGE = 4096
"""Weights per row of the product from which packing them outweighs transposing the result (measured)."""


def product(x: tf.Tensor, weight: tf.Tensor, rows_per_example: int) -> tf.Tensor:
    """The product x @ weight, [N, C] @ [C, filters], with its own gradient with respect to x.

    The gradient is dy · weightᵀ. XLA's product reads a transposed right-hand side against the order of its
    memory, which for a large weight and few rows takes up to eight times as long as the arithmetic.
    (weight · dyᵀ)ᵀ reads it in order and transposes only the result.
    """
    large = weight.shape.num_elements() >= _LARGE * rows_per_example

    @tf.custom_gradient
    def multiply(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            if large:
                # Seen through, the outer transposition would be folded back into the product.
                return tf.transpose(once(tf.matmul(weight, dy, transpose_b=True)))
            return tf.matmul(dy, weight, transpose_b=True)

        return tf.matmul(x, weight), gradient

    return multiply(x)
