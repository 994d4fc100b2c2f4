"""How often the loops of a forward graph turn, where that is known before an image is seen.

To differentiate a loop, TensorFlow keeps what each turn computed in a list. XLA has to know the length of
that list, and takes it from the loop's maximum number of iterations: that a loop over five numbers ends after
five turns it does not find out by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.evaluate import evaluate, independent_of_input, static_shapes
from saliency_exporter.graph.forward_graph import (
    ForwardGraph,
    called_functions,
    calls_functions,
    node_name,
    tensor_name,
)
from saliency_exporter.graph.nodes import attribute, constant, gives_arrays, output_types

_LOOPS = frozenset({"While", "StatelessWhile"})
_BRANCHES = frozenset({"If", "StatelessIf"})
_MAXIMUM = 1
"""The place of the maximum number of iterations among a loop's inputs; −1 is none."""
_MOST_TURNS = 100_000
_OF_SHAPES = frozenset({"Shape", "Size", "Rank"})

Values = Mapping[int, np.ndarray]
"""What is known of arguments, by their place."""


def with_known_lengths(graph: ForwardGraph) -> ForwardGraph:
    """The graph whose loops have their number of turns as the maximum, where it depends on no image.

    A loop's number of turns is found by running what its condition reads, and nothing else of it.
    """
    callers = [node for node in graph.nodes if calls_functions(node)]
    if not callers:
        return graph
    library = GraphDef()
    library.CopyFrom(graph.library)
    functions = {function.signature.name: function for function in library.library.function}
    known = _known_inputs(graph, callers)
    lengths: dict[str, int] = {}
    for node in callers:
        inputs = enumerate(map(tensor_name, node.input))
        given = {place: known[name] for place, name in inputs if name in known}
        if node.op in _LOOPS and (maximum := given.get(_MAXIMUM)) is not None:
            turns = _turns(node, functions, given) if _is_open(maximum) else int(maximum)
            lengths |= {} if turns is None else {node.name: turns}
        _set_lengths_inside(node, functions, given)
    nodes: list[NodeDef] = []
    for node in graph.nodes:
        if node.name in lengths:
            length = constant(f"{node.name}/turns", np.int32(lengths[node.name]))
            copy = NodeDef()
            copy.CopyFrom(node)
            copy.input[_MAXIMUM] = f"{length.name}:0"
            nodes += [length, copy]
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), library=library)


def refuse_for_xla(graph: ForwardGraph, name: str) -> None:
    """Refuses to have a model compiled whose gradient XLA cannot compile.

    Raises:
        ExportError: it names the loops and says why.
    """
    reasons = beyond_xla(graph)
    if reasons:
        raise ExportError(
            f"XLA cannot compile the gradient of {name}: {'; '.join(reasons)}",
            hint="--compile none exports the same signatures without XLA",
        )


def beyond_xla(graph: ForwardGraph) -> list[str]:
    """Why XLA cannot compile the gradient of a model, in one clause for each loop; empty where it can.

    XLA needs to know how often a loop turns that a gradient passes through. Of a branch it keeps what the
    gradient needs, and of the branch that is not taken as much, empty: a list of such values in a loop, and
    the lists of a loop in a branch, have no shape that fits both. And a TensorArray that grows has no size
    that XLA could reserve; on one it ends the process (TensorFlow 2.20).
    """
    functions = {function.signature.name: function for function in graph.library.library.function}
    maxima = {tensor_name(node.input[_MAXIMUM]) for node in graph.nodes if node.op in _LOOPS}
    # One that grows with the batch is known to XLA, which compiles for one batch size.
    known = _values(graph, maxima, batch=1) if maxima else {}
    variable = {graph.input}
    reasons: list[str] = []
    for node in graph.nodes:
        if not any(node_name(name) in variable for name in node.input):
            continue
        variable.add(node.name)
        name = readable(node.name)
        if node.op in _LOOPS and _is_differentiated(node):
            maximum = known.get(tensor_name(node.input[_MAXIMUM]))
            if maximum is None or maximum < 0:
                reasons.append(f"how often the loop {name} turns is known only while it runs")
        if _grows(node):
            reasons.append(f"a TensorArray grows: {name}")
        reasons += _beyond_xla_inside(node, name, functions)
    return list(dict.fromkeys(reasons))


def _grows(node: NodeDef) -> bool:
    """Whether a node writes to a TensorArray that was made with dynamic_size=True."""
    return node.op == "TensorListSetItem" and attribute(node, "resize_if_index_out_of_bounds").b


