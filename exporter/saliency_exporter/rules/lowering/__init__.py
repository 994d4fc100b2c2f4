"""Rules that replace an op by an equal function that compiles to faster code.

A rule takes (node, data inputs) and returns the node's outputs, or None to have the op imported as it is.
Values and input gradients stay equal to float32 rounding; gradients with respect to weights are not given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf
from saliency_exporter.rules.lowering.depthwise import depthwise
from saliency_exporter.rules.lowering.max_pool import max_pool

LoweringRule = Callable[[tf.compat.v1.NodeDef, Sequence[tf.Tensor]], "Sequence[tf.Tensor] | None"]


def lowering_rules(target: Literal["cpu", "gpu"]) -> dict[str, LoweringRule]:
    """Lowering rules by op type, for functions compiled by XLA on the target device.

    None on a GPU: there XLA hands convolutions and pooling to cuDNN, whose kernels these rules would replace
    by plain loops. Uncompiled, the rules are slower than the native ops on every device.

    Raises:
        ValueError: the target is neither "cpu" nor "gpu".
    """
    if target == "gpu":
        return {}
    if target == "cpu":
        return {"DepthwiseConv2dNative": depthwise, "MaxPool": max_pool}
    raise ValueError(f"target must be 'cpu' or 'gpu', not {target!r}")
