"""A method in a package of its own, as a user would add one; test_plugin.py follows it."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Output, Parameter
from saliency_exporter.methods.model import Model


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """x · ∂S_c/∂x, times a factor that each example chooses."""
    gradients, scores, class_index = model.gradients(x, parameters[CLASS_INDEX])
    factor = tf.reshape(parameters["factor"], [-1] + [1] * (x.shape.rank - 1))
    attributions = factor * x * gradients
    total = tf.reduce_sum(attributions, axis=list(range(1, x.shape.rank)))
    positive = tf.math.count_nonzero(attributions > 0, axis=list(range(1, x.shape.rank)), dtype=tf.int32)
    return Explained(attributions, scores, class_index, {"total": total, "positive": positive})


METHOD = Method(
    name="gradient_times_input",
    kind="attribution",
    summary="The gradient of the class score times the model input",
    source="Shrikumar et al. 2016, arXiv 1605.01713, section 3.2",
    explain=explain,
    parameters=(
        Parameter(
            "factor",
            "float32",
            default=1.0,
            examples=(0.5, 2.0),
            low=0,
            high=8,
            help="what the attributions are multiplied by",
        ),
    ),
    outputs=(
        Output("total", per="example", help="the sum of the attributions"),
        Output("positive", per="example", help="how many attributions are above 0", dtype="int32"),
    ),
)
