"""A traced function as one flat graph, which other functions run on tensors in place of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.eager import context

# TensorFlow has no public way to inline a function's calls and leave its variables alone.
from tensorflow.python.framework.convert_to_constants import _run_inline_graph_optimization

from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.runtime.swish import swish_of

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
# Where a node was placed and which shapes it had when it was traced says nothing about where it runs now.
_GRADIENT = "_gradient_op_type"
_RECORDED = ("_output_shapes", "_class")
_ASSIGNMENTS = {"AssignVariableOp": None, "AssignAddVariableOp": "AddV2", "AssignSubVariableOp": "Sub"}
"""Op that changes a variable, and the op that gives the new value from the old one; None: it is given."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Inlined:
    """The graph of a function without calls of other functions, but for those of control flow.

    Attributes:
        graph_def: the nodes.
        inputs: tensor names of the function's inputs, in order; what it captures is not among them.
        outputs: tensor names of its outputs, in order.
        captures: placeholder's tensor name to the tensor outside that it stands for, such as a variable's
            handle.
        variables: the variables that it reads.
    """

    graph_def: GraphDef
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captures: Mapping[str, tf.Tensor]
    variables: tuple[tf.Variable, ...] = ()


def inlined(function: ConcreteFunction) -> Inlined:
    """The graph of a function; a call that is marked to be compiled on its own stays a call."""
    graph_def = function.graph.as_graph_def()
    if any(node.op in _CALLS for node in graph_def.node):
        graph_def = _run_inline_graph_optimization(
            function, lower_control_flow=False, aggressive_inlining=True
        )
    captures = {placeholder.name: outside for outside, placeholder in function.graph.captures}
    return Inlined(
        graph_def=without_records(graph_def),
        inputs=tuple(tensor.name for tensor in function.inputs if tensor.name not in captures),
        outputs=tuple(tensor.name for tensor in function.outputs),
        captures=captures,
        variables=tuple(function.graph.variables),
    )


def without_records(graph_def: GraphDef) -> GraphDef:
    """A copy in which nothing is left of devices, and of the shapes for which it was traced.

    A swish has the gradient of its ops: TensorFlow's own reads tensors of the function that was inlined.
    """
    copy = GraphDef()
    copy.CopyFrom(graph_def)
    for nodes in (copy.node, *(function.node_def for function in copy.library.function)):
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if _GRADIENT in node.attr and swish_of(node, by_name) is not None:
                del node.attr[_GRADIENT]
    for function in copy.library.function:
        for argument in function.arg_attr.values():
            argument.attr.pop("_output_shapes", None)
    for node in [*copy.node, *(node for function in copy.library.function for node in function.node_def)]:
        node.ClearField("device")
        for attribute in _RECORDED:
            node.attr.pop(attribute, None)
    return copy


def ops_of(function: ConcreteFunction) -> set[str]:
    """The types of the ops of a function and of those that it calls."""
    graph_def = function.graph.as_graph_def()
    called = {node.op for other in graph_def.library.function for node in other.node_def}
    return called | {node.op for node in graph_def.node}


def run(graph: Inlined, given: Mapping[str, tf.Tensor], fetches: Sequence[str]) -> list[tf.Tensor]:
    """Runs what the fetches need in the function that is being traced.

    Args:
        graph: what to run.
        given: tensor name to the tensor in its place; what lies before it alone does not run.
        fetches: names of the tensors to return.
    """
    nodes = needed_nodes(graph.graph_def, given, fetches)
    read = {full_name(name) for node in nodes for name in node.input} | set(fetches)
    around = tf.compat.v1.get_default_graph()
    for variable in graph.variables:
        around.watch_variable(variable)
    tensors = {
        name: around.capture(outside, name=node_of(name))
        for name, outside in graph.captures.items()
        if name in read and name not in given
    }
    tensors |= {name: tensor for name, tensor in given.items() if name in read}
    kept = GraphDef(
        node=[node for node in nodes if f"{node.name}:0" not in tensors],
        versions=graph.graph_def.versions,
        library=graph.graph_def.library,
    )
    _give_functions_own_names(kept)
    inner = [name for name in fetches if name not in tensors]
    inputs = {full_name(name) for node in kept.node for name in node.input}
    outputs = tf.graph_util.import_graph_def(
        kept,
        input_map={name: tensor for name, tensor in tensors.items() if name in inputs},
        return_elements=inner,
        name="",
    )
    tensors |= dict(zip(inner, outputs, strict=True))
    return [tensors[name] for name in fetches]


def needed_nodes(graph_def: GraphDef, given: Iterable[str], fetches: Sequence[str]) -> list[NodeDef]:
    """Copies of the nodes that tensors need, but for what lies before given tensors alone."""
    nodes = {node.name: node for node in graph_def.node}
    ends = {name for tensor in given for name in (tensor, f"^{node_of(tensor)}")}
    needed: dict[str, NodeDef] = {}
    pending = [name for name in fetches if name not in ends]
    while pending:
        name = node_of(pending.pop())
        if name in needed or name not in nodes:
            continue
        copy = needed[name] = NodeDef()
        copy.CopyFrom(nodes[name])
        inputs = [other for other in copy.input if not other.startswith("^") or other not in ends]
        del copy.input[:]
        copy.input.extend(inputs)
        pending += [other for other in inputs if full_name(other) not in ends]
    return [needed[node.name] for node in graph_def.node if node.name in needed]


