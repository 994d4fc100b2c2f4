"""What an explanation cannot be served with: random scores, Python functions, programs of JAX."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.forward_graph import ForwardGraph, called_functions, node_name, tensor_name
from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.runtime.inlined import inlined, needed_nodes, ops_of, read_only

_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_DRAWN = frozenset({"Multinomial", "ParameterizedTruncatedNormal"})
_OF_A_GENERATOR = frozenset({"RngReadAndSkip", "RngSkip", "StatefulUniform", "StatefulStandardNormalV2"})
_CALLS = ("StatefulPartitionedCall", "PartitionedCall", "Func")
_EXAMPLES, _RUNS, _SHOWN = 8, 4, 5


def refuse_unservable(graph: ForwardGraph, name: str, captured: Container[str]) -> None:
    """Refuses a model whose class scores are random, or come from what a server does not have.

    Random numbers that do not change the scores (those of a dropout whose rate is held at 0) are kept, and
    so are those of a stateless op whose seed and shape are constants: they are the same at every call.

    Args:
        graph: pruned to the class scores.
        name: the model, for messages.
        captured: names of the constants that are variables of the model, such as a seed that it counts up.

    Raises:
        ExportError: with the names of the layers or ops.
    """
    nodes = list(_all_nodes(graph))
    python = [node for node in nodes if node.op in _PYTHON]
    if python:
        raise ExportError(
            f"the class scores of {name} need a Python function ({_listed(python)}), which no server has",
            hint="write it with TensorFlow operations in place of tf.py_function or tf.numpy_function",
        )
    programs = [node for node in nodes if node.op == "XlaCallModule"]
    if programs:
        raise ExportError(
            f"{name} is a compiled program, as JAX exports it (XlaCallModule {_listed(programs)}): it has no "
            "gradient",
            hint="export the .keras file of the model, which Keras also loads with KERAS_BACKEND=tensorflow",
        )
    counted = [node for node in nodes if _is_stateless_draw(node) and _varies(node, graph, captured)]
    drawn = [node for node in nodes if _is_draw(node)]
    random = counted or drawn
    if random and (counted or not _repeats(graph)):
        raise _random(name, random)


def without_state(function: ConcreteFunction, name: str) -> ConcreteFunction:
    """A model's function on variables that stay as they are while it runs.

    Raises:
        ExportError: its scores depend on a `tf.random.Generator`, which draws from a variable.
    """
    if ops_of(function) & _OF_A_GENERATOR:
        graph = inlined(function)
        drawn = [n for n in needed_nodes(graph.graph_def, (), graph.outputs) if n.op in _OF_A_GENERATOR]
        if drawn:
            raise _random(name, drawn)
    return read_only(function)


def _random(name: str, nodes: Sequence[NodeDef]) -> ExportError:
    return ExportError(
        f"the class scores of {name} are random: they depend on {_listed(nodes)}",
        hint="it was saved with augmentation, or with dropout as in training; export the .keras file of the "
        "model, whose layers know when they do not train, or save the model with training=False",
    )


def _is_draw(node: NodeDef) -> bool:
    return node.op in _DRAWN or ("Random" in node.op and not node.op.startswith("Stateless"))


def _is_stateless_draw(node: NodeDef) -> bool:
    return node.op.startswith("Stateless") and ("Random" in node.op or "Normal" in node.op)


def _varies(node: NodeDef, graph: ForwardGraph, captured: Container[str]) -> bool:
    """Whether a stateless draw depends on the input or on a variable, by its seed or its shape."""
    nodes = graph.node_map()
    if node.name not in nodes:
        return True  # Inside a loop or a branch, where a seed is an argument.
    seen: set[str] = set()
    pending = [node.name]
    while pending:
        source = pending.pop()
        if source in captured or source == graph.input:
            return True
        if source in nodes and source not in seen:
            seen.add(source)
            pending += map(node_name, nodes[source].input)
    return False


def _repeats(graph: ForwardGraph) -> bool:
    """Whether the same examples have the same scores each time."""
    nodes = [node for node in graph.nodes if node.name != graph.input]
    graph_def = GraphDef(node=nodes, library=graph.library.library)
    graph_def.versions.producer = graph.producer
    read = {tensor_name(name) for node in nodes for name in node.input}
    shape = (_EXAMPLES, *graph.input_shape)
    examples = np.random.default_rng(20260104).uniform(0, 1, shape).astype(np.float32)

    @tf.function(autograph=False)
    def scores(x: tf.Tensor) -> Sequence[tf.Tensor]:
        given = {f"{name}:0": tf.constant(weight) for name, weight in graph.weights.items()}
        given[f"{graph.input}:0"] = x
        return tf.graph_util.import_graph_def(
            graph_def,
            input_map={name: tensor for name, tensor in given.items() if name in read},
            return_elements=[graph.scores],
            name="",
        )

    first, *others = [scores(tf.constant(examples))[0].numpy() for _ in range(_RUNS)]
    scale = np.abs(first).max()
    return all(bool(np.all(np.abs(other - first) <= 1e-5 * scale)) for other in others)


def _all_nodes(graph: ForwardGraph) -> Iterator[NodeDef]:
    """The nodes, and those of the functions that they run."""
    functions = {function.signature.name: function for function in graph.library.library.function}
    seen: set[str] = set()
    pending = list(graph.nodes)
    while pending:
        node = pending.pop()
        yield node
        for called in called_functions(node):
            if called in functions and called not in seen:
                seen.add(called)
                pending += functions[called].node_def


def _listed(nodes: Sequence[NodeDef]) -> str:
    """Nodes by their layers, without the calls that they were reached by."""
    plain = sorted({_layer(node.name) for node in nodes})
    shown = ", ".join(plain[:_SHOWN])
    return shown + (f" and {len(plain) - _SHOWN} more" if len(plain) > _SHOWN else "")


def _layer(name: str) -> str:
    """`model/layer` of the name of one of the layer's ops."""
    parts = [part for part in name.split("/") if not part.startswith(_CALLS)] or [name]
    return "/".join(parts[:2])
