"""Gradient × input: what each value of the model input gives to the score, were the score linear."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method
from saliency_exporter.methods.model import Model


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """The product x ⊙ ∂S_c/∂x."""
    gradients, scores, class_index = model.gradients(x, parameters[CLASS_INDEX])
    return Explained(x * gradients, scores, class_index)


METHOD = Method(
    name="gradient_x_input",
    kind="attribution",
    summary="The model input times the gradient of the class score",
    source="Shrikumar et al. 2016, arXiv 1605.01713, section 3.2",
    explain=explain,
)
