"""What is asked about a node and its inputs, and how a node is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.node_def_pb2 import NodeDef

_SOURCES = frozenset({"ReadVariableOp", "Const"})
_PASSED_ON = frozenset({"Cast", "Identity", "Reshape"})


def attribute(node: NodeDef, name: str) -> AttrValue:
    """An attribute of a node, empty where the node has none; `node.attr[name]` would add it to the node."""
    return node.attr[name] if name in node.attr else AttrValue()


def is_weight(tensor: tf.Tensor) -> bool:
    """Whether a tensor of the function being traced is a variable's value or a constant.

    The rules give no gradient with respect to weights. A kernel that is computed from the image
    (dynamic convolution) is not one, and must keep its gradient.
    """
    op = tensor.op
    while op.type in _PASSED_ON:
        op = op.inputs[0].op
    return op.type in _SOURCES


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
