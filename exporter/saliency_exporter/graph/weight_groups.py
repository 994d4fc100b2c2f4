"""The weights of a loaded SavedModel by the layer that reads them, from the class scores down to the input.

They are found in the graph that is served, so a model without source, a nested one and a function are one
case. Calls, branches and the bodies of loops are walked through where they stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import called_functions, node_name, tensor_name
from saliency_exporter.graph.inlining import topological
from saliency_exporter.graph.layer_names import layer_names

_CONDITIONALS = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})
"""Ops whose first input chooses which function runs, and is not given to it."""

_LOOPS = frozenset({"While", "StatelessWhile"})

_NAMES_OF_OPS = frozenset(
    {"BiasAdd", "batchnorm", "convolution", "einsum", "moments", "separable_conv2d", "Tensordot"}
    | {"Add", "add", "MatMul", "matmul", "mul", "sub"}
)
"""Scopes that TensorFlow's functions open inside of a layer's."""


class WeightGroup(NamedTuple):
    """The weights of one layer.

    Attributes:
        layer: its name, for people; the variable's where it is in no layer.
        variables: names of the nodes of its variables (VarHandleOp), the top one first.
    """

    layer: str
    variables: tuple[str, ...]


class _Value(NamedTuple):
    """What is known of a tensor.

    Attributes:
        depth: how many ops follow one another at most from the images to it; −1 where it is not made of them.
        weights: the variables that a tensor without images is made of.
    """

    depth: int
    weights: frozenset[str]


_CONSTANT = _Value(-1, frozenset())


def weight_groups(graph_def: GraphDef, images: str, outputs: Iterable[str]) -> list[WeightGroup]:
    """The layers whose weights the outputs depend on, the one nearest to the outputs first.

    Where two ops read a variable, it is where the later one is; a layer is where its last variable is.

    Args:
        graph_def: of the session, with its library of functions.
        images: name of the placeholder of the images, or of its tensor.
        outputs: names of tensors.
    """
    nodes = _reached(graph_def.node, outputs)
    walk = _Walk({function.signature.name: function for function in graph_def.library.function})
    walk.values_of(nodes, {node_name(images): [_Value(0, frozenset())]})
    from_the_top = sorted(walk.readers, key=lambda name: -walk.readers[name])
    layers = layer_names(reversed(from_the_top))
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in from_the_top:
        scope = list(layers[name])
        while scope and scope[-1].rstrip("_0123456789") in _NAMES_OF_OPS:
            scope.pop()
        groups.setdefault(tuple(scope) or (name,), []).append(name)
    return [
        WeightGroup(label, tuple(names))
        for label, names in zip(_labels(list(groups)), groups.values(), strict=True)
    ]


def _labels(scopes: Sequence[tuple[str, ...]]) -> list[str]:
    """The shortest ends of scopes that tell each from the others."""
    labels = []
    for scope in scopes:
        ends = (scope[-length:] for length in range(1, len(scope) + 1))
        end = next((end for end in ends if sum(other[-len(end) :] == end for other in scopes) == 1), scope)
        labels.append("/".join(end))
    return labels


class _Walk:
    """Goes over nodes in the order of the forward pass, into every function that they call."""

    def __init__(self, functions: Mapping[str, FunctionDef]) -> None:
        self.body_of = lru_cache(maxsize=None)(lambda name: _body(functions[name]))
        self.readers: dict[str, int] = {}

    def values_of(
        self, nodes: Sequence[NodeDef], given: Mapping[str, list[_Value]]
    ) -> dict[str, list[_Value]]:
        values = dict(given)
        for node in nodes:
            if node.name in values:
                continue
            inputs = [_output(values, name) for name in node.input if not name.startswith("^")]
            called = [node.attr["body"].func.name] if node.op in _LOOPS else called_functions(node)
            if node.op == "VarHandleOp":
                values[node.name] = [_Value(-1, frozenset({node.name}))]
            elif called:
                arguments = inputs[1:] if node.op in _CONDITIONALS else inputs
                # What goes around a loop comes out of it though it may not turn at all.
                results = [inputs] if node.op in _LOOPS else []
                results += [self.results_of(name, arguments) for name in called]
                values[node.name] = [_joined(one) for one in zip(*results, strict=True)]
            else:
                values[node.name] = [self.computed(inputs)]
        return values

    def results_of(self, function: str, arguments: Sequence[_Value]) -> list[_Value]:
        names, nodes, results = self.body_of(function)
        given = {name: [value] for name, value in zip(names, arguments, strict=False)}
        values = self.values_of(nodes, given)
        return [_output(values, name) for name in results]

    def computed(self, inputs: Sequence[_Value]) -> _Value:
        """What an op gives; of one that has images and weights, it is noted that it reads these."""
        whole = _joined(inputs)
        if whole.depth < 0:
            return whole
        depth = whole.depth + 1
        for name in whole.weights:
            self.readers[name] = max(depth, self.readers.get(name, 0))
        return _Value(depth, frozenset())


def _joined(values: Sequence[_Value]) -> _Value:
    return _Value(
        max((value.depth for value in values), default=-1),
        frozenset().union(*(value.weights for value in values)),
    )


def _output(values: Mapping[str, list[_Value]], name: str) -> _Value:
    """Of a tensor; the outputs of an op that calls nothing are alike."""
    node, index = node_name(name), int(tensor_name(name).rpartition(":")[2])
    outputs = values.get(node, [_CONSTANT])
    return outputs[index] if index < len(outputs) else outputs[0]


def _body(function: FunctionDef) -> tuple[list[str], list[NodeDef], list[str]]:
    """Names of the arguments of a function, its nodes in order, and names of the tensors it returns."""
    arguments = [argument.name for argument in function.signature.input_arg]
    nodes = [NodeDef(name=name, op="_Arg") for name in arguments]
    for node in function.node_def:
        copy = NodeDef()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(_in_a_graph(name) for name in node.input)
        nodes.append(copy)
    results = [_in_a_graph(function.ret[result.name]) for result in function.signature.output_arg]
    return arguments, topological(nodes), results


def _in_a_graph(name: str) -> str:
    """A tensor `node:output:index` of a function as `node:index`; a call has one list of outputs."""
    node, *rest = name.split(":")
    return ":".join([node, *rest[-1:]])


def _reached(nodes: Iterable[NodeDef], outputs: Iterable[str]) -> list[NodeDef]:
    """The nodes that tensors are made of, in order."""
    by_name = {node.name: node for node in nodes}
    reached: dict[str, NodeDef] = {}
    stack = [node_name(name) for name in outputs]
    while stack:
        name = stack.pop()
        if name not in reached:
            reached[name] = by_name[name]
            stack.extend(node_name(one) for one in by_name[name].input if not one.startswith("^"))
    return topological(list(reached.values()))
