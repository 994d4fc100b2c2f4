"""Whether a method is defined for a model."""

from __future__ import annotations

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.feature_layers import without_feature_layer
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.methods.declarations import Method


def refusal(method: Method, graph: ForwardGraph, model: str) -> ExportError | None:
    """Why a method is not defined for a model; None where it is.

    Args:
        method: the method.
        graph: the model's.
        model: its name, for messages.
    """
    if method.needs_features and graph.features is None:
        return without_feature_layer(model)
    try:
        method.replacements(graph, model)
    except ExportError as error:
        return error
    return None
