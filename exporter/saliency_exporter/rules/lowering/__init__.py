"""Rules that replace an op by an equal function that is faster on the target.

A rule takes (node, data inputs) and returns the node's outputs, or None to have the op imported as it is.
Values and input gradients stay equal to float32 rounding; gradients with respect to weights are not given.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import Rule
from saliency_exporter.rules.lowering.convolution import convolution
from saliency_exporter.rules.lowering.dense import dense
from saliency_exporter.rules.lowering.depthwise import depthwise
from saliency_exporter.rules.lowering.max_pool import max_pool
from saliency_exporter.rules.lowering.pointwise import pointwise, pointwise_uncompiled
from saliency_exporter.rules.lowering.strided import strided_uncompiled
from saliency_exporter.rules.lowering.thresholds import UNCOMPILED
from saliency_exporter.rules.lowering.winograd import winograd
from saliency_exporter.runtime.kernels import Kernels


def lowering_rules(
    target: Literal["cpu", "gpu"], *, compiled: bool = True, kernels: Kernels = "onednn"
) -> dict[str, Rule]:
    """Lowering rules by op type, for functions that run on the target device.

    None on a GPU: there XLA hands convolutions and pooling to cuDNN, whose kernels these rules would replace
    by plain loops. Uncompiled on a CPU, TensorFlow's kernels are the fastest but where `thresholds` says that
    a rule is, for each set of them.

    Args:
        target: the device.
        compiled: whether XLA compiles the functions.
        kernels: what runs the functions where XLA does not compile them.

    Raises:
        ValueError: the target is neither "cpu" nor "gpu".
    """
    if target == "gpu":
        return {}
    if target == "cpu" and not compiled:
        worth = UNCOMPILED[kernels]
        return {
            "Conv2D": _first_of(
                functools.partial(pointwise_uncompiled, worth=worth.products),
                functools.partial(strided_uncompiled, most_channels=worth.strided_channels),
                functools.partial(winograd, worth=worth.minimal),
            )
        }
    if target == "cpu":
        return {
            "Conv2D": _first_of(pointwise, winograd, convolution, depthwise),
            "DepthwiseConv2dNative": depthwise,
            "MatMul": dense,
            "MaxPool": max_pool,
        }
    raise ValueError(f"target must be 'cpu' or 'gpu', not {target!r}")


def _first_of(*rules: Rule) -> Rule:
    """The outputs of the first rule that takes the node, or None."""

    def rule(node: NodeDef, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor] | None:
        return next((outputs for r in rules if (outputs := r(node, inputs)) is not None), None)

    return rule
