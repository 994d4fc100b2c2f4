"""Rewrites of a forward graph that span several nodes and keep the function: fewer ops, the same scores.

Each is a pure function from graph to graph. What they compute at export no server computes again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.evaluate import evaluate, independent_of_input, static_shapes
from saliency_exporter.graph.forward_graph import (
    ForwardGraph,
    node_name,
    prune,
    tensor_name,
    with_inputs,
)
from saliency_exporter.graph.nodes import attribute, constant
from saliency_exporter.graph.windows import axes

_SCALED = {"Conv2D": 3, "DepthwiseConv2dNative": 2, "MatMul": 1}
"""Linear ops that a channel scale can be folded into, and the axis of the weight that starts the channels."""
_ADDITIONS = frozenset({"Add", "AddV2", "BiasAdd"})


def fold(graph: ForwardGraph) -> ForwardGraph:
    """All foldings, in the order in which one opens the way for the next."""
    foldings = {
        "weight expressions": fold_weight_expressions,
        "scales": fold_scales,
        "offsets": fold_offsets,
        "padding": fold_padding,
    }
    for name, folding in foldings.items():
        folded = folding(graph)
        if _outline(folded) != _outline(graph):
            folded = replace(folded, foldings=(*graph.foldings, name))
        graph = folded
    return graph


def _outline(graph: ForwardGraph) -> Counter[tuple[str, bytes]]:
    """How many ops there are of each type and padding, by which a folding's work is seen."""
    return Counter((node.op, attribute(node, "padding").s) for node in graph.nodes)


def fold_weight_expressions(graph: ForwardGraph) -> ForwardGraph:
    """Computes once what depends on weights and constants alone.

    An inference batch normalization is four vectors of weights and a handful of ops on them; what remains
    is a scale and an offset.
    """
    folded = independent_of_input(graph)
    if not folded:
        return graph
    kept = [node for node in graph.nodes if node.name not in folded]
    read = {tensor_name(i) for node in kept for i in node.input} | {*graph.fetched}
    boundary = sorted(
        name for name in read if node_name(name) in folded and folded[node_name(name)].op != "Const"
    )
    values = dict(zip(boundary, evaluate(graph, list(folded.values()), boundary), strict=True))
    names = {name: name.removesuffix(":0").replace(":", "/output_") for name in boundary}
    constants = [node for node in folded.values() if node.op == "Const"]
    weights = dict(graph.weights)
    for name, value in values.items():
        if value.ndim and np.issubdtype(value.dtype, np.floating):
            weights[names[name]] = value
        else:
            constants.append(constant(names[name], value))
    aliases = {name: f"{new}:0" for name, new in names.items() if name != f"{new}:0"}
    nodes = (*constants, *(with_inputs(node, aliases) for node in kept))
    return prune(replace(graph, nodes=nodes, weights=weights))


def fold_scales(graph: ForwardGraph) -> ForwardGraph:
    """Folds a per-channel scale behind a convolution or matrix product into its weight.

    a · (W ∗ x + b) = (a · W) ∗ x + a · b. With `fold_weight_expressions` before it, this folds the scale of
    an inference batch normalization. A weight that several ops share, and an output that something else
    reads too, is left as it is.
    """
    readers = {name: len(nodes) for name, nodes in graph.consumers().items()}
    for name in graph.fetched:
        readers[name] = readers.get(name, 0) + 1
    nodes = graph.node_map()
    weights = dict(graph.weights)
    aliases: dict[str, str] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        scaled = _scaled_by_weight(node, graph, nodes, readers)
        if scaled is None:
            continue
        scale, offset, linear = scaled
        axis = _SCALED[linear.op]
        weight = node_name(linear.input[1])
        factor = weights[scale].astype(np.float64).ravel()
        shape = (1,) * axis + weights[weight].shape[axis:]
        weights[weight] = _multiplied(weights[weight], factor.reshape(shape))
        if offset is not None:
            weights[offset] = _multiplied(weights[offset], factor.reshape(weights[offset].shape))
        dropped.add(node.name)
        aliases[f"{node.name}:0"] = _other_input(node, scale)
    kept = tuple(with_inputs(node, aliases) for node in graph.nodes if node.name not in dropped)
    return prune(replace(graph.renamed(aliases), nodes=kept, weights=weights))


def fold_offsets(graph: ForwardGraph) -> ForwardGraph:
    """Folds the channel offsets behind a convolution or matrix product into one BiasAdd.

    The bias of a layer and the offset of its batch normalization are one vector. Written as a BiasAdd,
    TensorFlow's uncompiled kernels compute it, and an activation behind it, with the convolution.
    """
    nodes = graph.node_map()
    weights = dict(graph.weights)
    replaced: dict[str, NodeDef] = {}
    for node in graph.nodes:
        offsets, linear = _offsets_on_linear(node, graph, nodes)
        if not offsets:
            continue
        name = f"{node.name}/offset"
        total = np.sum([weights[offset].astype(np.float64).ravel() for offset in offsets], axis=0)
        weights[name] = total.astype(weights[offsets[0]].dtype)
        bias_add = NodeDef(name=node.name, op="BiasAdd", input=[linear, f"{name}:0"])
        bias_add.attr["T"].type = node.attr["T"].type
        bias_add.attr["data_format"].s = b"NHWC"
        replaced[node.name] = bias_add
    kept = tuple(replaced.get(node.name, node) for node in graph.nodes)
    return prune(replace(graph, nodes=kept, weights=weights))


