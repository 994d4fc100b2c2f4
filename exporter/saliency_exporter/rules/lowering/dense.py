"""Dense layers, whose input gradient reads the weight in the order of its memory."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.nodes import attribute, is_weight
from saliency_exporter.rules.lowering._products import product


def dense(node: NodeDef, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor] | None:
    """MatMul of [B, features] by a weight [features, units].

    None (import the op as it is) for transposed operands, unknown shapes and products of two activations.
    """
    x, weight = inputs
    if attribute(node, "transpose_a").b or attribute(node, "transpose_b").b:
        return None
    if not weight.shape.is_fully_defined() or not is_weight(weight):
        return None
    return [product(x, weight, rows_per_example=1)]
