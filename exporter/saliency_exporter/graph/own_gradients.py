"""Gradients that a model's author gave an op: tf.custom_gradient, tf.RegisterGradient, stored in SavedModels.

TensorFlow keeps such a gradient outside the graph: the op names an entry of a registry of the process that
traced it, and the entry is a Python function that reads tensors of the function it was traced in. Here each
entry is traced once, into a graph of its own, and what it reads there is found in the op's function, for the
op's gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.eager import backprop_util
from tensorflow.python.framework import ops
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph
from tensorflow.python.ops import handle_data_util

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.graph.forward_graph import (
    OwnGradient,
    called_functions,
    node_name,
)
from saliency_exporter.graph.gates import CALLS, Gated, is_gate, key_of, opened, results_of
from saliency_exporter.graph.inlining import inline_calls, topological
from saliency_exporter.graph.nodes import attribute, constant, unit_roundoff
from saliency_exporter.runtime.swish import Swish, origin, swish_of

_REGISTERED = "_gradient_op_type"


@dataclass(frozen=True)
class _Function:
    """A traced function: its name ("" for the outermost), its FuncGraph, and what its arguments are called.

    In the definition of a function an argument may have another name than the placeholder in its graph.
    """

    name: str
    graph: Any
    arguments: Mapping[str, str]

    def tensor(self, tensor: tf.Tensor) -> str:
        """The name of a tensor in the function's definition."""
        return f"{self.arguments.get(tensor.op.name, tensor.op.name)}:{tensor.value_index}"


@dataclass(frozen=True)
class OwnGradients:
    """The gradients of a traced function's ops that are not TensorFlow's.

    Attributes:
        gated: function name ("" for the traced function itself) and op name to what is known of the op.
        gradients: by key.
    """

    gated: Mapping[tuple[str, str], Gated]
    gradients: Mapping[str, OwnGradient]


def find_own_gradients(graph: Any) -> OwnGradients:
    """Traces the gradient of every op that has its own, of a function and of those that it calls.

    Args:
        graph: the FuncGraph of the function.

    Raises:
        ExportError: a gradient cannot be traced.
    """
    gated: dict[tuple[str, str], Gated] = {}
    gradients: dict[str, OwnGradient] = {}
    for function, operation in _operations(graph):
        if not _has_own_gradient(operation):
            continue
        key = ""
        read: list[str] = []
        added: list[NodeDef] = []
        dtypes = [tensor.dtype for tensor in (*operation.outputs, *operation.inputs)]
        registered = _registered(operation)
        if registered is not None:
            gradient, captures = _traced(operation, registered)
            found = [_in_function(external, function, operation) for external in captures]
            if None not in found:
                key = f"{function.name}/{operation.name}"
                gradients[key] = gradient
                for tensor, nodes, dtype in filter(None, found):
                    read.append(tensor)
                    added += nodes
                    dtypes.append(dtype)
        gated[function.name, operation.name] = Gated(
            key=key,
            read=tuple(read),
            added=tuple(added),
            dtypes=tuple(dtype.as_datatype_enum for dtype in dtypes),
            outputs=len(operation.outputs),
        )
    return OwnGradients(gated, gradients)


def own_gradients_inside(function: FunctionDef) -> list[NodeDef]:
    """The ops of a loop's or a branch's function that have a gradient of their own.

    TensorFlow's own gradient of swish is none, and is taken off.
    """
    nodes = {node.name: node for node in function.node_def}
    found = []
    for node in function.node_def:
        if node.op in CALLS or not _registered_name(node) or called_functions(node):
            continue
        if swish_of(node, nodes) is not None:
            del node.attr[_REGISTERED]
        else:
            found.append(node)
    return found


def without_gates_of_tensorflow(
    nodes: Sequence[NodeDef], gradients: Mapping[str, OwnGradient]
) -> list[NodeDef]:
    """The nodes without the gates of TensorFlow's own gradient of swish, which is that of the ops in front.

    tf.nn.silu has a gradient of its own to keep one tensor less in memory. Without its gate a swish is
    recognized as the activation that it is.
    """
    by_name = {node.name: node for node in nodes}
    alike: dict[object, bool] = {}
    kept = []
    for node in nodes:
        if is_gate(node):
            swish = swish_of(by_name[node_name(node.input[0])], by_name)
            gradient = gradients.get(key_of(node))
            if swish is not None and gradient is None:
                node = opened(node)
            elif swish is not None and gradient is not None:
                kind = (swish.beta, *((inner.op, inner.name) for inner in gradient.graph_def.node))
                if kind not in alike:
                    alike[kind] = _is_gradient_of(swish, node, gradient, by_name)
                node = opened(node) if alike[kind] else node
        kept.append(node)
    return kept


