"""Products with a transposed weight, which input gradients are made of."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from saliency_exporter.graph.windows import once
from saliency_exporter.rules.lowering.thresholds import XLA_DENSE_WEIGHTS_PER_ROW


def product(x: tf.Tensor, weight: tf.Tensor, rows_per_example: int) -> tf.Tensor:
    """The product x @ weight, [N, C] @ [C, filters], whose gradient with respect to x is fast too."""

    @tf.custom_gradient
    def multiply(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            # XLA reads a transposed right-hand side against the order of its memory: with a large weight
            # and few rows that takes up to eight times as long as the arithmetic.
            return if_few_rows(
                dy,
                rows_per_example,
                weight.shape.num_elements() // XLA_DENSE_WEIGHTS_PER_ROW,
                lambda: times_transposed(dy, weight),
                lambda: tf.matmul(dy, weight, transpose_b=True),
            )

        return tf.matmul(x, weight), gradient

    return multiply(x)


def times_transposed(dy: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """The product dy @ weightᵀ as (weight @ dyᵀ)ᵀ, which reads the weight in the order of its memory."""
    # Without `once` XLA would fold the outer transposition back into the product.
    return tf.transpose(once(tf.matmul(weight, dy, transpose_b=True)))


def if_few_rows(
    dy: tf.Tensor,
    rows_per_example: int,
    most: int,
    few: Callable[[], tf.Tensor],
    many: Callable[[], tf.Tensor],
) -> tf.Tensor:
    """The result of few() where dy, [B · rows_per_example, filters], has at most `most` rows, else of many().

    XLA knows the batch size when it compiles, so no condition is left in the compiled code.
    """
    if most < rows_per_example:
        return many()
    if dy.shape[0] is not None:
        return few() if dy.shape[0] <= most else many()
    return tf.cond(tf.shape(dy)[0] <= most, few, many)
