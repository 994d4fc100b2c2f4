"""The swish of TensorFlow, which has a gradient of its own to keep one tensor less in memory.

The gradient is that of the ops in front; what is inlined or saved may lose the function that computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef


@dataclass(frozen=True)
class Swish:
    """x · sigmoid(beta · x): the tensor x, the constant, and the tensor that holds it, where one does."""

    x: str
    beta: float
    held_by: str = ""


def swish_of(node: NodeDef, nodes: Mapping[str, NodeDef]) -> Swish | None:
    """The swish that an IdentityN passes on, as TensorFlow writes it: (y, x, …) with y = x · sigmoid(…)."""
    if node.op != "IdentityN" or len(node.input) < 2:
        return None
    x = origin(node.input[1], nodes)
    gate = _other_factor(node.input[0], x, nodes)
    sigmoid = nodes.get(_node_of(gate))
    if sigmoid is None or sigmoid.op != "Sigmoid":
        return None
    inside = origin(sigmoid.input[0], nodes)
    if inside == x:
        return Swish(x, 1.0)
    beta = _other_factor(inside, x, nodes)
    value = nodes.get(_node_of(beta))
    while value is not None and value.op == "Cast":
        value = nodes.get(_node_of(origin(value.input[0], nodes)))
    if value is None or value.op != "Const" or value.attr["value"].tensor.tensor_shape.dim:
        return None
    return Swish(x, float(tf.make_ndarray(value.attr["value"].tensor)), beta)


def origin(name: str, nodes: Mapping[str, NodeDef]) -> str:
    """The tensor that a name stands for, behind ops that only pass it on."""
    while (node := nodes.get(_node_of(name))) is not None and node.op == "Identity":
        name = node.input[0]
    return name if ":" in name else f"{name}:0"


def _other_factor(product: str, factor: str, nodes: Mapping[str, NodeDef]) -> str:
    """What a tensor is the product of beside one factor; "" where it is no such product."""
    node = nodes.get(_node_of(origin(product, nodes)))
    if node is None or node.op != "Mul":
        return ""
    first, second = (origin(name, nodes) for name in node.input)
    return second if first == factor else first if second == factor else ""


def _node_of(name: str) -> str:
    return name.removeprefix("^").split(":")[0]
