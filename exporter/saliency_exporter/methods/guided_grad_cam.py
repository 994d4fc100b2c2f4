"""Guided Grad-CAM: guided backpropagation where Grad-CAM finds the class.

It inherits from guided backpropagation that the fine structure hardly depends on a model's upper layers; what
depends on the class is where Grad-CAM lets it through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.methods import cams, grad_cam, guided
from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Output
from saliency_exporter.methods.enlarge import enlarged
from saliency_exporter.methods.kinds import with_channel_axis
from saliency_exporter.methods.model import Model


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """The guided signal times the rectified and enlarged cam, which every channel is multiplied by."""
    features = model.features(x, parameters[CLASS_INDEX])
    cam = grad_cam.cam(features)
    signal = model.gradient(x, features.class_index)
    where = enlarged(tf.nn.relu(cam), model.sizes)
    product = with_channel_axis(signal, model.sizes) * where[..., tf.newaxis]
    map_ = tf.ensure_shape(tf.reshape(product, tf.shape(x)), x.shape)
    return Explained(map_, features.scores, features.class_index, {"cam": cam})


def facts(graph: ForwardGraph) -> Mapping[str, Any]:
    """Of both parts."""
    return {**guided.facts(graph), **cams.facts(graph)}


METHOD = Method(
    name="guided_grad_cam",
    kind="sensitivity",
    summary="Guided Grad-CAM: guided backpropagation times Grad-CAM, enlarged bilinearly",
    source="Selvaraju et al. 2017, arXiv 1610.02391, section 3.1",
    explain=explain,
    outputs=(Output("cam", per="cell", help="the Grad-CAM that the guided signal is multiplied by"),),
    replacements=guided.replacements,
    facts=facts,
    needs_features=True,
)
