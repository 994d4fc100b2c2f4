"""What is asked about a node and its inputs, and how a node is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.op_def_pb2 import OpDef
from tensorflow.python.framework import op_def_registry

_SOURCES = frozenset({"ReadVariableOp", "Const"})
_PASSED_ON = frozenset({"Cast", "Identity", "Reshape"})


def attribute(node: NodeDef, name: str) -> AttrValue:
    """An attribute of a node, empty where the node has none; `node.attr[name]` would add it to the node."""
    return node.attr[name] if name in node.attr else AttrValue()


def output_types(node: NodeDef) -> list[tf.DType] | None:
    """The dtypes of a node's outputs, by the definition of its op; None where the process has none of it."""
    definition = op_def_registry.get(node.op)
    if definition is None:
        return None
    types: list[int] = []
    for output in definition.output_arg:
        if output.type_list_attr:
            types.extend(attribute(node, output.type_list_attr).list.type)
            continue
        number = attribute(node, output.number_attr).i if output.number_attr else 1
        own = output.type or attribute(node, output.type_attr).type or _default(definition, output.type_attr)
        types.extend([own] * number)
    return [tf.as_dtype(value) for value in types]


def _default(definition: OpDef, name: str) -> int:
    """The type that an attribute of a type is where a node does not say it."""
    return next(attr.default_value.type for attr in definition.attr if attr.name == name)


_MANTISSA_BITS = {tf.bfloat16: 8, tf.float16: 11, tf.float32: 24, tf.float64: 53}


def unit_roundoff(dtype: tf.DType) -> float:
    """2⁻ᵖ for a float of p bits of mantissa, the hidden one included; 0 for what is no float.

    Rounding to the nearest number changes a number by at most that part of it (Higham, Accuracy and
    Stability of Numerical Algorithms, 2002, theorem 2.2).
    """
    bits = _MANTISSA_BITS.get(tf.as_dtype(dtype))
    return 0.0 if bits is None else 2.0**-bits


def gives_arrays(node: NodeDef) -> bool:
    """Whether every output is numbers or truth values, and the op keeps nothing between runs."""
    definition, types = op_def_registry.get(node.op), output_types(node)
    if definition is None or types is None or definition.is_stateful:
        return False
    return not any(dtype in (tf.variant, tf.resource, tf.string) for dtype in types)


def is_weight(tensor: tf.Tensor) -> bool:
    """Whether a tensor of the function being traced is a variable's value or a constant.

    The rules give no gradient with respect to weights. A kernel that is computed from the image
    (dynamic convolution) is not one, and must keep its gradient.
    """
    while True:
        if (outside := _outside(tensor)) is not None:
            if isinstance(outside, tf.__internal__.EagerTensor):
                return True
            tensor = outside
        elif tensor.op.type in _PASSED_ON:
            tensor = tensor.op.inputs[0]
        else:
            return tensor.op.type in _SOURCES


def _outside(tensor: tf.Tensor) -> tf.Tensor | None:
    """What a tensor of a function stands for, where it stands for one of the function around it."""
    if tensor.op.type != "Placeholder":
        return None
    captures = getattr(tensor.graph, "captures", ())
    return next((outer for outer, inner in captures if inner is tensor), None)


def is_plain_convolution(node: NodeDef, inputs: Sequence[tf.Tensor]) -> bool:
    """Whether a convolution is NHWC, with all shapes known but the batch, and its kernel a weight."""
    x, kernel = inputs
    return (
        attribute(node, "data_format").s != b"NCHW"
        and x.shape[1:].is_fully_defined()
        and kernel.shape.is_fully_defined()
        and is_weight(kernel)
    )


def constant(name: str, value: np.ndarray) -> NodeDef:
    """A node that gives an array."""
    node = NodeDef(name=name, op="Const")
    proto = tf.make_tensor_proto(value)
    node.attr["value"].tensor.CopyFrom(proto)
    node.attr["dtype"].type = proto.dtype
    return node
