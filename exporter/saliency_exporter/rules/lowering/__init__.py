"""Rules that replace an op by an equal function that is faster on the target.

A rule takes (node, data inputs) and returns the node's outputs, or None to have the op imported as it is.
Values and input gradients stay equal to float32 rounding; gradients with respect to weights are not given.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from ...forward_graph import Rule
from .convolution import convolution
from .dense import dense
from .depthwise import depthwise
from .max_pool import max_pool
from .pointwise import pointwise, pointwise_uncompiled
from .strided import strided_uncompiled
from .winograd import winograd


def lowering_rules(target: Literal["cpu", "gpu"], *, compiled: bool = True) -> dict[str, Rule]:
    """Lowering rules by op type, for functions that run on the target device.

    None on a GPU: there XLA hands convolutions and pooling to cuDNN, whose kernels these rules would replace
    by plain loops. Uncompiled on a CPU, oneDNN's kernels are the fastest for all but large 3×3 convolutions,
    1×1 ones of very large kernels, and the way back through 1×1 and through a strided first layer.

    Args:
        target: the device.
        compiled: whether XLA compiles the functions.

    Raises:
        ValueError: the target is neither "cpu" nor "gpu".
    """
    if target == "gpu":
        return {}
    if target == "cpu" and not compiled:
        # Down to ResNet50's 14² × 256, for which XLA's own convolution is as fast.
        large = functools.partial(winograd, enough=25_000)
        return {"Conv2D": _first_of(pointwise_uncompiled, strided_uncompiled, large)}
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

    def rule(node: tf.compat.v1.NodeDef, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor] | None:
        return next((outputs for r in rules if (outputs := r(node, inputs)) is not None), None)

    return rule
