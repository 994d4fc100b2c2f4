"""LayerCAM: features weighted by the positive part of the class score's gradient, place by place."""

from __future__ import annotations

import tensorflow as tf

from saliency_exporter.methods.cams import explain_by, facts
from saliency_exporter.methods.declarations import Method
from saliency_exporter.methods.model import Features


def cam(features: Features) -> tf.Tensor:
    """Σ_k relu(∂S_c/∂A_k) ⊙ A_k, [B, *grid]."""
    return tf.reduce_sum(tf.nn.relu(features.gradients) * features.values, axis=-1)


METHOD = Method(
    name="layer_cam",
    kind="localisation",
    summary="LayerCAM: features weighted by the positive gradients of the class score, place by place; also "
    "for earlier layers",
    source="Jiang et al. 2021, IEEE TIP 30, LayerCAM, section III",
    explain=explain_by(cam),
    facts=facts,
    needs_features=True,
)