def _is_gradient_of(swish: Swish, gate: NodeDef, own: OwnGradient, nodes: Mapping[str, NodeDef]) -> bool:
    """Whether a gradient is the derivative of a swish, on a grid."""
    grid = np.concatenate([np.linspace(-12, 12, 193), [-60.0, 60.0]])
    dtype = tf.as_dtype(gate.attr["T"].list.type[0])
    x, beta = tf.constant(grid, dtype), tf.constant(swish.beta, dtype)
    values = {swish.x: x, swish.held_by: beta}
    read = [origin(name, nodes) for name in gate.input[own.outputs + len(own.results) :]]
    if not set(read) <= set(values) or len(own.results) < 2 or own.results[1] is None:
        return False
    # The op has the outputs (y, x, …); the signal comes in by the first.
    signals = [tf.ones_like(x) if index == 0 else tf.zeros_like(x) for index in own.signals]

    of_x = replace(own, results=own.results[1:2], graph_def=_needed_for(own.results[1:2], own.graph_def))

    @tf.function(autograph=False)
    def derivative(*fed: tf.Tensor) -> tf.Tensor:
        return results_of(of_x, dict(zip(own.inputs, fed, strict=True)))[0]

    with tf.device("/CPU:0"):
        found = derivative(*signals, *(values[name] for name in read)).numpy().astype(np.float64)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-swish.beta * grid))
    expected = sigmoid * (1 + swish.beta * grid * (1 - sigmoid))
    return bool(np.allclose(found, expected, rtol=0, atol=32 * unit_roundoff(dtype)))


def _needed_for(tensors: Sequence[str | None], graph_def: GraphDef) -> GraphDef:
    """The part of a graph that tensors depend on."""
    nodes = {node.name: node for node in graph_def.node}
    needed: set[str] = set()
    stack = [node_name(name) for name in tensors if name is not None]
    while stack:
        name = stack.pop()
        if name in nodes and name not in needed:
            needed.add(name)
            stack.extend(node_name(read) for read in nodes[name].input)
    part = GraphDef(versions=graph_def.versions, library=graph_def.library)
    part.node.extend(node for node in graph_def.node if node.name in needed)
    return part


def _operations(graph: Any) -> Iterator[tuple[_Function, tf.Operation]]:
    """Every op of a function and of the functions that it calls, each once."""
    seen = set()
    stack = [_Function("", graph, {})]
    while stack:
        function = stack.pop()
        for operation in function.graph.get_operations():
            yield function, operation
            if operation.type in CALLS and (name := operation.get_attr("f").name) not in seen:
                seen.add(name)
                stack.append(_called(function.graph, name))


def _called(caller: Any, name: str) -> _Function:
    function = caller._get_function(name)
    graph, definition = getattr(function, "graph", None), getattr(function, "cached_definition", None)
    if graph is None or definition is None:
        definition = next(f for f in caller.as_graph_def().library.function if f.signature.name == name)
        graph = function_def_to_graph(definition)
    arguments = zip(graph.inputs, definition.signature.input_arg, strict=True)
    return _Function(name, graph, {tensor.op.name: argument.name for tensor, argument in arguments})


def _has_own_gradient(operation: tf.Operation) -> bool:
    if operation.type in CALLS or not _registered_name(operation.node_def):
        return False
    # An op that runs functions, a loop for instance, has the gradient that TensorFlow made of them.
    return not called_functions(operation.node_def)


def _registered_name(node: NodeDef) -> str:
    return attribute(node, _REGISTERED).s.decode()


def _registered(operation: tf.Operation) -> Any:
    """The gradient function of an op, or None where this process does not have it."""
    try:
        return ops.gradient_registry.lookup(_registered_name(operation.node_def))
    except LookupError:
        return None


