"""A rule for the integral from 0 to 1 whose nodes are dense near 0, and which grows without a node lost.

The way is cut into `cells` that end at (i / cells)², i = 1 … cells. The first `cells` nodes are the middles
of these: the midpoint rule. The next `cells` are their ends: the mean of both is the trapezoid rule of the
halves. From there on, each level has the middles of all that the last one's nodes cut the cells into, as
many as there are nodes already. So the first cells · 2^k nodes are a rule for each k, whose weights are those
given here over 2^k.

Squares, because the gradient of a classifier changes most where the way leaves a gray image. Its changes look
like a random walk: the error of a rule goes as one over the number of its nodes whatever its order, and what
counts is how close nodes are where the walk is fast (tests/benchmarks/results has the measurements). Each
rule's weights add up to 1, and what is linear along the way is integrated exactly.
"""

from __future__ import annotations

import tensorflow as tf

_POWERS = tuple(2**exponent for exponent in range(31))


def node(cells: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """One of the nodes, in (0, 1], and its weight.

    Args:
        cells: int32, ≥ 1; for a number of `cells` or more, ≥ 2.
        number: int32 of the same shape, ≥ 0: which node, in the order in which levels add them.

    Returns:
        Node and weight, float32 of that shape. The weights of the first cells · 2^k nodes add up to 2^k.
    """
    # Of each level but the second, the nodes are the middles of `parts` equal parts of each cell.
    powers = tf.constant(_POWERS)
    parts = tf.reduce_max(tf.where(powers <= (number // cells)[..., tf.newaxis], powers, 1), axis=-1)
    place = tf.where(number < cells, number, number - cells * parts)
    cell, part = (tf.cast(value, tf.float64) for value in (place // parts, place % parts))
    count, of_parts = tf.cast(cells, tf.float64), tf.cast(parts, tf.float64)
    width = 2.0 * cell + 1.0
    middle = cell * cell + width * (part + 0.5) / of_parts
    end = tf.square(cell + 1.0)
    # Half of both cells that meet there. The gradient at 0 is the one that the first two ends point to in a
    # straight line: 4/3 and −1/3 of theirs, so a node of almost no weight is saved.
    meeting = tf.where(place == cells - 1, count - 0.5, 2.0 * cell + 2.0)
    meeting += tf.cast(place == 0, tf.float64) * (2.0 / 3.0) - tf.cast(place == 1, tf.float64) / 6.0
    at_ends = (number >= cells) & (number < 2 * cells)
    nodes = tf.where(at_ends, end, middle) / (count * count)
    weights = tf.where(at_ends, meeting, width) / (count * count)
    return tf.cast(nodes, tf.float32), tf.cast(weights, tf.float32)
