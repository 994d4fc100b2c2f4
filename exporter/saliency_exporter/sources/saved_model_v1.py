"""SavedModels of TensorFlow 1 whose variables or tables TensorFlow 2 does not track.

TensorFlow 1 kept a variable as a node of the graph (VariableV2), and a table too (HashTableV2). TensorFlow 2
loads such a graph and runs it, but it neither tracks them nor saves them again. Here every signature is made
a function anew, of the same nodes, on variables and tables of TensorFlow 2 with the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.python.saved_model import loader_impl

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.runtime.inlined import Inlined, needed_nodes, run, without_records

v1 = tf.compat.v1

_REFERENCES = frozenset({"Variable", "VariableV2"})
_HANDLES = frozenset({"VarHandleOp"})
_TABLES = frozenset({"HashTable", "HashTableV2"})
_RESOURCES = (
    "Mutable",
    "Anonymous",
    "LookupTable",
    "InitializeTable",
    "Iterator",
    "OneShotIterator",
    "FIFOQueue",
)
"""How ops begin whose state is filled while the graph is served, or before: it cannot be carried over."""
_NOT_STATE = frozenset({"LookupTableFind", "LookupTableFindV2", "LookupTableSize", "LookupTableSizeV2"})
_SERVE = "serve"


def is_needed(path: Path) -> bool:
    """Whether the graph for serving has what TensorFlow 2 does not track; false where it cannot be read."""
    try:
        saved_model = loader_impl.parse_saved_model(str(path))
    except (OSError, tf.errors.OpError):
        return False
    return any(
        node.op in _REFERENCES or (node.op in _TABLES and not meta_graph.HasField("object_graph_def"))
        for meta_graph in saved_model.meta_graphs
        if _SERVE in meta_graph.meta_info_def.tags
        for node in meta_graph.graph_def.node
    )


class Loaded(tf.Module):
    """Every signature of the graph for serving as a function, and the variables and tables that they share.

    Attributes:
        left_out: signature name to the op for which it could not be made anew.
    """

    def __init__(
        self,
        weights: Mapping[str, tf.Variable],
        tables: Mapping[str, tf.lookup.StaticHashTable],
        signatures: Mapping[str, ConcreteFunction],
        left_out: Mapping[str, str],
    ) -> None:
        """Holds variables and tables, which are saved with the module, and functions, which are not."""
        super().__init__()
        self.weights = dict(weights)
        self.tables = dict(tables)
        self._signatures = signatures
        self._left_out = dict(left_out)

    @property
    def signatures(self) -> Mapping[str, ConcreteFunction]:
        """Signature name to ConcreteFunction of keyword tensors to a mapping of tensors."""
        return self._signatures

    @property
    def left_out(self) -> Mapping[str, str]:
        """Signature name to the op for which it could not be made anew."""
        return self._left_out


def load(path: Path) -> Loaded:
    """Loads the graph for serving.

    Raises:
        ExportError: it cannot be loaded, or every signature needs what cannot be carried over.
    """
    try:
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            meta_graph = v1.saved_model.loader.load(session, [_SERVE], str(path))
            graph_def = without_records(graph.as_graph_def())
            definitions = {
                key: signature
                for key, signature in sorted(meta_graph.signature_def.items())
                if signature.outputs and key != "__saved_model_init_op"
            }
            reached = {key: _reached(graph_def, signature) for key, signature in definitions.items()}
            left_out = {key: op for key, nodes in reached.items() if (op := _not_carried_over(nodes))}
            nodes = {n.name: n for key, nodes in reached.items() if key not in left_out for n in nodes}
            values = {name: _value(session, node) for name, node in sorted(nodes.items()) if _is_state(node)}
    except Exception as error:
        raise ExportError(
            f"SavedModel {path} cannot be loaded: {brief(error)}",
            hint="is the directory complete, with its folder variables?",
        ) from error
    if left_out and len(left_out) == len(definitions):
        key, op = next(iter(left_out.items()))
        raise ExportError(
            f"signature {key} of {path} needs {op}, whose content a server fills",
            hint="save the model again with TensorFlow 2, or export the network alone as module:callable",
        )
    weights = {
        name: tf.Variable(value, name=name) for name, value in values.items() if nodes[name].op not in _TABLES
    }
    tables = {name: _table(*value) for name, value in values.items() if nodes[name].op in _TABLES}
    kept = _with_second_lookups(graph_def)
    signatures = {
        key: _function(kept, definitions[key], nodes, weights, tables)
        for key in definitions
        if key not in left_out
    }
    return Loaded(weights, tables, signatures, left_out)


def _reached(graph_def: GraphDef, signature: SignatureDef) -> list[NodeDef]:
    """The nodes that the signature's outputs depend on."""
    given = [info.name for info in signature.inputs.values()]
    return needed_nodes(graph_def, given, [info.name for info in signature.outputs.values()])


