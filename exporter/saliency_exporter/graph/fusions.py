"""Keeps TensorFlow's graph rewriter from making ops of several that the kernels at hand get wrong or lack.

Before it runs a graph that is not compiled, TensorFlow's remapper replaces patterns such as convolution, bias
and activation by one op. Which patterns it takes depends on whether oneDNN's kernels are on; what it makes of
some of them, neither set of kernels computes. An export cannot set a server's rewriter, and it does not know
the server's kernels, so such patterns are written in other, equal ops that no pattern takes. Everything else
stays as it is and is made one op as before. The page `exporter/FUSIONS.md` lists all patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.evaluate import static_shapes
from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, tensor_name
from saliency_exporter.graph.nodes import attribute, constant

Rewrite = Callable[[NodeDef, "_Graph"], "list[NodeDef] | None"]
"""`rewrite(node, graph) -> nodes`: what takes the node's place, the last one under its name; or None."""

_ACTIVATIONS = frozenset({"Elu", "LeakyRelu", "Relu", "Relu6"})
_BATCH_NORMALIZATIONS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_CONTRACTIONS = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative", "MatMul"})
_LAST = (b"", b"NHWC", b"NDHWC")


def portable_graph(graph: ForwardGraph) -> ForwardGraph:
    """The graph without patterns of which TensorFlow makes an op that a set of its kernels lacks.

    It computes the same: values are equal but for the rounding of a batch normalization behind a grouped
    convolution. Names of nodes stay, weights too.
    """
    around = _Graph(graph)
    nodes: list[NodeDef] = []
    for node in graph.nodes:
        rewrite = _REWRITES.get(node.op)
        replaced = rewrite(node, around) if rewrite else None
        nodes.extend([node] if replaced is None else replaced)
    return replace(graph, nodes=tuple(nodes))


@dataclass
class _Graph:
    """What a rewrite asks about the nodes around a node."""

    graph: ForwardGraph

    @cached_property
    def nodes(self) -> Mapping[str, NodeDef]:
        return self.graph.node_map()

    @cached_property
    def readers(self) -> Mapping[str, list[NodeDef]]:
        return self.graph.consumers()

    @cached_property
    def grouped(self) -> frozenset[str]:
        """Names of the convolutions that have groups, or may have: of which the channels are not known."""
        convolutions = [node for node in self.graph.nodes if node.op == "Conv2D"]
        shapes = static_shapes(self.graph) if convolutions else {}

        def channels(name: str, axis: int) -> int | None:
            shape = shapes.get(tensor_name(name), [])
            return shape[axis] if len(shape) == 4 else None

        result = set()
        for node in convolutions:
            image, kernel = node.input[:2]
            read = channels(image, -1 if _channels_last(node) else 1)
            if read is None or read != channels(kernel, 2):
                result.add(node.name)
        return frozenset(result)

    def before(self, name: str) -> NodeDef | None:
        return self.nodes.get(node_name(name))


def _channels_last(node: NodeDef) -> bool:
    return attribute(node, "data_format").s in _LAST


def _bias_of(node: NodeDef, around: _Graph) -> NodeDef | None:
    """The convolution or product that the node adds a bias to, or None."""
    if node.op not in ("BiasAdd", "Add", "AddV2") or not _channels_last(node):
        return None
    first, second = node.input[:2]
    for other in [first] if node.op == "BiasAdd" else [first, second]:
        contraction = around.before(other)
        if contraction is not None and contraction.op == "Squeeze":
            contraction = around.before(contraction.input[0])
        if contraction is not None and contraction.op in _CONTRACTIONS:
            return contraction
    return None


def _bias(node: NodeDef, around: _Graph) -> list[NodeDef] | None:
    """A BiasAdd behind a grouped convolution as a sum, which oneDNN's rules take and Eigen's do not."""
    found = _bias_of(node, around)
    if found is None or found.name not in around.grouped:
        return None
    total = NodeDef(name=node.name, op="AddV2", input=list(node.input))
    total.attr["T"].type = node.attr["T"].type
    return [total]


