"""Integrated gradients: each value's share of what the score gains on the way from a grey image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Output, Parameter
from saliency_exporter.methods.model import Model, chosen_class
from saliency_exporter.methods.quadrature import gauss_legendre
from saliency_exporter.methods.sampling import Step, as_rows, by_example, over_samples, samples_at_once

_TINY = float(np.finfo(np.float32).tiny)
"""Stands for a gain of 0, so that 0 over it is 0."""


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """(x − x′) ⊙ ∫₀¹ ∂S_c/∂x (x′ + α (x − x′)) dα, by a Gauss–Legendre rule of `num_steps` nodes.

    x′ is the model input of an image that is `baseline` everywhere. The class is that of x, all the way.
    """
    start = tf.ensure_shape(model.grey(parameters["baseline"]), x.shape)
    # Both ends in one pass, so that the model is in the graph once for them.
    both = model.scores(tf.ensure_shape(tf.concat([x, start], 0), x.shape))
    scores, start_scores = tf.split(both, 2)
    class_index = chosen_class(scores, parameters[CLASS_INDEX])
    way = x - start
    attributions = way * _mean_gradient(model, start, way, class_index, parameters["num_steps"])
    start_score = tf.gather(start_scores, class_index, batch_dims=1)
    gain = tf.gather(scores, class_index, batch_dims=1) - start_score
    total = tf.reduce_sum(attributions, list(range(1, x.shape.rank)))
    error = tf.abs(total - gain) / tf.maximum(tf.abs(gain), _TINY)
    outputs = {"completeness_error": error, "baseline_score": start_score}
    return Explained(attributions, scores, class_index, outputs)


def _mean_gradient(
    model: Model, start: tf.Tensor, way: tf.Tensor, class_index: tf.Tensor, steps: tf.Tensor
) -> tf.Tensor:
    """The mean of the class score's gradient on the straight way, float32 [B, …].

    Args:
        model: the model.
        start: where the way begins, float32 [B, …].
        way: from there to its end, float32 [B, …].
        class_index: int32 [B].
        steps: int32 [B], nodes of each example's rule.
    """
    at_once = samples_at_once(tf.shape(start)[0], model.images_at_once)
    starts, ways, classes, counts = (as_rows(part, at_once) for part in (start, way, class_index, steps))
    per_row = (-1,) + (1,) * (start.shape.rank - 1)

    def step(step: Step, mean: tf.Tensor) -> tuple[tf.Tensor]:
        node, weight = gauss_legendre(counts, step.sample)
        gradient = model.gradient(starts + tf.reshape(node, per_row) * ways, classes)
        weight *= tf.reshape(tf.cast(step.active, tf.float32), [-1])
        return (mean + tf.reduce_sum(by_example(gradient * tf.reshape(weight, per_row), at_once), axis=1),)

    (mean,) = over_samples(steps, at_once, step, (tf.zeros_like(start),))
    return mean


METHOD = Method(
    name="integrated_gradients",
    kind="attribution",
    summary="Integrated gradients: the gradients on the straight way from a grey image, times that way",
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
            help="number of gradients on the way, at the nodes of a Gauss–Legendre rule",
        ),
        Parameter(
            "baseline",
            "float32",
            default=0,
            examples=(4.0, 16.0),
            help="grey level of the image where the way begins, in the unit of `images`",
        ),
    ),
    outputs=(
        Output(
            "completeness_error",
            per="example",
            help="how far the attributions' sum is from what the score gains on the way, over that gain",
            verified=False,
        ),
        Output("baseline_score", per="example", help="the class's score of the grey image"),
    ),
)
