"""Integrated gradients: each value's share of what the score gains on the way from a gray image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Output, Parameter
from saliency_exporter.methods.model import Model, chosen_class
from saliency_exporter.methods.quadrature import node
from saliency_exporter.methods.sampling import as_rows, by_example, samples_at_once

_TINY = float(np.finfo(np.float32).tiny)
"""Stands for a gain of 0, so that 0 over it is 0."""

_LEAST_CELLS = 10
"""Of the first level of a rule that grows.

So many at least, because less says little, and fewer than twice as many. A step of the loop takes no more
nodes than that, so it never goes beyond the ends of two levels."""

_LEVELS = 26
"""A rule of int32 nodes has no more."""


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """(x − x′) ⊙ ∫₀¹ ∂S_c/∂x (x′ + α (x − x′)) dα, by a rule of up to `num_steps` nodes.

    x′ is the model input of an image that is `baseline` everywhere. The class is that of x, all the way.
    """
    start = tf.ensure_shape(model.gray(parameters["baseline"]), x.shape)
    # Both ends in one pass, so that the model is in the graph once for them.
    both = model.scores(tf.ensure_shape(tf.concat([x, start], 0), x.shape))
    scores, start_scores = tf.split(both, 2)
    class_index = chosen_class(scores, parameters[CLASS_INDEX])
    start_score = tf.gather(start_scores, class_index, batch_dims=1)
    gain = tf.gather(scores, class_index, batch_dims=1) - start_score
    steps, target = parameters["num_steps"], parameters["target_error"]
    attributions, used = _attributions(model, start, x - start, class_index, gain, steps, target)
    error = tf.abs(_total(attributions) - gain) / tf.maximum(tf.abs(gain), _TINY)
    outputs = {"completeness_error": error, "baseline_score": start_score, "steps_used": used}
    return Explained(attributions, scores, class_index, outputs)


def _attributions(
    model: Model,
    start: tf.Tensor,
    way: tf.Tensor,
    class_index: tf.Tensor,
    gain: tf.Tensor,
    steps: tf.Tensor,
    target: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The way times the mean of the class score's gradient on it, and of how many gradients that is.

    An example's nodes, and where it ends, depend on nothing but the example.

    Args:
        model: the model.
        start: where the way begins, float32 [B, …].
        way: from there to its end, float32 [B, …].
        class_index: int32 [B].
        gain: of the score on the way, float32 [B].
        steps: int32 [B], nodes of each example's rule at most.
        target: float32 [B], at which error an example is done; 0 for none.

    Returns:
        float32 [B, …], and int32 [B].
    """
    at_once = tf.minimum(samples_at_once(tf.shape(start)[0], model.images_at_once), _LEAST_CELLS)
    cells, steps = _rule(steps, target)
    starts, ways, classes, row_cells = (as_rows(part, at_once) for part in (start, way, class_index, cells))
    per_example = (-1,) + (1,) * (start.shape.rank - 1)

    def weighted(gradients: tf.Tensor, weights: tf.Tensor, which: tf.Tensor) -> tf.Tensor:
        """The sum over those of a step's nodes that count; the others' gradients are finite as well."""
        rows = tf.reshape(weights * tf.reshape(tf.cast(which, tf.float32), [-1]), per_example)
        return tf.reduce_sum(by_example(gradients * rows, at_once), axis=1)

    def body(
        first: tf.Tensor, level: tf.Tensor, steps: tf.Tensor, total: tf.Tensor, before: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """`level` is where each example's level ends, and `before` the total where the last one ended."""
        each = first + tf.range(at_once)
        number = tf.reshape(tf.minimum(each, steps[:, tf.newaxis] - 1), [-1])
        nodes, weights = node(row_cells, number)
        gradients = model.gradient(starts + tf.reshape(nodes, per_example) * ways, classes)
        asked, ends = each < steps[:, tf.newaxis], level[:, tf.newaxis]
        at_end = total + weighted(gradients, weights, asked & (each < ends))
        beyond = weighted(gradients, weights, asked & (each >= ends))
        arrived = (level <= first + at_once) & (level < steps)
        # An end takes passes over the memory, so it is looked at where there is one.
        done = arrived & tf.cond(
            tf.reduce_any(arrived & (target > 0.0)),
            lambda: _settled(way, gain, at_end, before, level, cells, target),
            lambda: tf.zeros_like(arrived),
        )
        total = at_end + tf.where(tf.reshape(done, per_example), 0.0, beyond)
        before = tf.where(tf.reshape(arrived, per_example), at_end, before)
        steps = tf.where(done, level, steps)
        level = tf.where(arrived, 2 * level, level)
        return first + at_once, level, steps, total, before

    nothing = tf.zeros_like(start)
    _, _, used, total, _ = tf.while_loop(
        lambda first, level, steps, *_: first < tf.reduce_max(steps),
        lambda *state: tuple(
            tf.ensure_shape(new, old.shape) for new, old in zip(body(*state), state, strict=True)
        ),
        (tf.constant(0), cells, steps, nothing, nothing),
        parallel_iterations=1,
    )
    return way * _mean(total, used, cells), used


def _rule(steps: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cells and nodes of each example's rule, int32 [B] each.

    Without a target that is the midpoint rule of `steps` cells. With one, it has as many levels as leave
    `_LEAST_CELLS` to the first, and the last of them ends at `steps` or, by less than a tenth of it, before.
    """
    doublings = tf.constant([2**exponent for exponent in range(_LEVELS)])
    fits = (steps[:, tf.newaxis] // doublings >= _LEAST_CELLS) & (target > 0.0)[:, tf.newaxis]
    most = tf.reduce_max(tf.where(fits, doublings, 1), axis=1)
    cells = steps // most
    return cells, cells * most


def _settled(
    way: tf.Tensor,
    gain: tf.Tensor,
    total: tf.Tensor,
    before: tf.Tensor,
    level: tf.Tensor,
    cells: tf.Tensor,
    target: tf.Tensor,
) -> tf.Tensor:
    """Whether an example is done with the level whose end it has come to, bool [B].

    The sum alone would tell little: it is one number, and comes near to the gain by accident on a way of ten
    nodes. So the map has to stand still as well. Where the gradient moves like a random walk, the change
    from a level to one of twice as many nodes is √3 times what the latter is off by; where the gradient is
    smooth, it is 3 times that. Both together hold at the second level at the earliest.
    """
    here = way * _mean(total, level, cells)
    last = way * _mean(before, level // 2, cells)
    complete = tf.abs(_total(here) - gain) <= target * tf.abs(gain)
    still = _squares(here - last) <= 3.0 * tf.square(target) * _squares(here)
    return (target > 0.0) & (level > cells) & complete & still


def _mean(total: tf.Tensor, nodes: tf.Tensor, cells: tf.Tensor) -> tf.Tensor:
    """What a level's weighted sum is a mean of: cells · 2^k nodes have weights that add up to 2^k."""
    doublings = tf.cast(tf.maximum(nodes // cells, 1), tf.float32)
    return total / tf.reshape(doublings, (-1,) + (1,) * (total.shape.rank - 1))


def _total(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, list(range(1, values.shape.rank)))


def _squares(values: tf.Tensor) -> tf.Tensor:
    return _total(tf.square(values))


METHOD = Method(
    name="integrated_gradients",
    kind="attribution",
    summary="Integrated gradients: the gradients on the straight way from a gray image, times that way",
    source="Sundararajan, Taly, Yan 2017, arXiv 1703.01365, section 3",
    explain=explain,
    parameters=(
        Parameter(
            "num_steps",
            "int32",
            default=50,
            examples=(2, 3),
            low=1,
            high="max_samples",
            help="number of gradients on the way, denser near the gray image; the most, with target_error",
        ),
        Parameter(
            "baseline",
            "float32",
            default=0,
            examples=(4.0, 16.0),
            pixel=True,
            help="gray level of the image where the way begins, in the unit of `images`",
        ),
        Parameter(
            "target_error",
            "float32",
            default=0,
            examples=(0.5, 0.25),
            low=0,
            help="an image is done as soon as its completeness error and the estimated error of its map are "
            "at most this, which is considered from 20 steps on; 0 for all steps",
        ),
    ),
    outputs=(
        Output(
            "completeness_error",
            per="example",
            help="how far the attributions' sum is from what the score gains on the way, over that gain",
            verified=False,
        ),
        Output("baseline_score", per="example", help="the class's score of the gray image"),
        Output(
            "steps_used",
            per="example",
            dtype="int32",
            help="of how many gradients the attributions are made; num_steps, or less with target_error",
        ),
    ),
)
