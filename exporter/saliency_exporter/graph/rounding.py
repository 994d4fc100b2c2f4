"""How much rounding there is in a forward pass: of which dtype, through how many ops, past how many kinks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import ForwardGraph, node_name
from saliency_exporter.graph.library import functions_of
from saliency_exporter.graph.nodes import output_types, unit_roundoff

_LINEAR = frozenset(
    {"Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"}
    | {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"}
)
_KINKED = frozenset(
    {"Relu", "Relu6", "LeakyRelu", "Maximum", "Minimum", "ClipByValue", "Abs", "MaxPool", "MaxPool3D", "Max"}
)
"""Ops whose derivative jumps; a selection is told from a kink by its condition, and is left out."""
_NOT_ROUNDED = frozenset(
    {"Reshape", "Transpose", "ConcatV2", "Concat", "Split", "SplitV", "StridedSlice", "Slice", "Pad", "PadV2"}
    | {"ExpandDims", "Squeeze", "Pack", "Unpack", "Cast", "GatherV2", "Select", "SelectV2", "Identity"}
    | {"Const", "Placeholder", "EnsureShape", "Tile", "BroadcastTo", "SpaceToBatchND", "BatchToSpaceND"}
    | _KINKED
)


@dataclass(frozen=True)
class Rounding:
    """The rounding in a forward pass.

    Attributes:
        dtype: the dtype with the fewest bits that a linear op computes in: "float32", "float16", "bfloat16",
            "float64".
        depth: how many ops that round follow one another at most; one turn of a loop after the other.
        kinks: how many ops whose derivative jumps follow one another at most.
    """

    dtype: str = "float32"
    depth: int = 0
    kinks: int = 0

    @property
    def unit(self) -> float:
        """The unit roundoff of the dtype."""
        return unit_roundoff(tf.as_dtype(self.dtype))


def rounding_of(graph: ForwardGraph) -> Rounding:
    """The rounding in a forward pass; of a model without a linear op, that of float32."""
    depths: dict[str, int] = {}
    kinks: dict[str, int] = {}
    constants = {node.name: node for node in graph.nodes if node.op == "Const"}
    dtypes: set[str] = set()
    for node in graph.nodes:
        before = [node_name(name) for name in node.input]
        inner = [n for function in functions_of([node], graph.library).values() for n in function.node_def]
        turns = 1
        if inner and "While" in node.op and (most := constants.get(before[1])) is not None:
            turns = max(1, int(np.ravel(tf.make_ndarray(most.attr["value"].tensor))[0]))
        own = inner or [node]
        rounded = sum(1 for n in own if n.op not in _NOT_ROUNDED and _is_float(n)) * turns
        kinked = sum(1 for n in own if n.op in _KINKED and _is_float(n)) * turns
        depths[node.name] = max((depths.get(name, 0) for name in before), default=0) + rounded
        kinks[node.name] = max((kinks.get(name, 0) for name in before), default=0) + kinked
        dtypes |= {_float(n) for n in own if n.op in _LINEAR and _is_float(n)}
    end = node_name(graph.scores)
    dtype = max(dtypes or {"float32"}, key=lambda name: unit_roundoff(tf.as_dtype(name)))
    return Rounding(dtype, depths.get(end, 0), kinks.get(end, 0))


def _float(node: NodeDef) -> str:
    return next(dtype.name for dtype in output_types(node) or () if dtype.is_floating)


def _is_float(node: NodeDef) -> bool:
    return any(dtype.is_floating for dtype in output_types(node) or ())
