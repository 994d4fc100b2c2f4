"""Gradients of a class score with respect to the model input."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method
from saliency_exporter.methods.model import Model


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """The gradient ∂S_c/∂x of the class's unnormalized score."""
    return Explained(*model.gradients(x, parameters[CLASS_INDEX]))


METHOD = Method(
    name="gradients",
    kind="sensitivity",
    summary="The gradient of the class score with respect to the model input",
    source="Simonyan, Vedaldi, Zisserman 2013, arXiv 1312.6034, section 3",
    explain=explain,
)