def fold_padding(graph: ForwardGraph) -> ForwardGraph:
    """Lets a convolution pad by itself where the zeros in front of it are those of SAME padding.

    Keras pads so before each strided depthwise convolution of MobileNet and EfficientNet, in an op of its own
    whose result, and whose gradient's, is one more pass over the memory.
    """
    nodes = graph.node_map()
    padded = {
        node.name: pad
        for node in graph.nodes
        if node.op in ("Conv2D", "DepthwiseConv2dNative")
        and node.attr["padding"].s == b"VALID"
        and _channels_last(node)
        and node_name(node.input[1]) in graph.weights
        and (pad := nodes.get(node_name(node.input[0]))) is not None
        and pad.op == "Pad"
        and node_name(pad.input[1]) in nodes
        and nodes[node_name(pad.input[1])].op == "Const"
    }
    if not padded:
        return graph
    shapes = static_shapes(graph)
    replaced: dict[str, NodeDef] = {}
    for name, pad in padded.items():
        known = [size for size in shapes.get(tensor_name(pad.input[0]), [])[1:3] if size is not None]
        taps = graph.weights[node_name(nodes[name].input[1])].shape[:2]
        same = with_inputs(nodes[name], {f"{pad.name}:0": tensor_name(pad.input[0])})
        same.attr["padding"].s = b"SAME"
        zeros = tf.make_ndarray(nodes[node_name(pad.input[1])].attr["value"].tensor).tolist()
        if len(known) == 2 and zeros == _same_padding(same, known[0], known[1], (taps[0], taps[1])):
            replaced[name] = same
    return prune(replace(graph, nodes=tuple(replaced.get(node.name, node) for node in graph.nodes)))


def _same_padding(node: NodeDef, height: int, width: int, taps: tuple[int, int]) -> list[list[int]]:
    """What a convolution with SAME padding puts around [B, H, W, C], as the operand of a Pad."""
    rows, columns = ([axis.before, max(axis.after, 0)] for axis in axes(node, height, width, taps))
    return [[0, 0], rows, columns, [0, 0]]


def _offsets_on_linear(
    node: NodeDef, graph: ForwardGraph, nodes: dict[str, NodeDef]
) -> tuple[list[str], str]:
    """The channel vectors that end in this node are added to a linear op, and that op's output."""
    offsets: list[str] = []
    end = node
    while end.op in _ADDITIONS and _channels_last(end):
        operand = _weight_operand(end, graph)
        if operand is None:
            break
        offset, source = operand
        offsets.append(offset)
        before = nodes.get(node_name(source))
        if before is None:
            break
        end = before
        if end.op in _SCALED and _channels_last(end) and node_name(end.input[1]) in graph.weights:
            channels = int(np.prod(graph.weights[node_name(end.input[1])].shape[_SCALED[end.op] :]))
            vectors = all(_is_channel_vector(graph.weights[name], channels) for name in offsets)
            return (offsets if vectors else []), source
    return [], ""


def _multiplied(weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return (weight.astype(np.float64) * factor).astype(weight.dtype)


def _other_input(node: NodeDef, weight: str) -> str:
    a, b = (tensor_name(name) for name in node.input)
    return b if node_name(a) == weight else a


def _scaled_by_weight(
    node: NodeDef, graph: ForwardGraph, nodes: dict[str, NodeDef], readers: dict[str, int]
) -> tuple[str, str | None, NodeDef] | None:
    """(scale, offset or None, linear op) where the node is scale · (linear op + offset)."""
    if node.op != "Mul":
        return None
    operand = _weight_operand(node, graph)
    if operand is None:
        return None
    scale, source = operand
    before = nodes.get(node_name(source))
    offset = None
    if before is not None and before.op in _ADDITIONS and readers[source] == 1:
        added = _weight_operand(before, graph)
        if added is None:
            return None
        offset, source = added
        before = nodes.get(node_name(source))
    if before is None or before.op not in _SCALED or readers[source] != 1 or not _channels_last(before):
        return None
    weight = node_name(before.input[1])
    if weight not in graph.weights or readers[f"{weight}:0"] != 1:
        return None
    channels = int(np.prod(graph.weights[weight].shape[_SCALED[before.op] :]))
    vectors = [scale] if offset is None else [scale, offset]
    if any(not _is_channel_vector(graph.weights[name], channels) for name in vectors):
        return None
    return None if offset is not None and readers[f"{offset}:0"] != 1 else (scale, offset, before)


def _weight_operand(node: NodeDef, graph: ForwardGraph) -> tuple[str, str] | None:
    """(weight name, the other tensor) of an op with two inputs of which one is a weight."""
    a, b = (tensor_name(name) for name in node.input)
    for weight, other in ((b, a), (a, b)):
        if node_name(weight) in graph.weights and node_name(other) not in graph.weights:
            return node_name(weight), other
    return None


def _is_channel_vector(weight: np.ndarray, channels: int) -> bool:
    return weight.size == channels and weight.shape[-1] == channels


def _channels_last(node: NodeDef) -> bool:
    if node.op == "MatMul":
        return not node.attr["transpose_b"].b
    # Asking an attribute map for what it does not hold would add it to the node.
    return "data_format" not in node.attr or node.attr["data_format"].s in (b"", b"NHWC")
