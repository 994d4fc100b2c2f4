"""Elementwise ops as functions of NumPy arrays, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef

Array = np.ndarray

erf = np.vectorize(math.erf, otypes=[np.float64])
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x)), without overflow."""
    return np.where(x >= 0, 1.0, np.exp(np.minimum(x, 0))) / (1.0 + np.exp(-np.abs(x)))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.logaddexp(0.0, x)


def elu(x: Array) -> Array:
    """X above 0, exp(x) − 1 below."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Add": np.add,
    "AddV2": np.add,
    "Div": np.divide,
    "Elu": elu,
    "Erf": erf,
    "Erfc": erfc,
    "Exp": np.exp,
    "Expm1": np.expm1,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Log1p": np.log1p,
    "LogicalAnd": np.logical_and,
    "LogicalNot": np.logical_not,
    "LogicalOr": np.logical_or,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "RealDiv": np.divide,
    "Relu": lambda x: np.maximum(x, 0),
    "Relu6": lambda x: np.clip(x, 0, 6),
    "Select": np.where,
    "SelectV2": np.where,
    "Selu": lambda x: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    "Sigmoid": sigmoid,
    "Softplus": softplus,
    "Square": np.square,
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "ClipByValue": np.clip,
}
WITH_ATTRIBUTES = frozenset({"LeakyRelu", "Cast"})

# Ops that bend a function. A part without any of them is not an activation.
BENDS = frozenset(ELEMENTWISE) - {"Add", "AddV2", "Sub", "Neg", "Mul", "Div", "RealDiv"} | {"LeakyRelu"}


def apply(node: NodeDef, operands: Sequence[Array]) -> Array:
    """What a node of one of the ops above computes."""
    if node.op == "Cast":
        return operands[0].astype(np.float64)
    if node.op == "LeakyRelu":
        return np.where(operands[0] > 0, operands[0], node.attr["alpha"].f * operands[0])
    return ELEMENTWISE[node.op](*operands)
