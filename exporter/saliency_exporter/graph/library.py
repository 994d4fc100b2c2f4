"""The functions that nodes of a graph run: conditions and bodies of loops, branches, and what these run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from tensorflow.core.framework.attr_value_pb2 import AttrValue, NameAttrList
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.eager import context

CALL_OPS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})

_copies = itertools.count()


def functions_of(nodes: Sequence[NodeDef], library: GraphDef) -> dict[str, FunctionDef]:
    """The functions of a library that nodes run, and those that these run, by name."""
    known = {function.signature.name: function for function in library.library.function}
    found: dict[str, FunctionDef] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        for name in (node.op, *(called.name for called in _calls(node))):
            if name in known and name not in found:
                found[name] = known[name]
                pending.extend(known[name].node_def)
    return found


def with_own_functions(nodes: Sequence[NodeDef], library: GraphDef) -> GraphDef:
    """A graph of the nodes and of copies of the functions that they run, under names of its own.

    To differentiate a loop, TensorFlow gives it a body with more outputs, under a name that is made of the
    body's name. Two copies of one loop in a program, differentiated each with respect to something else,
    need bodies of different names.
    """
    functions = functions_of(nodes, library)
    if not functions:
        return GraphDef(node=nodes)
    suffix = f"_copy_{next(_copies)}"
    names = {name: f"{name}{suffix}" for name in functions}
    graph_def = GraphDef(node=nodes)
    for function in functions.values():
        copy = graph_def.library.function.add()
        copy.CopyFrom(function)
        copy.signature.name = names[function.signature.name]
        _rename(copy.node_def, names)
        # A function that is called outside of a graph, as a signature is, is looked up in the process.
        context.context().add_function_def(copy)
    for gradient in library.library.gradient:
        if gradient.function_name in names:
            own = graph_def.library.gradient.add()
            own.function_name = names[gradient.function_name]
            own.gradient_func = names.get(gradient.gradient_func, gradient.gradient_func)
    _rename(graph_def.node, names)
    return graph_def


def with_calls_inlined(library: GraphDef) -> GraphDef:
    """The library whose functions hold what they called, in place of the calls; without control inputs.

    TensorFlow differentiates a loop by its body's ops, and a call in a body that was not traced in this
    process it leaves to a gradient that it cannot run. What control inputs order (assertions, reads of
    variables) has no effect on a frozen forward pass.
    """
    functions = {function.signature.name: function for function in library.library.function}
    inlined = GraphDef()
    inlined.library.gradient.extend(library.library.gradient)
    for function in functions.values():
        copy = inlined.library.function.add()
        copy.CopyFrom(function)
        nodes = _inlined(copy, functions)
        del copy.node_def[:]
        copy.node_def.extend(nodes)
        # An argument's shape is what a caller gives. Freezing leaves "unknown" here, and that would win.
        copy.attr.pop("_input_shapes", None)
        for argument in copy.arg_attr.values():
            argument.attr.pop("_output_shapes", None)
        copy.control_ret.clear()
        del copy.signature.control_output[:]
    return inlined


def _inlined(function: FunctionDef, functions: Mapping[str, FunctionDef]) -> list[NodeDef]:
    """The nodes of a function, calls replaced by what they run; sets what the function returns."""
    nodes = [_without_control_inputs(node) for node in function.node_def]
    aliases: dict[str, str] = {}
    while any(node.op in CALL_OPS and node.attr["f"].func.name in functions for node in nodes):
        expanded: list[NodeDef] = []
        for node in nodes:
            body = functions.get(node.attr["f"].func.name) if node.op in CALL_OPS else None
            if body is None:
                expanded.append(node)
                continue
            given = dict(zip((a.name for a in body.signature.input_arg), node.input, strict=True))
            for inner in map(_without_control_inputs, body.node_def):
                inner.name = f"{node.name}/{inner.name}"
                inner.input[:] = [given.get(name, f"{node.name}/{name}") for name in inner.input]
                expanded.append(inner)
            for index, output in enumerate(body.signature.output_arg):
                result = body.ret[output.name]
                aliases[f"{node.name}:output:{index}"] = given.get(result, f"{node.name}/{result}")
        nodes = expanded

    def meant(name: str) -> str:
        while name in aliases:
            name = aliases[name]
        return name

    for node in nodes:
        node.input[:] = [meant(name) for name in node.input]
    for output, name in function.ret.items():
        function.ret[output] = meant(name)
    return nodes


def _without_control_inputs(node: NodeDef) -> NodeDef:
    copy = NodeDef()
    copy.CopyFrom(node)
    copy.input[:] = [name for name in node.input if not name.startswith("^")]
    return copy


def _rename(nodes: Sequence[NodeDef], names: Mapping[str, str]) -> None:
    for node in nodes:
        node.op = names.get(node.op, node.op)
        for called in _calls(node):
            called.name = names.get(called.name, called.name)


def _calls(node: NodeDef) -> Iterator[NameAttrList]:
    """Where a node names functions, in whatever depth: a function may be given with attributes of its own."""
    pending: list[AttrValue] = list(node.attr.values())
    while pending:
        value = pending.pop()
        for called in [value.func] if value.HasField("func") else value.list.func:
            yield called
            pending.extend(called.attr.values())
