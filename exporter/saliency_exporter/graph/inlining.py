"""A traced function as one flat list of nodes: calls replaced by what they run, in topological order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

from saliency_exporter.graph.forward_graph import node_name, tensor_name, with_inputs
from saliency_exporter.graph.gates import CALLS, Gated, with_gate

# Attributes that hold for the process or the function the node was traced in, not for what it computes. A
# `_gradient_op_type` names a gradient function that is registered in that process alone: without it, plain
# differentiation of the ops before the IdentityN gives the same derivative.
_LOCAL_ATTRIBUTES = ("_gradient_op_type", "_XlaMustCompile", "_output_shapes", "_class")


def inline_calls(graph_def: GraphDef, gated: Mapping[tuple[str, str], Gated] | None = None) -> list[NodeDef]:
    """The nodes with every plain function call replaced by the function's body.

    An op with a gradient of its own gets its gate where it stands.

    TensorFlow's own inliner leaves calls that a layer marked to be compiled on their own (Keras 3 does so for
    grouped convolutions); the whole forward pass is compiled later, so that mark has no meaning here.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    gated = gated or {}
    nodes = list(_with_gates("", graph_def.node, gated))
    while any(node.op in CALLS for node in nodes):
        expanded: list[NodeDef] = []
        aliases: dict[str, str] = {}
        for node in nodes:
            if node.op not in CALLS:
                expanded.append(node)
                continue
            function = functions[node.attr["f"].func.name]
            body, flat_names = function_def_to_graph_def(function)
            arguments = {argument.name: i for i, argument in enumerate(function.signature.input_arg)}
            inputs = [name for name in node.input if not name.startswith("^")]
            for inner in _with_gates(function.signature.name, body.node, gated):
                if inner.name in arguments:
                    aliases[f"{node.name}/{inner.name}:0"] = tensor_name(inputs[arguments[inner.name]])
                    continue
                copy = NodeDef()
                copy.CopyFrom(inner)
                copy.name = f"{node.name}/{inner.name}"
                del copy.input[:]
                copy.input.extend(f"{node.name}/{name}" for name in inner.input if not name.startswith("^"))
                expanded.append(copy)
            for index, result in enumerate(function.signature.output_arg):
                flat = flat_names.get(function.ret[result.name], function.ret[result.name])
                aliases[f"{node.name}:{index}"] = f"{node.name}/{tensor_name(flat)}"
        nodes = [with_inputs(node, aliases) for node in expanded]
    return nodes


def _with_gates(
    function: str, nodes: Iterable[NodeDef], gated: Mapping[tuple[str, str], Gated]
) -> Iterator[NodeDef]:
    for node in nodes:
        own = gated.get((function, node.name))
        yield from [node] if own is None else with_gate(node, own)


def topological(nodes: Sequence[NodeDef]) -> list[NodeDef]:
    """Copies of the nodes without control inputs and local attributes, each after what it reads."""
    by_name: dict[str, NodeDef] = {}
    for node in nodes:
        copy = NodeDef()
        copy.CopyFrom(node)
        copy.ClearField("device")
        for attribute in _LOCAL_ATTRIBUTES:
            if attribute in copy.attr:
                del copy.attr[attribute]
        # What a control input orders (assertions, reads of variables) has no effect on a frozen forward pass.
        data_inputs = [name for name in copy.input if not name.startswith("^")]
        del copy.input[:]
        copy.input.extend(data_inputs)
        by_name[copy.name] = copy
    ordered: list[NodeDef] = []
    done: set[str] = set()
    for root in by_name:
        stack: list[tuple[str, Iterator[str]]] = [(root, iter(by_name[root].input))]
        while stack:
            name, inputs = stack[-1]
            if name in done:
                stack.pop()
                continue
            missing = next((node_name(i) for i in inputs if node_name(i) not in done), None)
            if missing is None:
                done.add(name)
                ordered.append(by_name[name])
                stack.pop()
            else:
                stack.append((missing, iter(by_name[missing].input)))
    return ordered
