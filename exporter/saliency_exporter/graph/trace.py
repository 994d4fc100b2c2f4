"""From a model to its forward graph: trace once, inline, lift the weights, find the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework import ops

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.graph.branches import without_decided_branches
from saliency_exporter.graph.forward_graph import (
    ForwardGraph,
    node_name,
    prune,
    with_inputs,
)
from saliency_exporter.graph.freezing import assigned_by, freezable, frozen
from saliency_exporter.graph.gates import is_gate
from saliency_exporter.graph.head import find_head
from saliency_exporter.graph.inlining import inline_calls, topological
from saliency_exporter.graph.integer_input import without_cast_to_integers
from saliency_exporter.graph.library import with_calls_inlined
from saliency_exporter.graph.loops import with_known_lengths
from saliency_exporter.graph.own_gradients import (
    OwnGradients,
    find_own_gradients,
    own_gradients_inside,
    without_gates_of_tensorflow,
)
from saliency_exporter.graph.unservable import refuse_unservable, without_state
from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.runtime.inlined import assigns

if TYPE_CHECKING:
    from saliency_exporter.sources.source import Source

MAX_GRAPH_BYTES = 2**31 - 1
"""A GraphDef is a protocol buffer: no larger than 2 GiB - 1."""

# Ops that only pass their inputs on. A stop_gradient changes the gradient and is not one of them.
_TRANSPARENT_OPS = frozenset({"Identity", "IdentityN", "PlaceholderWithDefault", "Snapshot"})


def trace(source: Source, *, score: str = "auto") -> ForwardGraph:
    """Traces a model's forward pass into a flat graph.

    Args:
        source: the model: `source.call` maps [B, *source.input_shape] to [B, classes].
        score: "auto" takes the input of a final softmax or sigmoid as the class scores, and the output where
            there is neither; "output" takes the model's output as it is.

    Raises:
        ExportError: the model cannot be traced, its output is not [B, classes] floats or is a softmax over
            one class, or its weights exceed the 2 GiB that a graph can hold.
    """
    _refuse_oversized(source)
    spec = tf.TensorSpec((None, *source.input_shape), tf.float32, name="x")
    try:
        function = tf.function(source.call, autograph=False).get_concrete_function(spec)
    except Exception as error:
        raise ExportError(
            f"{source.name} cannot be traced into a TensorFlow graph: {brief(error)}",
            hint="it must be made of TensorFlow operations; an `if` on a tensor has to be tf.cond, or in a "
            "@tf.function",
        ) from error
    output = _single_output(function.structured_outputs, source.name)
    changed = _changed_by(function, source)
    own = find_own_gradients(function.graph)
    if own.gated:
        function = _with_gates(function, own, spec)
    function, assigned = freezable(without_state(function, source.name), source.name)
    # What the model changes itself is no weight to share with it.
    captures = {node_name(placeholder.name): handle for handle, placeholder in function.graph.captures}
    unchanged = {
        name: handle
        for name, handle in captures.items()
        if name not in assigned and id(handle) not in changed
    }
    graph_def = frozen(function)
    nodes, weights = _lift_weights(topological(inline_calls(graph_def)), set(captures))
    nodes = without_gates_of_tensorflow(nodes, own.gradients)
    nodes, aliases = _without_transparent(nodes)
    output_name = aliases.get(function.outputs[0].name, function.outputs[0].name)
    # Of what loops and branches run; that of a swish is TensorFlow's own, and is dropped there.
    lost = tuple(
        f"{node.name} ({node.op})"
        for inner in graph_def.library.function
        for node in own_gradients_inside(inner)
    )
    graph = ForwardGraph(
        nodes=tuple(nodes),
        library=with_calls_inlined(graph_def),
        producer=graph_def.versions.producer,
        weights=weights,
        input=node_name(function.inputs[0].name),
        scores=output_name,
        head="softmax" if output.shape[-1] > 1 else "sigmoid",
        head_assumed=True,
        input_shape=tuple(source.input_shape),
        classes=int(output.shape[-1]),
        variables=_variables_of(source, unchanged),
        own_gradients=own.gradients,
        lost_gradients=lost,
        assigns=bool(changed),
    )
    graph = with_known_lengths(without_cast_to_integers(without_decided_branches(prune(graph))))
    as_it_is = replace(graph, head="output", head_assumed=False)
    graph = prune(as_it_is if score == "output" else find_head(graph))
    _refuse_softmax_of_one(graph, source.name)
    refuse_unservable(graph, source.name, captures)
    _refuse_resources(graph, source.name)
    return graph


def _changed_by(function: ConcreteFunction, source: Source) -> frozenset[int]:
    """The variables that the model changes while it runs, by the id of their handles.

    A source may have left the assignments out of what is traced, to take a batch of any size or to begin
    behind the decoding; the signature that the model keeps assigns all the same.
    """
    functions = [function, *([source.kept.forward] if source.kept else [])]
    return frozenset[int]().union(*(assigned_by(one) for one in functions if assigns(one)))


def _refuse_resources(graph: ForwardGraph, name: str) -> None:
    for node in graph.nodes:
        if node.op == "Placeholder" and node.name != graph.input:
            readers = ", ".join(reader.op for reader in graph.consumers().get(f"{node.name}:0", ()))
            raise ExportError(
                f"the class scores of {name} depend on a table or another resource, read by {readers}",
                hint="export the network without that part, as module:callable",
            )


def _refuse_softmax_of_one(graph: ForwardGraph, name: str) -> None:
    if (graph.head, graph.classes, graph.head_assumed) == ("softmax", 1, False):
        raise ExportError(
            f"{name} ends in a softmax over one class: the probability is 1 for every image, "
            "and its gradient is 0",
            hint="put a sigmoid in its place, which needs no other weights, and export that model; in Keras: "
            "model.layers[-1].activation = keras.activations.sigmoid",
        )


def _refuse_oversized(source: Source) -> None:
    size = sum(int(np.prod(variable.shape)) * variable.dtype.size for variable in source.variables)
    if size > MAX_GRAPH_BYTES:
        raise ExportError(
            f"{source.name} has {size / 2**30:.2f} GiB of weights; a GraphDef holds at most 2 GiB",
            hint="export a smaller variant, or one whose weights are float16",
        )


def _single_output(outputs: object, name: str) -> tf.Tensor:
    flat = tf.nest.flatten(outputs)
    if len(flat) != 1:
        raise ExportError(
            f"{name} has {len(flat)} outputs; a classifier to explain has one, [batch, classes]",
            hint="wrap it in a function of one output and export that as module:callable",
        )
    output = flat[0]
    if output.shape.rank != 2 or output.shape[-1] is None or not output.dtype.is_floating:
        raise ExportError(
            f"the output of {name} is {output.dtype.name} {output.shape}; class scores are floats of shape "
            "[batch, classes] with a known number of classes",
            hint="export a model whose last layer gives one score for each class",
        )
    return output


def _variables_of(source: Source, captures: Mapping[str, tf.Tensor]) -> dict[str, tf.Variable]:
    """The model's own variable for each weight that is captured as one."""
    by_handle = {id(variable.handle): variable for variable in source.variables}
    return {name: by_handle[id(handle)] for name, handle in captures.items() if id(handle) in by_handle}


