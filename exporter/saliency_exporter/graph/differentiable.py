"""Whether a gradient of the class scores reaches the model input, and where it ends if it does not."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import ops

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.evaluate import imported
from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, tensor_name
from saliency_exporter.graph.gates import is_gate, key_of
from saliency_exporter.graph.integer_input import MOVES
from saliency_exporter.graph.nodes import attribute

_MOST_NAMED = 3
_WHOLE = frozenset(dtype.as_datatype_enum for dtype in (tf.int32, tf.int64, tf.int16, tf.int8, tf.uint8))
_SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank"})
# Registered, to refuse.
_PREVENTING = frozenset({"PreventGradient"})


class NoGradient(ExportError):
    """The class scores of a model have no gradient with respect to its input."""


def refuse_unsaved_gradients(graph: ForwardGraph, name: str) -> None:
    """Refuses a model of which the gradient that its author gave an op was not saved, or cannot be kept.

    Args:
        graph: the forward pass.
        name: the model, for messages.

    Raises:
        NoGradient: the author gave an op on the way from input to scores a gradient that is not at hand, or
            one inside a loop or a branch.
    """
    if graph.lost_gradients:
        raise NoGradient(
            f"{graph.lost_gradients[0]} of {name} has a gradient of its own (tf.custom_gradient) inside a "
            "loop or a branch, where an export loses it",
            hint="unroll the loop (unroll=True of a recurrent layer), or write the op without a gradient of "
            "its own; --methods occlusion,rise need no gradient",
        )
    unsaved = [node for node in path_of(graph) if is_gate(node) and not key_of(node)]
    if unsaved:
        raise NoGradient(
            f"{name} was saved without the gradient that its author gave to {named(unsaved)}",
            hint="export the .keras file or the Python function that makes the model, or save the SavedModel "
            "again with tf.saved_model.SaveOptions(experimental_custom_gradients=True)",
        )


def without_gradient(graph: ForwardGraph, name: str) -> NoGradient:
    """Why a model's scores have no gradient with respect to its input: the error that names the ops.

    Args:
        graph: a forward pass of which TensorFlow gave no gradient.
        name: the model, for messages.
    """
    path = path_of(graph)
    if not path:
        return NoGradient(
            f"the class scores of {name} do not depend on its input",
            hint="is the right output exported? See --output",
        )
    missing = [node for node in path if not _has_gradient(node)]
    ends = [] if missing else _ends(graph, path)
    if missing:
        return NoGradient(
            f"TensorFlow has no gradient for {named(missing)} of {name}",
            hint="export the network without that op; what stands in front of the network can be its "
            "preprocessing (--preprocessing module:function), since gradients are taken behind it",
        )
    message = f"the class scores of {name} have no gradient with respect to its input"
    if looked_up := _look_ups(path, ends):
        return NoGradient(
            f"{message}: it ends at {named(ends)}, whose whole numbers {named(looked_up)} looks up",
            hint="whole numbers have no gradient: export the network behind the look-up, as module:function; "
            "of a Keras model with an embedding that is keras.Model(layer.output, model.outputs)",
        )
    if arithmetic := _on_whole_numbers(graph, path, ends):
        return NoGradient(
            f"{message}: it ends at {named(ends)}, whose whole numbers {named(arithmetic)} computes with",
            hint="whole numbers have no gradient: make floats of the input before anything is computed, "
            "tf.cast(x, tf.float32), or export the network behind that op, as module:function",
        )
    return NoGradient(
        message + (f": it ends at {named(ends)}" if ends else ""),
        hint="export the network without what is not differentiable; the scores have to be computed from "
        "the input by ops on floats",
    )


def _look_ups(path: Sequence[NodeDef], ends: Sequence[NodeDef]) -> list[NodeDef]:
    """The first look-up in a table of weights, where a gradient ends at casts to whole numbers alone.

    For a model of an input of whole numbers the cast is the export's own, and nothing that its author knows.
    """
    if not all(end.op == "Cast" and attribute(end, "DstT").type in _WHOLE for end in ends):
        return []
    on_path = {node.name for node in path}
    return [node for node in path if "Gather" in node.op and node_name(node.input[0]) not in on_path][:1]


def _on_whole_numbers(graph: ForwardGraph, path: Sequence[NodeDef], ends: Sequence[NodeDef]) -> list[NodeDef]:
    """The first op that computes with the input as whole numbers, where all of it is cast to such at once."""
    if not all(end.op == "Cast" and node_name(end.input[0]) == graph.input for end in ends):
        return []
    whole = {end.name for end in ends}
    for node in path:
        if node.name in whole or not any(node_name(i) in whole for i in node.input):
            continue
        if node.op in MOVES:
            whole.add(node.name)
        elif node.op != "Cast":
            return [node]
        elif attribute(node, "DstT").type in _WHOLE:
            whole.add(node.name)
    return []


def path_of(graph: ForwardGraph) -> list[NodeDef]:
    """The nodes that values of the input pass on their way to the scores, in topological order."""
    reached = {graph.input}
    forward = []
    for node in graph.nodes:
        if node.op not in _SHAPES and any(node_name(i) in reached for i in node.input):
            reached.add(node.name)
            forward.append(node)
    needed = {node_name(graph.scores)}
    path = []
    for node in reversed(forward):
        if node.name in needed:
            needed |= {node_name(i) for i in node.input}
            path.append(node)
    return path[::-1]


def _has_gradient(node: NodeDef) -> bool:
    if node.op in _PREVENTING:
        return False
    try:
        ops.gradient_registry.lookup(node.op)
    except LookupError:
        return False
    return True


def _ends(graph: ForwardGraph, path: Sequence[NodeDef]) -> list[NodeDef]:
    """The nodes on a path that read floats and pass no gradient on to them, though their readers had one."""
    by_name = {node.name: node for node in path}
    inside = {graph.input, *by_name}
    with imported(graph) as tensors:
        floats = {name for name, tensor in tensors.items() if tensor.dtype.is_floating}
        names = [name for name in tensors if name in floats and node_name(name) in inside]
        found = tf.gradients(tensors[graph.scores], [tensors[name] for name in names])
    reached = {name for name, gradient in zip(names, found, strict=True) if gradient is not None}
    reached.add(graph.scores)
    reads = {
        node.name: [
            name for name in map(tensor_name, node.input) if node_name(name) in {graph.input, *by_name}
        ]
        for node in path
    }
    ends: dict[str, NodeDef] = {}
    stack = [node for node in path if any(node_name(name) == node.name for name in reached)]
    stack = [node for node in stack if not reached & set(reads[node.name])]
    while stack:
        node = stack.pop()
        # What computes with whole numbers is no end: what made them of floats is.
        if any(name in floats for name in reads[node.name]):
            ends[node.name] = node
        stack.extend(
            by_name[node_name(name)]
            for name in reads[node.name]
            if name not in floats and node_name(name) not in ends
        )
    return [node for node in path if node.name in ends]


def named(nodes: Sequence[NodeDef]) -> str:
    """Nodes by name and op, for messages: the first three, and how many more."""
    names = [f"{node.name} ({node.op})" for node in nodes[:_MOST_NAMED]]
    return ", ".join(names) + (f" and {len(nodes) - _MOST_NAMED} more" if len(nodes) > _MOST_NAMED else "")
