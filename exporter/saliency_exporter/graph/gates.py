"""Gates: how a flat graph keeps the gradient that an op's author gave it.

A gate is an IdentityN behind the op that passes on the op's outputs, and takes beside them the op's inputs
and every tensor that the gradient reads. So whatever inlines, prunes or renames keeps them. In a replay the
gate gets the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import ForwardGraph, OwnGradient, node_name, tensor_name
from saliency_exporter.graph.library import with_own_functions

GATE = "_saliency_gradient"
"""Attribute of a gate: the key of its gradient; "" where the gradient was not saved with the model."""

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
"""Ops that are replaced by what they run, whose gradient is that of what they run."""


@dataclass(frozen=True)
class Gated:
    """An op with a gradient of its own, in the function that holds it.

    Attributes:
        key: of the gradient among those of the graph; "" where it is not at hand.
        read: the tensors that the gradient reads, by name in the function.
        added: nodes that the function needs beside its own: constants, and reads of variables.
        dtypes: of the op's outputs, of its inputs, and of what the gradient reads.
        outputs: number of the op's outputs.
    """

    key: str
    read: tuple[str, ...]
    added: tuple[NodeDef, ...]
    dtypes: tuple[int, ...]
    outputs: int


def with_gate(node: NodeDef, own: Gated) -> list[NodeDef]:
    """An op under another name, and a gate under its own, which passes on the op's outputs.

    Args:
        node: the op as its function holds it.
        own: what is known of its gradient.
    """
    forward = NodeDef()
    forward.CopyFrom(node)
    forward.name = f"{node.name}/forward"
    outputs = [f"{forward.name}:{index}" for index in range(own.outputs)]
    inputs = [name for name in node.input if not name.startswith("^")]
    read = [
        name if node_name(name) != node.name else f"{forward.name}:{name.rpartition(':')[2]}"
        for name in own.read
    ]
    gate = NodeDef(name=node.name, op="IdentityN", input=[*outputs, *inputs, *read])
    gate.attr["T"].list.type.extend(own.dtypes)
    gate.attr[GATE].s = own.key.encode()
    return [*own.added, forward, gate]


def is_gate(node: NodeDef) -> bool:
    """Whether a node passes on the outputs of an op that has a gradient of its own."""
    return GATE in node.attr


def key_of(gate: NodeDef) -> str:
    """The key of a gate's gradient; "" where the gradient was not saved with the model."""
    return gate.attr[GATE].s.decode()


def differentiated(gate: NodeDef, inputs: Sequence[tf.Tensor], own: OwnGradient) -> Sequence[tf.Tensor]:
    """The outputs of a gate, in the function that is being traced, with the gradient that it stands for.

    Args:
        gate: the gate.
        inputs: its inputs: the op's outputs and inputs, and what the gradient reads.
        own: the gradient.
    """
    outputs = inputs[: own.outputs]
    arguments = inputs[own.outputs : own.outputs + len(own.results)]
    read = inputs[own.outputs + len(own.results) :]

    @tf.custom_gradient
    def passed_on(*arguments: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., list[tf.Tensor | None]]]:
        def backward(*signals: tf.Tensor) -> list[tf.Tensor | None]:
            given = [signals[index] for index in own.signals]
            return results_of(own, dict(zip(own.inputs, [*given, *read], strict=True)))

        return [tf.identity(tensor) for tensor in outputs], backward

    return passed_on(*arguments)


def on_the_way_back(graph: ForwardGraph) -> frozenset[str]:
    """Names of the nodes that a gradient of the scores comes by, without those that a gate stands for."""
    nodes = graph.node_map()
    seen: set[str] = set()
    stack = [node_name(graph.scores)]
    while stack:
        node = nodes.get(stack.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        stack += [node_name(name) for name in (arguments_of(node, graph) if is_gate(node) else node.input)]
    return frozenset(seen)


def arguments_of(gate: NodeDef, graph: ForwardGraph) -> list[str]:
    """Names of what a gate's gradient passes a signal to; where it is not at hand, of all that it reads."""
    own = graph.own_gradients.get(key_of(gate))
    if own is None:
        return list(gate.input)
    inputs = gate.input[own.outputs :]
    return [name for name, result in zip(inputs, own.results, strict=False) if result is not None]


def results_of(own: OwnGradient, given: Mapping[str, tf.Tensor]) -> list[tf.Tensor | None]:
    """A gradient's results, in the function that is being traced, from its inputs by name."""
    graph_def = with_own_functions(own.graph_def.node, own.graph_def)
    graph_def.versions.CopyFrom(own.graph_def.versions)
    used = {tensor_name(name) for node in graph_def.node for name in node.input}
    # A gradient that passes its signal on has a result that is an input.
    made = [name for name in own.results if name is not None and name not in given]
    tensors = tf.graph_util.import_graph_def(
        graph_def,
        input_map={name: tensor for name, tensor in given.items() if name in used},
        return_elements=made,
        name="gradient",
    )
    found = {**given, **dict(zip(made, tensors, strict=True))}
    return [None if name is None else found[name] for name in own.results]


def opened(gate: NodeDef) -> NodeDef:
    """A gate that is an IdentityN like any other."""
    copy = NodeDef()
    copy.CopyFrom(gate)
    del copy.attr[GATE]
    return copy