def _traced(operation: tf.Operation, registered: Any) -> tuple[OwnGradient, list[tf.Tensor]]:
    """A gradient as a graph, and the tensors that it reads from outside, in the order of its inputs."""
    trainable = [index for index, tensor in enumerate(operation.outputs) if backprop_util.IsTrainable(tensor)]
    results: list[tf.Tensor | None] = []

    def gradient(*signals: tf.Tensor) -> list[tf.Tensor]:
        by_output = dict(zip(trainable, signals, strict=True))
        found = registered(operation, *(by_output.get(index) for index in range(len(operation.outputs))))
        found = list(found) if isinstance(found, list | tuple) else [found]
        results.extend(None if tensor is None else tf.identity(tensor) for tensor in found)
        return [tensor for tensor in results if tensor is not None]

    specs = [tf.TensorSpec(operation.outputs[i].shape, operation.outputs[i].dtype) for i in trainable]
    try:
        graph = tf.function(gradient, autograph=False).get_concrete_function(*specs).graph
    except Exception as error:
        raise ExportError(
            f"the model's own gradient of {operation.name} ({operation.type}) cannot be traced: "
            f"{brief(error)}",
            hint="a gradient has to be made of TensorFlow operations that XLA has",
        ) from error
    external = [tensor for tensor, _ in graph.captures]
    graph_def = graph.as_graph_def()
    resources = {p.op.name for tensor, p in graph.captures if tensor.dtype == tf.resource}
    placeholders = {tensor.op.name for tensor in graph.inputs}
    kept = GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in topological(inline_calls(graph_def)):
        if node.name in placeholders:
            continue
        if node.op == "ReadVariableOp" and node_name(node.input[0]) in resources:
            # What the gate takes is the variable's value.
            node.op = "Identity"
            node.attr["T"].type = node.attr.pop("dtype").type
        elif resources & {node_name(name) for name in node.input}:
            raise ExportError(f"the model's own gradient of {operation.name} changes a variable ({node.op})")
        kept.node.append(node)
    # By name and not by position: a function's outputs are copies of the tensors that Python gave.
    names = [None if tensor is None else tensor.name for tensor in results]
    own = OwnGradient(
        graph_def=_needed_for(names, kept),
        signals=tuple(trainable),
        inputs=tuple(tensor.name for tensor in graph.inputs),
        results=tuple(names),
        outputs=len(operation.outputs),
    )
    return own, external


def _in_function(
    tensor: tf.Tensor, function: _Function, operation: tf.Operation
) -> tuple[str, list[NodeDef], tf.DType] | None:
    """What an op's gradient reads: its name in the op's function, nodes that make it, and its dtype.

    None where it is not there: the op was copied into another function, without what its gradient reads.
    """
    own = next((inner for outer, inner in function.graph.captures if outer is tensor), None)
    if own is None and isinstance(tensor, ops.EagerTensor):
        if tensor.dtype == tf.resource:
            return None
        name = f"{operation.name}/constant_{id(tensor)}"
        return f"{name}:0", [constant(name, tensor.numpy())], tensor.dtype
    own = _by_name(tensor, function, operation) if own is None else own
    if own is None or own.dtype != tf.resource:
        return None if own is None else (function.tensor(own), [], own.dtype)
    dtype = tf.as_dtype(handle_data_util.get_resource_handle_data(own).shape_and_type[0].dtype)
    read = NodeDef(name=f"{operation.name}/read_{id(tensor)}", op="ReadVariableOp")
    read.input.append(function.tensor(own))
    read.attr["dtype"].type = dtype.as_datatype_enum
    return f"{read.name}:0", [read], dtype


def _by_name(tensor: tf.Tensor, function: _Function, operation: tf.Operation) -> tf.Tensor | None:
    """The tensor of that name in an op's function, or of that name behind what the op's name begins with.

    The function may be another object than the one in which the gradient was written, and what is loaded from
    a SavedModel may have been inlined since, under the names of its calls.
    """
    scopes = operation.name.split("/")
    for depth in [0, *range(len(scopes) - 1, 0, -1)]:
        name = "/".join([*scopes[:depth], tensor.name])
        try:
            found = function.graph.get_tensor_by_name(name)
        except (KeyError, ValueError):
            continue
        if found.dtype == tensor.dtype and found.shape.is_compatible_with(tensor.shape):
            return found
    return None
