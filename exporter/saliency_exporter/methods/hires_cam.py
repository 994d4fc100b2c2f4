"""HiResCAM: features times the class score's gradient, place by place."""

from __future__ import annotations

import tensorflow as tf

from saliency_exporter.methods.cams import explain_by, facts
from saliency_exporter.methods.declarations import Method
from saliency_exporter.methods.model import Features


def cam(features: Features) -> tf.Tensor:
    """Σ_k ∂S_c/∂A_k ⊙ A_k, [B, *grid].

    Where the scores are linear in the features, as behind global average pooling and one dense layer, the sum
    over places is the score less its bias.
    """
    return tf.reduce_sum(features.gradients * features.values, axis=-1)


METHOD = Method(
    name="hires_cam",
    kind="localisation",
    summary="HiResCAM: the last features times the gradient of the class score, place by place",
    source="Draelos and Carin 2020, arXiv 2011.08891, section 3",
    explain=explain_by(cam),
    facts=facts,
    needs_features=True,
)
