"""The head of a classifier: the function that makes probabilities of its class scores."""

from __future__ import annotations

from dataclasses import replace

from saliency_exporter.graph.forward_graph import ForwardGraph, Head, node_name, tensor_name

_HEADS: dict[str, Head] = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
# What may stand between the last activation and the model's output without changing the classes.
_HEAD_TRANSPARENT_OPS = frozenset({"Cast", "EnsureShape"})


def find_head(graph: ForwardGraph) -> ForwardGraph:
    """Takes the input of a final softmax or sigmoid as the scores (Simonyan et al. 2013)."""
    nodes = graph.node_map()
    name = graph.scores
    while (node := nodes.get(node_name(name))) is not None and node.op in _HEAD_TRANSPARENT_OPS:
        name = tensor_name(node.input[0])
    if node is not None and node.op in _HEADS:
        return replace(graph, scores=tensor_name(node.input[0]), head=_HEADS[node.op], head_assumed=False)
    return graph
