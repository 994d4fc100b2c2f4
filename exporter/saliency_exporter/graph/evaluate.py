"""Values and shapes of tensors of a forward graph that are known before an image is seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import (
    ForwardGraph,
    calls_functions,
    node_name,
    tensor_name,
)
from saliency_exporter.graph.nodes import gives_arrays

# Ops whose output may be far larger than their inputs.
_NEVER_FOLDED = frozenset({"BroadcastTo", "Fill", "Range", "Tile"})


def independent_of_input(graph: ForwardGraph, *, of_any_size: bool = False) -> dict[str, NodeDef]:
    """Nodes that are a deterministic function of weights and constants, by name, in topological order.

    What gives a list of tensors, as loops over time have them, a resource or a string is none: no array can
    stand for it.

    Args:
        graph: the forward graph.
        of_any_size: also those that may be far larger than what they are made of.
    """
    known = set(graph.weights)
    independent: dict[str, NodeDef] = {}
    for node in graph.nodes:
        if (node.op in _NEVER_FOLDED and not of_any_size) or _is_drawn(node.op) or calls_functions(node):
            continue
        if not gives_arrays(node):
            continue
        if (node.input or node.op == "Const") and all(node_name(i) in known for i in node.input):
            known.add(node.name)
            independent[node.name] = node
    return independent


def _is_drawn(op: str) -> bool:
    """Whether an op's numbers are others at every run; a stateless one gives what its seed says."""
    return "Random" in op and not op.startswith("StatelessRandom")


def evaluate(graph: ForwardGraph, nodes: Sequence[NodeDef], fetches: Sequence[str]) -> list[np.ndarray]:
    """The values of tensors of nodes that depend on weights and constants alone."""
    own = {node.name for node in nodes}
    inputs = sorted({tensor_name(i) for node in nodes for i in node.input if node_name(i) not in own})
    graph_def = GraphDef(node=nodes)
    graph_def.versions.producer = graph.producer

    @tf.function(autograph=False)
    def run(*weights: tf.Tensor) -> list[tf.Tensor]:
        return tf.graph_util.import_graph_def(
            graph_def,
            input_map=dict(zip(inputs, weights, strict=True)),
            return_elements=list(fetches),
            name="",
        )

    with tf.device("/CPU:0"):
        weights = [tf.constant(graph.weights[node_name(name)]) for name in inputs]
        # Traced by hand: TensorFlow would warn of functions that are traced once and never again.
        outputs = run.get_concrete_function(*weights)(*weights)
    return [output.numpy() for output in outputs]


@contextmanager
def imported(graph: ForwardGraph, batch: int | None = None) -> Iterator[dict[str, tf.Tensor]]:
    """The graph in a TensorFlow graph of its own, the default one in the block, with open inputs and weights.

    Args:
        graph: what to import.
        batch: the number of examples, where it is given.

    Yields:
        every tensor by its name; of input and weights too.
    """
    kept = GraphDef(node=[node for node in graph.nodes if node.name != graph.input])
    kept.versions.producer = graph.producer
    kept.library.CopyFrom(graph.library.library)
    names = [node.name for node in kept.node]
    with tf.Graph().as_default():
        given = {f"{graph.input}:0": tf.compat.v1.placeholder(tf.float32, (batch, *graph.input_shape))}
        for name, weight in graph.weights.items():
            given[f"{name}:0"] = tf.compat.v1.placeholder(weight.dtype, weight.shape)
        read = {tensor_name(name) for node in kept.node for name in node.input}
        operations = tf.graph_util.import_graph_def(
            kept,
            input_map={name: tensor for name, tensor in given.items() if name in read},
            return_elements=names,
            name="",
        )
        tensors = dict(given)
        for name, operation in zip(names, operations, strict=True):
            tensors |= {f"{name}:{index}": output for index, output in enumerate(operation.outputs)}
        yield tensors


def static_shapes(graph: ForwardGraph, batch: int | None = None) -> dict[str, list[int | None]]:
    """The shape of every tensor whose rank is known without running, by its name; of input and weights too.

    A size that is not known is None; so is what grows with the batch, where no size of it is given.
    """
    with imported(graph, batch) as tensors:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return {name: shape.as_list() for name, shape in shapes.items() if shape.rank is not None}
