"""The constants of a frozen SavedModel as variables, which its own signatures and the explanations share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.runtime.inlined import Inlined, inlined, run

_WEIGHT_BYTES = 1024
"""What is smaller stays a constant, which a compiler may fold."""

_WORTH_BYTES = 2**20
"""A SavedModel with fewer bytes of constants stays as it is: its signatures are the very same functions."""


def with_shared_constants(
    signatures: Mapping[str, ConcreteFunction],
) -> tuple[dict[str, ConcreteFunction], tuple[tf.Variable, ...]] | None:
    """Signatures that read variables where they had constants, so that weights are stored once.

    Args:
        signatures: functions of keyword tensors to a mapping of tensors.

    Returns:
        The same signatures anew, and their variables; None where there is little to share.
    """
    if max(map(_constant_bytes, signatures.values()), default=0) < _WORTH_BYTES:
        return None
    weights: dict[bytes, tf.Variable] = {}
    anew = {key: _anew(inlined(function), function, weights) for key, function in signatures.items()}
    return anew, tuple(weights.values())


def _constant_bytes(function: ConcreteFunction) -> int:
    graph_def = function.graph.as_graph_def()
    nodes = [*graph_def.node, *(node for called in graph_def.library.function for node in called.node_def)]
    captured = [tensor for tensor in function.captured_inputs if _is_captured_weight(tensor)]
    return sum(node.ByteSize() for node in nodes if _is_weight(node)) + sum(map(_bytes, captured))


def _anew(graph: Inlined, function: ConcreteFunction, weights: dict[bytes, tf.Variable]) -> ConcreteFunction:
    shared: dict[str, tf.Variable] = {}
    for node in graph.graph_def.node:
        if _is_weight(node):
            value = node.attr["value"].tensor
            digest = hashlib.sha256(value.SerializeToString(deterministic=True)).digest()
            if digest not in weights:
                weights[digest] = tf.Variable(tf.make_ndarray(value), trainable=False, name=node.name)
            shared[f"{node.name}:0"] = weights[digest]
    for name, tensor in _captured(graph).items():
        key = f"captured {id(tensor)}".encode()
        if key not in weights:
            weights[key] = tf.Variable(tensor, trainable=False)
        shared[name] = weights[key]
    specs = function.structured_input_signature[1]
    outputs = sorted(function.structured_outputs)

    def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        given = dict(zip(graph.inputs, (inputs[key] for key in sorted(inputs)), strict=True))
        given |= {name: variable.read_value() for name, variable in shared.items()}
        return dict(zip(outputs, run(graph, given, graph.outputs), strict=True))

    return tf.function(call, autograph=False).get_concrete_function(
        **{key: tf.TensorSpec(specs[key].shape, specs[key].dtype, name=key) for key in sorted(specs)}
    )


def _captured(graph: Inlined) -> dict[str, tf.Tensor]:
    """Weights that the function captured as tensors, by the placeholder's tensor name."""
    return {name: tensor for name, tensor in graph.captures.items() if _is_captured_weight(tensor)}


def _is_captured_weight(tensor: tf.Tensor) -> bool:
    return tensor.dtype.is_floating and bool(tensor.shape.rank) and _bytes(tensor) >= _WEIGHT_BYTES


def _bytes(tensor: tf.Tensor) -> int:
    return int(tensor.shape.num_elements()) * int(tensor.dtype.size)


def _is_weight(node: NodeDef) -> bool:
    if node.op != "Const" or not tf.as_dtype(node.attr["dtype"].type).is_floating:
        return False
    return bool(node.attr["value"].tensor.tensor_shape.dim) and node.ByteSize() >= _WEIGHT_BYTES
