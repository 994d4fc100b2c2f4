"""SavedModels of TensorFlow 1 whose variables are of the old kind, which TensorFlow 2 does not capture.

TensorFlow 1 kept a variable as a node of the graph (VariableV2). TensorFlow 2 loads such a graph and runs
it, but neither tracks these variables nor saves them again. Here every signature is made a function anew, of
the same nodes, on variables of the new kind with the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.python.saved_model import loader_impl

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.runtime.functions import ConcreteFunction

v1 = tf.compat.v1

_VARIABLES = frozenset({"Variable", "VariableV2"})
# What a graph of TensorFlow 1 initializes beside its variables would stay empty in a graph made anew.
_RESOURCES = ("VarHandleOp", "HashTable", "LookupTable", "MutableHashTable")
_SERVE = "serve"


def has_reference_variables(path: Path) -> bool:
    """Whether the graph for serving has variables of the old kind; false where it cannot be read."""
    try:
        saved_model = loader_impl.parse_saved_model(str(path))
    except (OSError, tf.errors.OpError):
        return False
    return any(
        node.op in _VARIABLES
        for meta_graph in saved_model.meta_graphs
        if _SERVE in meta_graph.meta_info_def.tags
        for node in meta_graph.graph_def.node
    )


class Loaded(tf.Module):
    """Every signature of the graph for serving as a function, and the variables that they share."""

    def __init__(
        self, weights: Mapping[str, tf.Variable], signatures: Mapping[str, ConcreteFunction]
    ) -> None:
        """Holds the variables, which are saved with the module, and the functions, which are not."""
        super().__init__()
        self.weights = dict(weights)
        self._signatures = signatures

    @property
    def signatures(self) -> Mapping[str, ConcreteFunction]:
        """Signature name to ConcreteFunction of keyword tensors to a mapping of tensors."""
        return self._signatures


def load(path: Path) -> Loaded:
    """Loads the graph for serving.

    Raises:
        ExportError: it cannot be loaded, or also has variables or tables that cannot be carried over.
    """
    try:
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            meta_graph = v1.saved_model.loader.load(session, [_SERVE], str(path))
            definitions = {
                key: signature
                for key, signature in sorted(meta_graph.signature_def.items())
                if signature.outputs and key != "__saved_model_init_op"
            }
            graphs = {key: _reached(graph, path, key, signature) for key, signature in definitions.items()}
            names = sorted({n.name for g in graphs.values() for n in g.node if n.op in _VARIABLES})
            values = session.run([f"{name}:0" for name in names])
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"SavedModel {path} cannot be loaded: {brief(error)}",
            hint="is the directory complete, with its folder variables?",
        ) from error
    weights = {name: tf.Variable(value, name=name) for name, value in zip(names, values, strict=True)}
    signatures = {key: _function(graphs[key], definitions[key], weights) for key in definitions}
    return Loaded(weights, signatures)


def _reached(graph: tf.Graph, path: Path, key: str, signature: SignatureDef) -> GraphDef:
    """The nodes that the signature's outputs depend on."""
    outputs = [info.name.split(":")[0] for info in signature.outputs.values()]
    reached = v1.graph_util.extract_sub_graph(graph.as_graph_def(), outputs)
    for node in reached.node:
        if node.op.startswith(_RESOURCES):
            raise ExportError(
                f"signature {key} of {path} needs {node.op} {node.name} beside variables of TensorFlow 1",
                hint="save the model again with TensorFlow 2, or export the network alone as module:callable",
            )
    return reached


def _function(
    graph_def: GraphDef, signature: SignatureDef, weights: Mapping[str, tf.Variable]
) -> ConcreteFunction:
    fed = {info.name.split(":")[0] for info in signature.inputs.values()}
    kept = GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.name in fed or node.op in _VARIABLES:
            continue
        copy = kept.node.add()
        copy.CopyFrom(node)
        # Where the graph was trained, and beside which variable, says nothing about where it is served.
        copy.ClearField("device")
        copy.attr.pop("_class", None)
    read = {name for node in kept.node for name in node.input}

    def run(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        given = {signature.inputs[alias].name: tensor for alias, tensor in inputs.items()}
        given |= {
            f"{name}:0": variable.read_value()
            for name, variable in weights.items()
            if name in read or f"{name}:0" in read
        }
        given = {name: tensor for name, tensor in given.items() if {name, name.removesuffix(":0")} & read}
        outputs = tf.graph_util.import_graph_def(
            kept,
            input_map=given,
            return_elements=[info.name for info in signature.outputs.values()],
            name="",
        )
        return dict(zip(signature.outputs, outputs, strict=True))

    specs = {
        alias: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.as_dtype(info.dtype), name=alias)
        for alias, info in sorted(signature.inputs.items())
    }
    return tf.function(run, autograph=False).get_concrete_function(**specs)
