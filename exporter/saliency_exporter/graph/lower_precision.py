"""A forward graph whose products, and what is between them, compute in fewer bits: for samples of a mean.

The ops are divided as mixed precision training divides them (Micikevicius et al. 2018, arXiv 1710.03740,
section 3.3): products of large tensors gain and add up in float32 inside of their kernels; what works number
by number, or moves numbers, follows where its inputs are in fewer bits already. All else stays float32:
softmax, exponentials and logarithms, means, variances and normalization, loops, and what has a gradient of
its own. Nothing changes for integers and truth values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.op_def_pb2 import OpDef
from tensorflow.python.framework import kernels, op_def_registry

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.forward_graph import (
    ForwardGraph,
    Replacement,
    node_name,
    tensor_name,
)
from saliency_exporter.graph.gates import is_gate
from saliency_exporter.graph.layer_names import innermost, layer_names
from saliency_exporter.graph.nodes import attribute, constant, output_types

Precision = Literal["float32", "bfloat16", "float16"]

_PRODUCTS: Mapping[str, str | None] = {
    "Conv2D": "Conv2DBackpropInput",
    "Conv2DBackpropInput": "Conv2D",
    "Conv3D": "Conv3DBackpropInputV2",
    "Conv3DBackpropInputV2": "Conv3D",
    "DepthwiseConv2dNative": "DepthwiseConv2dNativeBackpropInput",
    "MatMul": None,
    "BatchMatMul": None,
    "BatchMatMulV2": None,
    "Einsum": None,
}
"""Ops that compute in fewer bits whatever they are given, and the op of their gradient if that is another."""

_FOLLOWING: Mapping[str, str | None] = {
    **{
        op: f"{op}Grad"
        for op in ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "MaxPool", "MaxPool3D")
    },
    **{op: f"{op}Grad" for op in ("AvgPool", "AvgPool3D")},
    **dict.fromkeys(("Add", "AddV2", "AddN", "BiasAdd", "Sub", "Mul", "Neg", "Maximum", "Minimum")),
    **dict.fromkeys(("Reshape", "Transpose", "ExpandDims", "Squeeze", "ConcatV2", "Pack", "Unpack")),
    **dict.fromkeys(("Split", "SplitV", "Slice", "StridedSlice", "Pad", "PadV2", "MirrorPad", "Tile")),
    **dict.fromkeys(("SpaceToBatchND", "BatchToSpaceND", "DepthToSpace", "SpaceToDepth", "BroadcastTo")),
    **dict.fromkeys(("Select", "SelectV2", "Identity", "EnsureShape")),
}
"""Ops that compute in fewer bits where all that they take of the image is in fewer bits already."""

_MOVED = frozenset({"Reshape", "ExpandDims", "Squeeze", "Identity", "EnsureShape", "Slice", "Pack", "Unpack"})
"""Ops without arithmetic, which have a kernel of any dtype."""


@dataclass(frozen=True)
class Lowered:
    """A graph in fewer bits.

    Attributes:
        graph: the graph; weights are those of the original.
        weights: tensor name of a weight in fewer bits to the weight's name. The graph makes them by casts.
        replacements: those of the original, for this graph.
    """

    graph: ForwardGraph
    weights: Mapping[str, str]
    replacements: tuple[Replacement, ...]


def in_fewer_bits(
    graph: ForwardGraph, dtype: tf.DType, model: str, replacements: Sequence[Replacement] = ()
) -> Lowered:
    """The graph with its products in another dtype. Its input stays float32, and names of tensors stay.

    A tensor that a replay is asked for may come in fewer bits. The ops of a replacement of several nodes
    stay float32, for which its rule is made.

    Args:
        graph: of a model in float32.
        dtype: float16 or bfloat16.
        model: its name, for messages.
        replacements: what the replay will put in place of nodes.

    Raises:
        ExportError: TensorFlow has no kernel in that dtype for an op or its gradient.
    """
    several = [group for group in replacements if len(group.nodes) > 1]
    grouped = {name for group in several for name in group.nodes}
    rewrite = _Rewrite(graph, dtype, model, ends={group.output for group in several})
    for node in graph.nodes:
        rewrite.add(node, stays=node.name in grouped)
    moved = tuple(
        replace(group, input=group.input if group.nodes & rewrite.turned else rewrite.in_float32(group.input))
        for group in replacements
    )
    return Lowered(replace(graph, nodes=tuple(rewrite.nodes)), rewrite.cast_weights, moved)


@dataclass
class _Rewrite:
    """The nodes so far, and what is known of their tensors, all by the names that tensors have.

    What `ends` names is in float32 for its replacement alone: ops behind it follow as if it were not.
    """

    graph: ForwardGraph
    dtype: tf.DType
    model: str
    ends: set[str]
    turned: set[str] = field(default_factory=set)
    nodes: list[NodeDef] = field(default_factory=list)
    floats: set[str] = field(default_factory=set)
    low: set[str] = field(default_factory=set)
    varying: set[str] = field(default_factory=set)
    constants: dict[str, NodeDef] = field(default_factory=dict)
    casts: dict[tuple[str, tf.DType], str] = field(default_factory=dict)
    cast_weights: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.floats |= {f"{name}:0" for name, w in self.graph.weights.items() if w.dtype == np.float32}
        self.varying.add(f"{self.graph.input}:0")

    def in_float32(self, name: str) -> str:
        """The name of what nodes that stay float32 read for a tensor."""
        return self.casts.get((name, tf.float32), name)

    def add(self, node: NodeDef, *, stays: bool) -> None:
        """Adds a node, in fewer bits or with casts in front of it."""
        inputs = [tensor_name(name) for name in node.input]
        outputs = [f"{node.name}:{index}" for index in range(len(output_types(node) or ()))]
        if any(name in self.varying for name in inputs):
            self.varying.update(outputs)
        types = output_types(node) or ()
        self.floats |= {name for name, dtype in zip(outputs, types, strict=True) if dtype == tf.float32}
        if node.op == "Const":
            self.constants[f"{node.name}:0"] = node
        turned = _of_type(node, input=True) if not stays and self.turns(node, inputs) else None
        if turned is not None:
            self.turned.add(node.name)
            self.check_kernels(node)
        wanted = dict.fromkeys(turned or (), self.dtype)
        names = [
            self.as_dtype(name, wanted.get(index, tf.float32)) if name in self.floats else name
            for index, name in enumerate(inputs)
        ]
        made = NodeDef()
        made.CopyFrom(node)
        del made.input[:]
        made.input.extend(names)
        if turned is not None:
            made.attr["T"].type = self.dtype.as_datatype_enum
            self.low.update(outputs[index] for index in _of_type(node, input=False))
        self.nodes.append(made)

    def turns(self, node: NodeDef, inputs: Sequence[str]) -> bool:
        """Whether a node computes in fewer bits."""
        if node.op not in (*_PRODUCTS, *_FOLLOWING) or is_gate(node):
            return False
        if attribute(node, "T").type != tf.float32.as_datatype_enum:
            return False
        of_image = [inputs[i] for i in _of_type(node, input=True) if inputs[i] in self.varying]
        return bool(of_image) and (
            node.op in _PRODUCTS or all(name in self.low or name in self.ends for name in of_image)
        )

    def as_dtype(self, name: str, dtype: tf.DType) -> str:
        """The name of a float tensor in a dtype, for which a cast is added where it has the other."""
        has = self.dtype if name in self.low else tf.float32
        if has == dtype:
            return name
        if (name, dtype) not in self.casts:
            node = f"{name.replace(':', '_')}/{dtype.name}"
            self.casts[name, dtype] = f"{node}:0"
            if name in self.constants:
                value = tf.make_ndarray(self.constants[name].attr["value"].tensor)
                self.nodes.append(constant(node, value.astype(dtype.as_numpy_dtype)))
            else:
                cast = NodeDef(name=node, op="Cast", input=[name])
                cast.attr["SrcT"].type, cast.attr["DstT"].type = has.as_datatype_enum, dtype.as_datatype_enum
                self.nodes.append(cast)
            if node_name(name) in self.graph.weights:
                self.cast_weights[f"{node}:0"] = node_name(name)
        return self.casts[name, dtype]

    def check_kernels(self, node: NodeDef) -> None:
        if node.op in _MOVED:
            return
        for op in filter(None, (node.op, {**_PRODUCTS, **_FOLLOWING}[node.op])):
            if not _has_kernel(op, self.dtype):
                layer = innermost(layer_names(n.name for n in self.graph.nodes), node.name)
                other = {"float16": "bfloat16 or "}.get(self.dtype.name, "")
                raise ExportError(
                    f"TensorFlow has no kernel for {op} in {self.dtype.name}, which samples of {self.model} "
                    f"need in layer {layer}",
                    hint=f"--sample-precision {other}float32",
                )


def _of_type(node: NodeDef, *, input: bool) -> list[int]:
    """Positions of the inputs, or outputs, whose dtype is the node's attribute T."""
    definition: OpDef = op_def_registry.get(node.op)
    positions: list[int] = []
    at = 0
    for arg in definition.input_arg if input else definition.output_arg:
        number = attribute(node, arg.number_attr).i if arg.number_attr else 1
        positions += range(at, at + number) if arg.type_attr == "T" else ()
        at += number
    return positions


def _has_kernel(op: str, dtype: tf.DType) -> bool:
    """Whether this process has a CPU kernel for an op of that dtype."""
    number = dtype.as_datatype_enum
    return any(
        kernel.device_type == "CPU"
        and all(
            number in constraint.allowed_values.list.type
            for constraint in kernel.constraint
            if constraint.name == "T"
        )
        for kernel in kernels.get_registered_kernels_for_op(op).kernel
    )
