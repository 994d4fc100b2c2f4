"""Makes a written SavedModel's graph smaller without changing what it computes.

A server walks the whole graph when it loads a model and again for every new set of outputs that a request
asks for; with lowered ops most of the graph is index constants. Measured on EfficientNet-Lite0 for a CPU,
merging equal constants, dropping unread nodes and recorded shapes halves that time, and keeping Grappler
out of what XLA compiles halves it again. Then a function is lowered to XLA for each program, before a
server can look into a cache of programs; there each ReLU takes milliseconds, and none as a maximum.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from saliency_exporter.graph.forward_graph import called_functions
from saliency_exporter.runtime.grappler import calls_without_grappler


def slim(version_dir: Path, *, grappler: bool = True) -> None:
    """Rewrites `saved_model.pb` with every function slimmed.

    Args:
        version_dir: what was saved.
        grappler: whether there is anything in it for Grappler to do: what XLA does not compile.
    """
    path = version_dir / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for meta_graph in saved_model.meta_graphs:
        library = meta_graph.graph_def.library
        compiled = _compiled(library)
        _keep_grappler_out(library, compiled)
        if not grappler:
            calls_without_grappler(meta_graph.graph_def)
        for function in library.function:
            if function.signature.name in compiled:
                _without_rectifiers(function)
            _merge_equal_constants(function)
            _drop_unread_nodes(function)
            for node in function.node_def:
                # Recorded by Python while tracing; the runtime infers shapes itself.
                node.attr.pop("_output_shapes", None)
    path.write_bytes(saved_model.SerializeToString(deterministic=True))
    write_fingerprint(str(version_dir))


def _compiled(library: function_pb2.FunctionDefLibrary) -> set[str]:
    """The names of the functions that XLA compiles: what is marked so, and all that is called from there."""
    functions = {function.signature.name: function for function in library.function}
    pending = [
        node.attr["f"].func.name
        for function in library.function
        for node in function.node_def
        # Reading an absent key of the map would add it.
        if "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b
    ]
    compiled: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in compiled:
            compiled.add(name)
            pending.extend(name for node in functions[name].node_def for name in called_functions(node))
    return compiled


def _keep_grappler_out(library: function_pb2.FunctionDefLibrary, compiled: Container[str]) -> None:
    """Marks functions that are optimized elsewhere as none of Grappler's business in the whole graph.

    XLA optimizes what it compiles; and TensorFlow optimizes a function that is called and not inlined when it
    is made ready to run. Of all marks that Grappler's meta optimizer respects, tf.data's is the one that has
    no other effect on a function that is not tf.data's.
    """
    for function in library.function:
        uninlined = "_noinline" in function.attr and function.attr["_noinline"].b
        if uninlined or function.signature.name in compiled:
            function.attr["_tf_data_function"].b = True


def _without_rectifiers(function: function_pb2.FunctionDef) -> None:
    """Writes Relu as a maximum and Relu6 as a clamp, in what XLA compiles: XLA's instructions are the same.

    TensorFlow lowers these two by an MLIR pipeline, which it builds anew for each of them; what they become
    it lowers directly. Gradients are ops of their own and stay.
    """
    renamed: dict[str, str] = {}
    for node in list(function.node_def):
        if node.op not in ("Relu", "Relu6"):
            continue
        dtype = tf.as_dtype(node.attr["T"].type)
        bounds = {"low": 0} if node.op == "Relu" else {"low": 0, "high": 6}
        for part, bound in bounds.items():
            value = tf.make_tensor_proto(bound, dtype)
            name = f"{node.name}/{part}"
            constant = function.node_def.add(name=name, op="Const")
            constant.attr["dtype"].type = dtype.as_datatype_enum
            constant.attr["value"].tensor.CopyFrom(value)
            node.input.insert(1 + list(bounds).index(part), f"{name}:output:0")
        node.op, output = ("Maximum", "z") if node.op == "Relu" else ("ClipByValue", "output")
        renamed[f"{node.name}:activations:0"] = f"{node.name}:{output}:0"
    for node in function.node_def:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    for result, name in function.ret.items():
        function.ret[result] = renamed.get(name, name)


def _merge_equal_constants(function: function_pb2.FunctionDef) -> None:
    first: dict[bytes, str] = {}
    aliases: dict[str, str] = {}
    for node in function.node_def:
        if node.op == "Const" and not node.input:
            value = node.attr["value"].SerializeToString(deterministic=True)
            aliases[node.name] = first.setdefault(value, node.name)
    for node in function.node_def:
        inputs = [_renamed(name, aliases) for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
    for result, name in function.ret.items():
        function.ret[result] = _renamed(name, aliases)


def _renamed(name: str, aliases: dict[str, str]) -> str:
    """An input of a function's node, `node:output:index`, `argument` or `^node`, with the node renamed."""
    prefix = "^" if name.startswith("^") else ""
    node, *rest = name.removeprefix("^").split(":")
    return prefix + ":".join([aliases.get(node, node), *rest])


def _drop_unread_nodes(function: function_pb2.FunctionDef) -> None:
    """Keeps what the results and the control results (assertions) need."""
    nodes = {node.name: node for node in function.node_def}
    kept: set[str] = set()
    pending = [*_node_names(function.ret.values()), *function.control_ret.values()]
    while pending:
        name = pending.pop()
        if name in nodes and name not in kept:
            kept.add(name)
            pending.extend(_node_names(nodes[name].input))
    remaining: list[node_def_pb2.NodeDef] = [node for node in function.node_def if node.name in kept]
    del function.node_def[:]
    function.node_def.extend(remaining)


def _node_names(inputs: Iterable[str]) -> list[str]:
    return [name.removeprefix("^").split(":")[0] for name in inputs]
