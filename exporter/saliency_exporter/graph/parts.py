"""A part of a forward graph on its own: what a tensor depends on, and its values where others are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import ForwardGraph, calls_functions, node_name, tensor_name

SHAPE_OPS = frozenset({"Rank", "Shape", "ShapeN", "Size"})
"""Ops that read the shape of a tensor and none of its values."""


def without_values(graph: ForwardGraph, *, weights: bool = True) -> set[str]:
    """Names of the nodes that no value of the input changes: only its shape may.

    Args:
        graph: the graph.
        weights: whether to count what is made of weights; if not, constants and shapes alone.
    """
    known = set(graph.weights) if weights else set()
    for node in graph.nodes:
        made_of_known = node.input and "Random" not in node.op and {node_name(i) for i in node.input} <= known
        if node.op in SHAPE_OPS or node.op == "Const" or made_of_known:
            known.add(node.name)
    return known


def constant_value(graph: ForwardGraph, nodes: Mapping[str, NodeDef], name: str) -> np.ndarray | None:
    """The value of a tensor that is a constant or a weight; None where it is something else."""
    node = nodes.get(node_name(name))
    if node is None:
        return graph.weights.get(node_name(name))
    return tf.make_ndarray(node.attr["value"].tensor) if node.op == "Const" else None


def specs_of(graph: ForwardGraph, tensors: Iterable[str], batch: int) -> dict[str, tf.TensorSpec]:
    """Shape and dtype of tensors for a batch of a size, by name, as far as they are known without running."""
    names = list(dict.fromkeys(map(tensor_name, tensors)))
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (batch, *graph.input_shape))
        weights = {
            f"{name}:0": tf.compat.v1.placeholder(weight.dtype, weight.shape)
            for name, weight in graph.weights.items()
        }
        found = _imported(graph, names, {f"{graph.input}:0": x, **weights})
        return {
            name: tf.TensorSpec(tensor.shape, tensor.dtype) for name, tensor in zip(names, found, strict=True)
        }


def values_of(
    graph: ForwardGraph, fetches: Sequence[str], given: Mapping[str, np.ndarray], batch: int
) -> list[np.ndarray]:
    """The values of tensors where others are given; the input is zeros unless it is given.

    Args:
        graph: the graph.
        fetches: names of the tensors.
        given: arrays by tensor name; what they depend on is left out.
        batch: number of examples.
    """
    with tf.device("/CPU:0"):
        fed = {f"{graph.input}:0": np.zeros((batch, *graph.input_shape), np.float32), **given}
        fed = {name: tf.constant(value) for name, value in fed.items()}

        @tf.function(autograph=False)
        def run(tensors: Mapping[str, tf.Tensor], weights: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
            return _imported(graph, fetches, {**weights, **tensors})

        read = _needed(graph, fetches, set(fed))[1]
        weights = {
            f"{name}:0": tf.constant(weight) for name, weight in graph.weights.items() if f"{name}:0" in read
        }
        return [value.numpy() for value in run(fed, weights)]


def _needed(graph: ForwardGraph, fetches: Iterable[str], given: set[str]) -> tuple[list[NodeDef], set[str]]:
    """The nodes that tensors are computed by where others are given, and the names of all that they read."""
    nodes = graph.node_map()
    needed: set[str] = set()
    read: set[str] = set()
    stack = [name for name in map(tensor_name, fetches) if name not in given]
    while stack:
        name = node_name(stack.pop())
        if name in needed or name not in nodes:
            continue
        needed.add(name)
        inputs = {tensor_name(i) for i in nodes[name].input}
        read |= inputs
        stack.extend(inputs - given)
    return [node for node in graph.nodes if node.name in needed], read


def _imported(graph: ForwardGraph, fetches: Sequence[str], given: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
    kept, read = _needed(graph, fetches, set(given))
    graph_def = GraphDef(node=kept)
    graph_def.versions.producer = graph.producer
    if any(calls_functions(node) for node in kept):
        graph_def.library.CopyFrom(graph.library.library)
    wanted = [name for name in dict.fromkeys(map(tensor_name, fetches)) if name not in given]
    found = tf.graph_util.import_graph_def(
        graph_def,
        input_map={name: tensor for name, tensor in given.items() if name in read},
        return_elements=wanted,
        name="part",
    )
    tensors = {**given, **dict(zip(wanted, found, strict=True))}
    return [tensors[tensor_name(name)] for name in fetches]