def _is_differentiated(node: NodeDef) -> bool:
    return any(dtype.is_floating or dtype == tf.variant for dtype in output_types(node) or ())


def _beyond_xla_inside(node: NodeDef, name: str, functions: Mapping[str, FunctionDef]) -> Iterator[str]:
    """The same of the functions that a node runs, in whatever depth."""
    pending = [(called, node.op) for called in called_functions(node)]
    seen: set[tuple[str, str]] = set()
    while pending:
        called, inside = pending.pop()
        if (called, inside) in seen or called not in functions:
            continue
        seen.add((called, inside))
        nodes = {inner.name: inner for inner in functions[called].node_def}
        for inner in nodes.values():
            own = readable(inner.name)
            if inner.op in _LOOPS and _is_differentiated(inner):
                maximum = nodes.get(node_name(inner.input[_MAXIMUM]))
                if maximum is not None and maximum.op == "Const" and _is_open(_value(maximum)):
                    yield f"how often the loop {own} in {name} turns is known only while it runs"
                if inside in _BRANCHES:
                    yield f"the branch {name} has the loop {own} inside"
            if inside in _LOOPS and inner.op in _BRANCHES and _is_differentiated(inner):
                yield f"the loop {name} has the branch {own} inside"
            if _grows(inner):
                yield f"a TensorArray grows in {name}: {own}"
            # A loop in a branch in a loop is both.
            kind = inner.op if inner.op in _LOOPS | _BRANCHES else inside
            pending += [(further, kind) for further in called_functions(inner)]


def readable(name: str) -> str:
    """The name of a node without what calls of functions add to it."""
    name = re.sub(r"_tfg_inlined_.*", "", name)
    return "/".join(part for part in name.split("/") if not part.endswith("PartitionedCall"))


def _is_open(maximum: np.ndarray | None) -> bool:
    """Whether a maximum is one that says that there is none."""
    return maximum is not None and maximum.ndim == 0 and bool(maximum < 0)


def _value(node: NodeDef) -> np.ndarray:
    return tf.make_ndarray(node.attr["value"].tensor)


def _known_inputs(graph: ForwardGraph, callers: Sequence[NodeDef]) -> dict[str, np.ndarray]:
    """The inputs of nodes that depend on no image, by tensor name; of shapes, what is so for every batch."""
    if not callers:
        return {}
    names = {tensor_name(name) for node in callers for name in node.input}
    of_one, of_two = (_values(graph, names, batch) for batch in (1, 2))
    return {
        name: value
        for name, value in of_one.items()
        if name in of_two and np.array_equal(value, of_two[name])
    }


def _values(graph: ForwardGraph, names: set[str], batch: int) -> dict[str, np.ndarray]:
    shapes = static_shapes(graph, batch)
    nodes = tuple(_with_shapes_known(node, shapes) for node in graph.nodes)
    known = replace(graph, nodes=nodes)
    independent = independent_of_input(known, of_any_size=True)
    wanted = sorted(name for name in names if node_name(name) in independent)
    if not wanted:
        return {}
    return dict(zip(wanted, evaluate(known, list(independent.values()), wanted), strict=True))


def _with_shapes_known(node: NodeDef, shapes: Mapping[str, list[int | None]]) -> NodeDef:
    """The node, or the constant that it is where it asks for a shape that is known."""
    shape = shapes.get(tensor_name(node.input[0])) if node.op in _OF_SHAPES else None
    if shape is None or None in shape:
        return node
    dtype = (output_types(node) or [tf.int32])[0].as_numpy_dtype
    sizes = np.array(shape, dtype)
    return constant(node.name, {"Shape": sizes, "Size": sizes.prod(), "Rank": dtype(len(shape))}[node.op])


def _set_lengths_inside(node: NodeDef, functions: Mapping[str, FunctionDef], given: Values) -> None:
    """Gives the loops in the functions that a node runs their maximum, as far as constants tell it.

    Args:
        node: of the graph.
        functions: the library, which is changed.
        given: what is known of the node's inputs.
    """
    callers = Counter(
        name
        for function in functions.values()
        for inner in function.node_def
        for name in called_functions(inner)
    )
    pending = [(node, given)]
    seen: set[str] = set()
    while pending:
        caller, values = pending.pop()
        before = 1 if caller.op in _BRANCHES else 0
        for name in called_functions(caller):
            if name in seen or name not in functions:
                continue
            seen.add(name)
            function = functions[name]
            known = {inner.name: _value(inner) for inner in function.node_def if inner.op == "Const"}
            for place, argument in enumerate(function.signature.input_arg):
                # What a loop's body changes is known in its first turn alone.
                lasts = caller.op not in _LOOPS or _passes_on(function, place)
                if place + before in values and lasts and callers[name] <= 1:
                    known[argument.name] = values[place + before]
            for inner in list(function.node_def):
                if not calls_functions(inner):
                    continue
                sources = enumerate(map(node_name, inner.input))
                inside = {place: known[source] for place, source in sources if source in known}
                if inner.op in _LOOPS and _is_open(inside.get(_MAXIMUM)):
                    turns = _turns(inner, functions, inside)
                    if turns is not None:
                        length = constant(f"{inner.name}/turns", np.int32(turns))
                        inner.input[_MAXIMUM] = f"{length.name}:output:0"
                        function.node_def.append(length)
                pending.append((inner, inside))