def _lift_weights(
    nodes: Sequence[NodeDef], captured: set[str]
) -> tuple[list[NodeDef], dict[str, np.ndarray]]:
    """Splits the float constants that are weights from the nodes.

    A weight is what the function captured (a variable) and any other float array of rank 1 or more; scalars
    such as an epsilon stay in the graph, where the compiler can fold them.
    """
    kept: list[NodeDef] = []
    weights: dict[str, np.ndarray] = {}
    for node in nodes:
        if node.op == "Const":
            dtype = tf.dtypes.as_dtype(node.attr["dtype"].type)
            shape = node.attr["value"].tensor.tensor_shape
            if dtype.is_floating and (node.name in captured or len(shape.dim) > 0):
                weights[node.name] = tf.make_ndarray(node.attr["value"].tensor)
                continue
        kept.append(node)
    return kept, weights


def _without_transparent(nodes: Sequence[NodeDef]) -> tuple[list[NodeDef], dict[str, str]]:
    """The nodes without pass-through ops, and the tensor that each dropped one stood for."""
    aliases: dict[str, str] = {}
    kept: list[NodeDef] = []
    for node in (with_inputs(node, aliases) for node in nodes):
        if node.op in _TRANSPARENT_OPS and not is_gate(node):
            aliases.update({f"{node.name}:{index}": name for index, name in enumerate(node.input)})
        else:
            kept.append(node)
    return kept, aliases


def _with_gates(function: Any, own: OwnGradients, spec: tf.TensorSpec) -> Any:
    """The traced function once more, flat, with a gate behind every op that has a gradient of its own."""
    graph_def = function.graph.as_graph_def()
    (output,) = function.outputs
    flat = GraphDef(versions=graph_def.versions, library=graph_def.library)
    captures = {inner.op.name: outer for outer, inner in function.graph.captures}
    nodes = topological(inline_calls(graph_def, own.gated))
    flat.node.extend(node for node in nodes if node.op != "Placeholder")
    read = {node_name(name) for node in flat.node for name in node.input}

    def forward(x: tf.Tensor) -> tf.Tensor:
        graph = ops.get_default_graph()
        for variable in function.graph.variables:
            graph.watch_variable(variable)
        given = {
            f"{name}:0": graph.capture(outer, name=name) for name, outer in captures.items() if name in read
        }
        return tf.graph_util.import_graph_def(
            flat, input_map={"x:0": x, **given}, return_elements=[output.name], name=""
        )[0]

    return tf.function(forward, autograph=False).get_concrete_function(spec)
