"""What the methods of the CAM family share: they differ in the cam that they make of features alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.methods.declarations import CLASS_INDEX, Explain, Explained
from saliency_exporter.methods.model import Features, Model


def explain_by(cam: Callable[[Features], tf.Tensor]) -> Explain:
    """The method that explains by a cam, [B, *grid], of the features and the class score's gradient."""

    def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
        features = model.features(x, parameters[CLASS_INDEX])
        return Explained(cam(features), features.scores, features.class_index)

    return explain


def mean_over_places(values: tf.Tensor) -> tf.Tensor:
    """The mean over the grid, [B, *grid, K] to [B, 1, …, 1, K]."""
    return tf.reduce_mean(values, axis=list(range(1, values.shape.rank - 1)), keepdims=True)


def facts(graph: ForwardGraph) -> Mapping[str, Any]:
    """The layer that cams are made of, and the size of its grid."""
    layer = graph.features
    return {} if layer is None else {"layer": layer.name, "size": list(layer.sizes)}