def in_a_graph(call: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """What runs in a graph alone: as it is where a function is being traced, else as a function."""
    function = tf.function(call, autograph=False)
    return lambda x: function(x) if tf.executing_eagerly() else call(x)


def assigns(function: ConcreteFunction) -> bool:
    """Whether a function changes variables while it runs."""
    return bool(ops_of(function) & set(_ASSIGNMENTS))


@contextmanager
def unchanged(variables: Sequence[tf.Variable]) -> Iterator[None]:
    """Gives variables back the values that they had before the block."""
    before = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def read_only(function: ConcreteFunction) -> ConcreteFunction:
    """The function on variables that stay as they are, of one that assigns some while it runs.

    What it computes is what its next call would: where it reads a variable that it has just assigned, it
    reads the new value.
    """
    if not ops_of(function) & _ASSIGNMENTS.keys():
        return function
    graph = without_assignments(inlined(function))
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in function.inputs[: len(graph.inputs)]]

    def call(*inputs: tf.Tensor) -> list[tf.Tensor]:
        return run(graph, dict(zip(graph.inputs, inputs, strict=True)), graph.outputs)

    return tf.function(call, autograph=False).get_concrete_function(*specs)


def without_assignments(graph: Inlined) -> Inlined:
    """The graph without ops that change a variable; a read behind one gives what it would have assigned."""
    nodes = {node.name: node for node in graph.graph_def.node}
    kept = GraphDef(versions=graph.graph_def.versions, library=graph.graph_def.library)
    for node in graph.graph_def.node:
        if node.op in _ASSIGNMENTS:
            continue
        copy = kept.node.add()
        copy.CopyFrom(node)
        before = _assignment_before(node, nodes) if node.op == "ReadVariableOp" else None
        if before is not None:
            _give_assigned(copy, before, kept)
        inputs = [name for name in copy.input if not _is_assignment(name, nodes)]
        del copy.input[:]
        copy.input.extend(inputs)
    return replace(graph, graph_def=kept)


def full_name(name: str) -> str:
    """The tensor name `node:index` of a node's data input as a NodeDef has it."""
    return name if ":" in name or name.startswith("^") else f"{name}:0"


def node_of(name: str) -> str:
    """The node of a tensor name or of a node's input."""
    return name.removeprefix("^").split(":")[0]


def _give_functions_own_names(graph_def: GraphDef) -> None:
    """Renames the functions of a graph's library, so that no other graph of this process has one of the name.

    TensorFlow keeps functions by name: when it drops one graph, another one would lose its own of that name.
    """
    functions = graph_def.library.function
    if not functions:
        return
    own = next(_numbers)
    names = {function.signature.name: f"{function.signature.name}_run_{own}" for function in functions}
    for function in functions:
        function.signature.name = names[function.signature.name]
    for gradient in graph_def.library.gradient:
        gradient.function_name = names.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = names.get(gradient.gradient_func, gradient.gradient_func)
    for node in [*graph_def.node, *(node for function in functions for node in function.node_def)]:
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            for called in [value.func] if value.HasField("func") else value.list.func:
                called.name = names.get(called.name, called.name)
    for function in functions:
        # An imported graph knows its functions; what runs it eagerly looks for them here.
        context.context().add_function_def(function)


def _is_assignment(name: str, nodes: Mapping[str, NodeDef]) -> bool:
    return name.startswith("^") and node_of(name) in nodes and nodes[node_of(name)].op in _ASSIGNMENTS


def _handle(name: str, nodes: Mapping[str, NodeDef]) -> str:
    """The placeholder or op behind the identities that inlining puts before a variable's handle."""
    node = nodes[node_of(name)]
    while node.op == "Identity":
        node = nodes[node_of(node.input[0])]
    return node.name


def _assignment_before(node: NodeDef, nodes: Mapping[str, NodeDef]) -> NodeDef | None:
    """The last assignment to the variable that this node reads after it, by the control inputs."""
    handle = _handle(node.input[0], nodes)
    seen: set[str] = set()
    pending = [node_of(name) for name in node.input if name.startswith("^")]
    while pending:
        before = nodes[pending.pop(0)]
        if before.op in _ASSIGNMENTS and _handle(before.input[0], nodes) == handle:
            return before
        for name in before.input:
            if name.startswith("^") and node_of(name) not in seen:
                seen.add(node_of(name))
                pending.append(node_of(name))
    return None


def _give_assigned(read: NodeDef, assignment: NodeDef, graph_def: GraphDef) -> None:
    """Makes a node that reads a variable one that computes what the assignment before it gives."""
    dtype = read.attr["dtype"]
    op = _ASSIGNMENTS[assignment.op]
    inputs = [assignment.input[1]]
    if op is not None:
        old = graph_def.node.add(name=f"{read.name}/before", op="ReadVariableOp", input=[read.input[0]])
        old.attr["dtype"].CopyFrom(dtype)
        inputs.insert(0, old.name)
    read.op = op or "Identity"
    del read.input[:]
    read.input.extend(inputs)
    read.attr["T"].CopyFrom(dtype)
    del read.attr["dtype"]
