"""Grad-CAM++: features weighted by positive gradients, which second and third derivatives weigh in turn."""

from __future__ import annotations

import tensorflow as tf

from saliency_exporter.methods.cams import explain_by, facts
from saliency_exporter.methods.declarations import Method
from saliency_exporter.methods.model import Features


def cam(features: Features) -> tf.Tensor:
    """Σ_k w_k A_k, [B, *grid], with w_k = Σ α_k relu(g_k) over places and α_k = g_k² / (2 g_k² + g_k³ Σ A_k).

    g is ∂S_c/∂A; the derivatives are those of exp(S_c) where S_c is piecewise linear in A, so that exp(S_c)
    cancels. α is written as 1 / (2 + g Σ A), and is 0 where that is no number: the gradients of one class
    score are small, and a constant added to a denominator of their squares, as elsewhere, would decide the
    map.
    """
    places = list(range(1, features.values.shape.rank - 1))
    gradients = features.gradients
    total = tf.reduce_sum(features.values, axis=places, keepdims=True)
    alpha = tf.math.divide_no_nan(1.0, 2.0 + gradients * total)
    weights = tf.reduce_sum(alpha * tf.nn.relu(gradients), axis=places, keepdims=True)
    return tf.reduce_sum(weights * features.values, axis=-1)


METHOD = Method(
    name="grad_cam_plus_plus",
    kind="localisation",
    summary="Grad-CAM++: as Grad-CAM, with weights by which several places of one object count alike",
    source="Chattopadhyay et al. 2018, arXiv 1710.11063, eq. 5, 6 and 19",
    explain=explain_by(cam),
    facts=facts,
    needs_features=True,
)