def _sum(node: NodeDef, around: _Graph) -> list[NodeDef] | None:
    """A sum that oneDNN's rules would get wrong as part of what is before and behind it."""
    if _is_misread(node, around):
        # The older op of the same function, which the pattern does not name.
        total = NodeDef(name=node.name, op="Add", input=list(node.input))
        total.attr["T"].type = node.attr["T"].type
        return [total]
    return _apart(node) if _is_fused_wrongly(node, around) else None


def _apart(node: NodeDef) -> list[NodeDef]:
    """The sum with an axis of size 1 in front: no rule finds the bias or the activation through that."""
    axis = constant(f"{node.name}/axis", np.int32(0))
    expanded = []
    for index, name in enumerate(node.input):
        one = NodeDef(name=f"{node.name}/operand_{index}", op="ExpandDims", input=[name, f"{axis.name}:0"])
        one.attr["T"].type = node.attr["T"].type
        one.attr["Tdim"].type = tf.int32.as_datatype_enum
        expanded.append(one)
    total = NodeDef()
    total.CopyFrom(node)
    total.name = f"{node.name}/sum"
    del total.input[:]
    total.input.extend(f"{one.name}:0" for one in expanded)
    squeezed = NodeDef(name=node.name, op="Squeeze", input=[f"{total.name}:0"])
    squeezed.attr["T"].type = node.attr["T"].type
    squeezed.attr["squeeze_dims"].list.i.append(0)
    return [axis, *expanded, total, squeezed]


def _is_fused_wrongly(node: NodeDef, around: _Graph) -> bool:
    """Whether a sum of two is one of (contraction + bias) + x that must not be made part of the contraction.

    With a leaky ReLU behind it, the slope is lost, and 0.2 taken for it. Where something else reads the sum
    too, as a leaky ReLU's gradient or the next residual connection does, the rule takes the sum away all the
    same, and the rewriter gives up the whole graph. And of a product with a transposed operand there is no
    such kernel.
    """
    if len(node.input) != 2 or any(_isconstant(name, around) for name in node.input):
        return False
    producers = [around.before(name) for name in node.input]
    contractions = [_bias_of(producer, around) for producer in producers if producer is not None]
    if not any(contractions):
        return False
    if any(_is_transposed(contraction, around) for contraction in contractions if contraction is not None):
        return True
    readers = around.readers.get(f"{node.name}:0", ())
    kinds = {reader.op for reader in readers}
    is_shared = len(readers) > 1 or f"{node.name}:0" in around.graph.fetched
    return "LeakyRelu" in kinds or (is_shared and not _ACTIVATIONS.isdisjoint(kinds))


def _isconstant(name: str, around: _Graph) -> bool:
    before = around.before(name)
    return before.op == "Const" if before is not None else node_name(name) in around.graph.weights


def _is_transposed(contraction: NodeDef, around: _Graph) -> bool:
    if contraction.op != "MatMul":
        return False
    before = around.before(contraction.input[0])
    return attribute(contraction, "transpose_a").b or (before is not None and before.op == "Transpose")


def _is_misread(node: NodeDef, around: _Graph) -> bool:
    """Whether it is the sum behind a scaled batch of products, and reads another output than an op's first.

    The rule writes down the op that is read, and not which of its outputs.
    """
    if node.op != "AddV2":
        return False
    for scaled, other in (node.input[:2], node.input[1::-1]):
        product = around.before(scaled)
        if product is None or product.op != "Mul":
            continue
        factors = [around.before(name) for name in product.input]
        if any(factor is not None and factor.op == "BatchMatMulV2" for factor in factors) and any(
            not tensor_name(name).endswith(":0") for name in (other, *product.input)
        ):
            return True
    return False


def _batch_normalization(node: NodeDef, around: _Graph) -> list[NodeDef] | None:
    """An inference batch normalization behind a grouped convolution, or before a tanh, as x · scale + offset.

    Eigen's kernels take it into no grouped convolution, and none takes a tanh into a convolution.
    """
    before = around.before(node.input[0])
    if before is None or before.op != "Conv2D" or not _channels_last(node):
        return None
    training = node.attr["is_training"].b if "is_training" in node.attr else True
    others = any(around.readers.get(f"{node.name}:{index}") for index in range(1, 6))
    tanh = any(reader.op == "Tanh" for reader in around.readers.get(f"{node.name}:0", ()))
    if training or others or not (tanh or before.name in around.grouped):
        return None
    return list(_scale_and_offset(node))