def _not_carried_over(nodes: list[NodeDef]) -> str:
    """The op and name of a node whose state cannot be read; empty where there is none."""
    for node in nodes:
        if node.op.startswith(_RESOURCES) and node.op not in _NOT_STATE:
            return f"{node.op} {node.name}"
    return ""


def _is_state(node: NodeDef) -> bool:
    return node.op in _REFERENCES | _HANDLES | _TABLES


def _value(session: Any, node: NodeDef) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """A variable's value, or the keys and values of a table."""
    tensor = session.graph.get_tensor_by_name(f"{node.name}:0")
    if node.op in _REFERENCES:
        return session.run(tensor)
    if node.op in _HANDLES:
        return session.run(tf.raw_ops.ReadVariableOp(resource=tensor, dtype=node.attr["dtype"].type))
    export = tf.raw_ops.LookupTableExportV2 if node.op == "HashTableV2" else tf.raw_ops.LookupTableExport
    types = {"Tkeys": node.attr["key_dtype"].type, "Tvalues": node.attr["value_dtype"].type}
    return session.run(export(table_handle=tensor, **types))


def _table(keys: np.ndarray, values: np.ndarray) -> tf.lookup.StaticHashTable:
    pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values))
    # Every lookup names the default that it gives, so the table's own is never given.
    return tf.lookup.StaticHashTable(pairs, tf.zeros([], pairs.value_dtype))


def _with_second_lookups(graph_def: GraphDef) -> GraphDef:
    """A copy whose lookups take tables by their handles, as those of TensorFlow 2 do."""
    copy = GraphDef()
    copy.CopyFrom(graph_def)
    for node in copy.node:
        if node.op in ("LookupTableFind", "LookupTableSize"):
            node.op += "V2"
    return copy


def _function(
    graph_def: GraphDef,
    signature: SignatureDef,
    nodes: Mapping[str, NodeDef],
    weights: Mapping[str, tf.Variable],
    tables: Mapping[str, tf.lookup.StaticHashTable],
) -> ConcreteFunction:
    handles = {f"{name}:0": table.resource_handle for name, table in tables.items()}
    handles |= {f"{name}:0": weights[name].handle for name in weights if nodes[name].op in _HANDLES}
    variables = tuple(weights[name] for name in weights if nodes[name].op in _HANDLES)
    graph = Inlined(graph_def, (), (), handles, variables)
    fetches = [info.name for info in signature.outputs.values()]
    reached = {node.name for node in _reached(graph_def, signature)}
    references = [name for name in weights if nodes[name].op in _REFERENCES and name in reached]

    def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        given = {signature.inputs[alias].name: tensor for alias, tensor in inputs.items()}
        given |= {f"{name}:0": weights[name].read_value() for name in references}
        return dict(zip(signature.outputs, run(graph, given, fetches), strict=True))

    specs = {
        alias: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.as_dtype(info.dtype), name=alias)
        for alias, info in sorted(signature.inputs.items())
    }
    return tf.function(call, autograph=False).get_concrete_function(**specs)