def _passes_on(function: FunctionDef, place: int) -> bool:
    """Whether the body of a loop gives an argument to its next turn as it is."""
    argument = function.signature.input_arg[place].name
    if place >= len(function.signature.output_arg):
        return False
    nodes = {node.name: node for node in function.node_def}
    name = node_name(function.ret[function.signature.output_arg[place].name])
    while name in nodes and nodes[name].op == "Identity":
        name = node_name(nodes[name].input[0])
    return name == argument


def _turns(node: NodeDef, functions: Mapping[str, FunctionDef], given: Values) -> int | None:
    """How often a loop turns that starts from what is given, or None where that is not known."""
    condition, body = (functions[node.attr[name].func.name] for name in ("cond", "body"))
    places = _reached(condition, [condition.signature.output_arg[0].name])
    if places is None:
        return None
    while True:
        outputs = [body.signature.output_arg[place].name for place in sorted(places)]
        more = _reached(body, outputs)
        if more is None:
            return None
        if more <= places:
            break
        places |= more
    if not places <= given.keys() or not places:
        return None
    order = sorted(places)
    goes_on = _slice(condition, order, [condition.signature.output_arg[0].name])
    next_values = _slice(body, order, outputs)

    @tf.function(autograph=False)
    def count(*values: tf.Tensor) -> tf.Tensor:
        turns, *_ = tf.while_loop(
            lambda turn, *now: tf.logical_and(turn < _MOST_TURNS, tf.reshape(goes_on(now)[0], [])),
            lambda turn, *now: (turn + 1, *next_values(now)),
            (tf.constant(0), *values),
        )
        return turns

    with tf.device("/CPU:0"):
        turns = int(count(*(tf.constant(given[place]) for place in order)))
    return turns if turns < _MOST_TURNS else None


def _reached(function: FunctionDef, outputs: Sequence[str]) -> set[int] | None:
    """The places of the arguments that outputs depend on; None where an op there is not a plain function."""
    nodes = {node.name: node for node in function.node_def}
    places = {argument.name: place for place, argument in enumerate(function.signature.input_arg)}
    pending = [node_name(function.ret[name]) for name in outputs]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in places:
            continue
        if calls_functions(nodes[name]) or "Random" in nodes[name].op or not gives_arrays(nodes[name]):
            return None
        pending.extend(node_name(i) for i in nodes[name].input if not i.startswith("^"))
    return {places[name] for name in seen if name in places}


def _slice(
    function: FunctionDef, places: Sequence[int], outputs: Sequence[str]
) -> Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]:
    """The function of the arguments in some places that gives some of its outputs."""
    graph_def, flat_names = function_def_to_graph_def(function)
    wanted = [tensor_name(flat_names.get(function.ret[name], function.ret[name])) for name in outputs]
    by_name = {node.name: node for node in graph_def.node}
    arguments = [function.signature.input_arg[place].name for place in places]
    needed: set[str] = set()
    pending = [node_name(name) for name in wanted]
    while pending:
        name = pending.pop()
        if name not in needed and name not in arguments:
            needed.add(name)
            pending.extend(node_name(i) for i in by_name[name].input if not i.startswith("^"))
    part = GraphDef(versions=graph_def.versions)
    for node in graph_def.node:
        if node.name in needed:
            copy = part.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [name for name in node.input if not name.startswith("^")]
    read = {tensor_name(name) for node in part.node for name in node.input}

    def run(values: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        given = {f"{name}:0": value for name, value in zip(arguments, values, strict=True)}
        inner = [name for name in wanted if name not in given]
        computed = tf.graph_util.import_graph_def(
            part,
            input_map={name: value for name, value in given.items() if name in read},
            return_elements=inner,
            name="",
        )
        return [{**given, **dict(zip(inner, computed, strict=True))}[name] for name in wanted]

    return run