def _scale_and_offset(node: NodeDef) -> Iterator[NodeDef]:
    dtype = node.attr["T"].type
    of_statistics = node.attr["U"].type if "U" in node.attr else dtype
    epsilon = node.attr["epsilon"].f if "epsilon" in node.attr else 1e-4
    x, gamma, beta, mean, variance = node.input[:5]

    def op(kind: str, name: str, *inputs: str, dtype: int = of_statistics) -> NodeDef:
        made = NodeDef(name=f"{node.name}/{name}" if name else node.name, op=kind, input=inputs)
        made.attr["T"].type = dtype
        return made

    def cast(name: str, given: str, source: int, target: int) -> NodeDef:
        made = NodeDef(name=f"{node.name}/{name}" if name else node.name, op="Cast", input=[given])
        made.attr["SrcT"].type, made.attr["DstT"].type = source, target
        return made

    inner = f"{node.name}/"
    yield constant(f"{inner}epsilon", np.asarray(epsilon, tf.as_dtype(of_statistics).as_numpy_dtype))
    yield op("AddV2", "spread", variance, f"{inner}epsilon:0")
    yield op("Rsqrt", "precision", f"{inner}spread:0")
    yield op("Mul", "scale", f"{inner}precision:0", gamma)
    yield op("Mul", "scaled_mean", mean, f"{inner}scale:0")
    yield op("Sub", "offset", beta, f"{inner}scaled_mean:0")
    mixed = of_statistics != dtype
    if mixed:
        yield cast("x", x, dtype, of_statistics)
    yield op("Mul", "scaled", f"{inner}x:0" if mixed else x, f"{inner}scale:0")
    yield op("AddV2", "sum" if mixed else "", f"{inner}scaled:0", f"{inner}offset:0")
    if mixed:
        yield cast("", f"{inner}sum:0", of_statistics, dtype)


def _padding(node: NodeDef, around: _Graph) -> list[NodeDef] | None:
    """The zeros in front of a three-dimensional convolution by an op that no rule knows.

    oneDNN's rule takes any padding for the spatial one of a VALID convolution, aborts the process where it is
    int64, and in a graph with the gradient, which reads it too, the rewriter gives up the whole graph.
    """
    if not any(reader.op == "Conv3D" for reader in around.readers.get(f"{node.name}:0", ())):
        return None
    value = constant(f"{node.name}/zero", np.zeros([], tf.as_dtype(node.attr["T"].type).as_numpy_dtype))
    padded = NodeDef(name=node.name, op="PadV2", input=[*node.input, f"{value.name}:0"])
    for name in ("T", "Tpaddings"):
        if name in node.attr:
            padded.attr[name].CopyFrom(node.attr[name])
    return [value, padded]


def _explicit_padding(node: NodeDef, around: _Graph) -> list[NodeDef] | None:
    """A depthwise convolution's own padding as an op in front of it: with a bias, oneDNN's aborts for it."""
    if attribute(node, "padding").s != b"EXPLICIT":
        return None
    pairs = np.array(node.attr["explicit_paddings"].list.i, np.int32).reshape(-1, 2)
    value = constant(f"{node.name}/paddings", pairs)
    padded = NodeDef(name=f"{node.name}/padded", op="Pad", input=[node.input[0], f"{value.name}:0"])
    padded.attr["T"].type = node.attr["T"].type
    padded.attr["Tpaddings"].type = tf.int32.as_datatype_enum
    convolution = NodeDef()
    convolution.CopyFrom(node)
    convolution.input[0] = f"{padded.name}:0"
    convolution.attr["padding"].s = b"VALID"
    del convolution.attr["explicit_paddings"]
    return [value, padded, convolution]


_REWRITES: Mapping[str, Rewrite] = {
    "Add": _sum,
    "AddN": _sum,
    "AddV2": _sum,
    "BiasAdd": _bias,
    "DepthwiseConv2dNative": _explicit_padding,
    "Pad": _padding,
    **dict.fromkeys(_BATCH_NORMALIZATIONS, _batch_normalization),
}
