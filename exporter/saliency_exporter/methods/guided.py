"""Guided backpropagation."""

from __future__ import annotations

import tensorflow as tf

from .gradients import Gradients, ScoreFunction, gradients


def guided(guided_score_function: ScoreFunction, x: tf.Tensor, class_index: tf.Tensor) -> Gradients:
    """The guided signal: gradients in which every rectifier also blocks what is negative on the way back.

    Source: Springenberg et al. 2014, arXiv 1412.6806, section 3.4. The masks live in the score function, a
    replay of the model under `rules.guided`; its scores are those of the model itself. The maps hardly
    depend on a model's upper layers (Adebayo et al. 2018, arXiv 1810.03292; Sixt et al. 2019, arXiv
    1912.09818): they show edges that the lower layers respond to, and are no evidence of what made the
    model choose the class.

    Args:
        guided_score_function: the model, replayed under the guided rules.
        x: model input, float32 [B, H, W, C].
        class_index: int32 [B]; −1 is the class with the highest score.
    """
    return gradients(guided_score_function, x, class_index)
