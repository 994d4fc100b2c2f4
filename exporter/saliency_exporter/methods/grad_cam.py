"""Grad-CAM: features weighted by the mean gradient of the class score over each of them."""

from __future__ import annotations

import tensorflow as tf

from saliency_exporter.methods.cams import explain_by, facts, mean_over_places
from saliency_exporter.methods.declarations import Method
from saliency_exporter.methods.model import Features


def cam(features: Features) -> tf.Tensor:
    """Σ_k α_k A_k, before the rectifier, with α_k the mean of ∂S_c/∂A_k over places; [B, *grid]."""
    return tf.reduce_sum(mean_over_places(features.gradients) * features.values, axis=-1)


METHOD = Method(
    name="grad_cam",
    kind="localisation",
    summary="Grad-CAM: the last features, each weighted by the mean gradient of the class score over it",
    source="Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 and 2; `cam` is before the rectifier of eq. 2",
    explain=explain_by(cam),
    facts=facts,
    needs_features=True,
)
