"""A traced function in a form that TensorFlow turns into constants: nothing is assigned, branches are two.

A served signature answers the same to the same request, so it keeps no state. A model that assigns a variable
in its forward pass, as a recurrent layer that remembers its last batch or a counter of calls does, is served
with the value that the variable had at export.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.eager.wrap_function import function_from_graph_def
from tensorflow.python.framework.convert_to_constants import (
    _FunctionConverterDataInEager,
    _replace_variables_by_constants,
)

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.forward_graph import called_functions, node_name
from saliency_exporter.graph.library import functions_of, with_own_functions
from saliency_exporter.graph.nodes import constant
from saliency_exporter.runtime.functions import ConcreteFunction

_ASSIGNING = frozenset(
    {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceStridedSliceAssign"}
    | {f"ResourceScatter{what}" for what in ("Add", "Div", "Max", "Min", "Mul", "Sub", "Update")}
    | {f"ResourceScatterNd{what}" for what in ("Add", "Max", "Min", "Sub", "Update")}
)
_READING = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd"})
_CASES = frozenset({"Case", "StatelessCase"})
# How many inputs of an op come before the arguments of the functions that it runs.
_BEFORE_ARGUMENTS = {"If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1}
_LOOPS = frozenset({"While", "StatelessWhile"})


def assigned_by(function: ConcreteFunction) -> frozenset[int]:
    """The variables that a function changes while it runs, by the id of the handle that it captures."""
    graph_def = function.graph.as_graph_def()
    handles = {node_name(placeholder.name): handle for handle, placeholder in function.graph.captures}
    outputs = [tensor.name for tensor in function.outputs]
    functions = functions_of(graph_def.node, graph_def)
    found = _Analysis(functions).body(graph_def.node, list(handles), outputs)
    return frozenset(id(handles[name]) for name in found.written if name in handles)


def freezable(function: ConcreteFunction, name: str) -> tuple[ConcreteFunction, frozenset[str]]:
    """The function without assignments of variables, and with a choice of several branches as choices of two.

    What reads a variable reads the value that it has now. TensorFlow's conversion to constants would feed a
    number to an op that assigns, and would lower a `Case` to switches that have no gradient; and XLA, which
    pads what a branch of an `If` did not compute, overwrites memory in place of that in the gradient of a
    `Case` (TensorFlow 2.20).

    Args:
        function: a model's forward pass; its outputs are flat.
        name: the model's, for messages.

    Returns:
        The function, as it was where nothing of this is in it, and the names of the captured placeholders
        of variables that it assigned.

    Raises:
        ExportError: an output depends on what was assigned to a variable in the same call.
    """
    graph_def = function.graph.as_graph_def()
    functions = functions_of(graph_def.node, graph_def)
    bodies = [graph_def.node, *(body.node_def for body in functions.values())]
    if not any(node.op in _ASSIGNING | _CASES for body in bodies for node in body):
        return function, frozenset()
    handles = {node_name(placeholder.name): handle for handle, placeholder in function.graph.captures}
    outputs = [tensor.name for tensor in function.outputs]
    found = _Analysis(functions).body(graph_def.node, list(handles), outputs)
    if stale := sorted(set().union(*found.stale)):
        by_handle = {id(variable.handle): variable.name for variable in function.graph.variables}
        named = (by_handle.get(id(handles.get(root)), root).removesuffix(":0") for root in stale)
        names = ", ".join(map(repr, named))
        raise ExportError(
            f"the class scores of {name} depend on what its forward pass has just assigned to the variable "
            f"{names}; a served model keeps no state",
            hint="export a module:callable whose forward pass assigns no variable that its scores read",
        )
    chosen: list[FunctionDef] = []
    for body in bodies:
        _drop_assignments(body)
        chosen += [made for node in body if node.op in _CASES for made in _as_choices_of_two(node)]
    for function_def in functions.values():
        _forget_dropped(function_def)
    library = GraphDef()
    library.library.function.extend([*functions.values(), *chosen])
    own = with_own_functions(graph_def.node, library)
    own.versions.CopyFrom(graph_def.versions)
    rebuilt = function_from_graph_def(
        own,
        [tensor.name for tensor in function.inputs if node_name(tensor.name) not in handles],
        outputs,
        captures=handles,
    )
    rebuilt.graph.variables = function.graph.variables
    return rebuilt, frozenset(found.written)


def frozen(function: ConcreteFunction) -> GraphDef:
    """What the outputs of a function need, as a graph in which its variables are constants.

    These are the first steps of TensorFlow's `convert_variables_to_constants_v2`, without the last, which
    makes a function of the graph again. For that it enters the functions of loops and branches into the
    process, by names that its optimizer gives to those of every graph, such as `while_cond_function`: a
    second model in the same process cannot enter its own (TensorFlow 2.20).

    Args:
        function: what `freezable` gave; its first input is the image. Inputs and outputs keep their names.
    """
    data = _FunctionConverterDataInEager(func=function, lower_control_flow=False, aggressive_inlining=False)
    graph_def, _ = _replace_variables_by_constants(converter_data=data)
    nodes = {node.name: node for node in graph_def.node}
    needed: set[str] = set()
    pending = [node_name(tensor.name) for tensor in (function.inputs[0], *function.outputs)]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += [node_name(i) for i in nodes[name].input if not i.startswith("^")]
    own = with_own_functions([node for node in graph_def.node if node.name in needed], graph_def)
    own.versions.CopyFrom(graph_def.versions)
    return own


def _drop_assignments(body: MutableSequence[NodeDef]) -> None:
    dropped = {node.name for node in body if node.op in _ASSIGNING}
    for node in [node for node in body if node.name in dropped]:
        body.remove(node)
    for node in body:
        kept = [name for name in node.input if not (name.startswith("^") and name[1:] in dropped)]
        if len(kept) < len(node.input):
            node.input[:] = kept


def _as_choices_of_two(node: NodeDef) -> Iterator[FunctionDef]:
    """Makes a call of a `Case`: of a function that takes the first branch or calls the next such function.

    As in a `Case`, an index that is out of range takes the last branch.

    Yields:
        The functions.
    """
    branches = [branch.name for branch in node.attr["branches"].list.func]
    stateful = node.op == "Case"
    call = "StatefulPartitionedCall" if stateful else "PartitionedCall"
    name = f"{branches[0]}_of_{len(branches)}"
    arguments = list(node.attr["Tin"].list.type)
    outputs = list(node.attr["Tout"].list.type)
    del node.attr["branches"], node.attr["Tin"]
    node.op = call
    node.attr["Tin"].list.type.extend([types_pb2.DT_INT32, *arguments])
    node.attr["f"].func.name = f"{name}_from_0"

    def function(own_name: str, nodes: Sequence[NodeDef], result: NodeDef) -> FunctionDef:
        made = FunctionDef(node_def=[*nodes, result])
        made.signature.name = own_name
        made.signature.is_stateful = stateful
        made.signature.input_arg.add(name="branch_index", type=types_pb2.DT_INT32)
        for index, dtype in enumerate(arguments):
            made.signature.input_arg.add(name=f"argument_{index}", type=dtype)
        for index, dtype in enumerate(outputs):
            made.signature.output_arg.add(name=f"output_{index}", type=dtype)
            made.ret[f"output_{index}"] = f"{result.name}:output:{index}"
        return made

    given = [f"argument_{index}" for index in range(len(arguments))]
    for place, branch in enumerate(branches):
        called = NodeDef(name="called", op=call, input=given)
        called.attr["Tin"].list.type.extend(arguments)
        called.attr["Tout"].list.type.extend(outputs)
        called.attr["f"].func.name = branch
        if place == len(branches) - 1:
            yield function(f"{name}_from_{place}", [], called)
            continue
        yield function(f"{name}_only_{place}", [], called)
        number = constant("number", np.array(place, np.int32))
        is_it = NodeDef(name="is_it", op="Equal", input=["branch_index", "number:output:0"])
        is_it.attr["T"].type = types_pb2.DT_INT32
        chosen = NodeDef(name="chosen", op="If" if stateful else "StatelessIf")
        chosen.input.extend(["is_it:z:0", "branch_index", *given])
        chosen.attr["Tcond"].type = types_pb2.DT_BOOL
        chosen.attr["Tin"].list.type.extend([types_pb2.DT_INT32, *arguments])
        chosen.attr["Tout"].list.type.extend(outputs)
        chosen.attr["output_shapes"].CopyFrom(node.attr["output_shapes"])
        chosen.attr["then_branch"].func.name = f"{name}_only_{place}"
        chosen.attr["else_branch"].func.name = f"{name}_from_{place + 1}"
        yield function(f"{name}_from_{place}", [number, is_it], chosen)


def _forget_dropped(function: FunctionDef) -> None:
    """Removes from what a function runs for its effects alone what is no longer there."""
    left = {node.name for node in function.node_def}
    gone = [name for name, node in function.control_ret.items() if node not in left]
    for name in gone:
        del function.control_ret[name]
    kept = [name for name in function.signature.control_output if name not in gone]
    function.signature.control_output[:] = kept


@dataclass(frozen=True)
class _State:
    """What a body does with variables, each named by the argument or node that its handle comes from.

    Attributes:
        written: those that it assigns.
        read: those that it reads.
        stale: for each output, those that it depends on as read after they were assigned: what would be
            stale if the assignment were dropped.
    """

    written: frozenset[str]
    read: frozenset[str]
    stale: tuple[frozenset[str], ...]


class _Analysis:
    """What the functions of a graph do with variables."""

    def __init__(self, functions: Mapping[str, FunctionDef]) -> None:
        self.functions = functions
        self.known: dict[str, _State] = {}

    def function(self, name: str) -> tuple[FunctionDef, _State]:
        function = self.functions[name]
        if name not in self.known:
            arguments = [argument.name for argument in function.signature.input_arg]
            outputs = [function.ret[output.name] for output in function.signature.output_arg]
            self.known[name] = self.body(function.node_def, arguments, outputs)
        return function, self.known[name]

    def body(self, nodes: Sequence[NodeDef], arguments: Sequence[str], outputs: Sequence[str]) -> _State:
        """Of one body; its handles of variables come from arguments, or from ops that make them."""
        roots = {name: name for name in arguments}
        before: dict[str, frozenset[str]] = {}
        stale: dict[tuple[str, int], frozenset[str]] = {}
        written: frozenset[str] = frozenset()
        read: frozenset[str] = frozenset()
        nothing: frozenset[str] = frozenset()
        for node in _in_order(nodes):
            data = [name for name in node.input if not name.startswith("^")]
            if node.op == "VarHandleOp":
                roots[node.name] = node.name
            elif node.op == "Identity" and node_name(data[0]) in roots:
                roots[node.name] = roots[node_name(data[0])]
            earlier = nothing.union(*(before.get(node_name(name), nothing) for name in node.input))
            inherited = nothing.union(*(stale.get(_tensor(name), nothing) for name in data))
            state = self._of_node(node, data, roots)
            before[node.name] = earlier | state.written
            written, read = written | state.written, read | state.read
            for index in range(max(1, len(state.stale))):
                inner = state.stale[index] if state.stale else nothing
                stale[node.name, index] = inherited | (state.read & earlier) | inner
            if not state.stale and (own := stale[node.name, 0]):
                # How many outputs the op has is not asked: all of them are alike.
                stale |= {(node.name, index): own for index in range(_MOST_OUTPUTS)}
        return _State(written, read, tuple(stale.get(_tensor(name), nothing) for name in outputs))

    def _of_node(self, node: NodeDef, data: Sequence[str], roots: Mapping[str, str]) -> _State:
        handle = {roots[node_name(data[0])]} if data and node_name(data[0]) in roots else set()
        if node.op in _ASSIGNING:
            return _State(frozenset(handle), frozenset(), ())
        if node.op in _READING:
            return _State(frozenset(), frozenset(handle), ())
        written: set[str] = set()
        read: set[str] = set()
        stale: list[set[str]] = []
        for name in called_functions(node):
            if name not in self.functions:
                continue
            function, state = self.function(name)
            given = data[_BEFORE_ARGUMENTS.get(node.op, 0) :]
            passed = {
                argument.name: roots[node_name(value)]
                for argument, value in zip(function.signature.input_arg, given, strict=False)
                if node_name(value) in roots
            }
            written |= {passed[root] for root in state.written if root in passed}
            read |= {passed[root] for root in state.read if root in passed}
            of_outputs = [{passed[root] for root in roots_ if root in passed} for roots_ in state.stale]
            stale += [set() for _ in of_outputs[len(stale) :]]
            for own, more in zip(stale, of_outputs, strict=False):
                own |= more
        if node.op in _LOOPS:
            # What one turn assigns the next one reads.
            stale = [own | (written & read) for own in stale]
        return _State(frozenset(written), frozenset(read), tuple(map(frozenset, stale)))


_MOST_OUTPUTS = 64


def _tensor(name: str) -> tuple[str, int]:
    """(node, place among its outputs) of a tensor, as graphs and as functions write it."""
    parts = name.split(":")
    return parts[0], int(parts[-1]) if len(parts) > 1 else 0


def _in_order(nodes: Sequence[NodeDef]) -> Iterator[NodeDef]:
    """The nodes, each after what it reads and what it waits for."""
    by_name = {node.name: node for node in nodes}
    done: set[str] = set()
    for root in by_name:
        stack = [(root, iter(by_name[root].input))]
        begun = {root}
        while stack:
            name, inputs = stack[-1]
            if name in done:
                stack.pop()
                continue
            following = (node_name(i) for i in inputs)
            missing = next((i for i in following if i in by_name and i not in done and i not in begun), None)
            if missing is None:
                done.add(name)
                stack.pop()
                yield by_name[name]
            else:
                begun.add(missing)
                stack.append((missing, iter(by_name[missing].input)))
