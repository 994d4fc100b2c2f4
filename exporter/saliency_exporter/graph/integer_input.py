"""Models on whole numbers, such as uint8 pixels: cut at the cast to floats, where a gradient can begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, prune, tensor_name, with_inputs
from saliency_exporter.graph.nodes import attribute

_MOVES_ONE = (
    "EnsureShape ExpandDims Gather GatherV2 MirrorPad Pad Reshape ResizeBicubic ResizeBilinear "
    "ResizeNearestNeighbor ReverseV2 Slice SplitV Squeeze StridedSlice Tile Transpose Unpack"
)
MOVES = {
    **{op: slice(1) for op in _MOVES_ONE.split()},
    "ConcatV2": slice(None, -1),
    "Pack": slice(None),
    "Split": slice(1, 2),
}
"""Ops that give of floats that are whole numbers what they give of integers, and which inputs are those."""
_GIVES_FLOATS = ("ResizeBicubic", "ResizeBilinear")
"""Of them, those that give floats of integers too."""
_FLOAT = tf.float32.as_datatype_enum


def without_cast_to_integers(graph: ForwardGraph) -> ForwardGraph:
    """The graph that takes its input as it is where the model makes whole numbers of it first.

    A cast to integers has no gradient. Where the model casts its input to integers and these, behind ops that
    only move them, back to floats, both casts are left out: of pixels, which are whole numbers, the scores
    are the same.

    Args:
        graph: the forward pass.
    """
    floats: dict[str, str] = {}
    """Tensors of whole numbers, and the tensors that hold them as floats."""
    aliases: dict[str, str] = {}
    nodes: list[NodeDef] = []
    rounded = ""
    is_cut = False
    outputs = [*graph.consumers(), graph.scores]
    for node in (with_inputs(node, aliases) for node in graph.nodes):
        inputs = [tensor_name(name) for name in node.input]
        moved = inputs[MOVES[node.op]] if node.op in MOVES else []
        own = [name for name in outputs if node_name(name) == node.name]
        if node.op == "Cast" and inputs[0] == f"{graph.input}:0" and _target(node).is_integer:
            rounded = _target(node).name
            floats[f"{node.name}:0"] = inputs[0]
        elif node.op == "Cast" and inputs[0] in floats and _target(node).is_integer:
            floats[f"{node.name}:0"] = floats[inputs[0]]
        elif node.op == "Cast" and inputs[0] in floats and _target(node) == tf.float32:
            is_cut = True
            aliases[f"{node.name}:0"] = floats[inputs[0]]
        elif node.op == "Cast" and inputs[0] in floats and _target(node).is_floating:
            is_cut = True
            node = _reading(node, floats)
            node.attr["SrcT"].type = _FLOAT
        elif moved and all(name in floats for name in moved):
            copy = _reading(node, floats)
            copy.attr["Tparams" if "Tparams" in copy.attr else "T"].type = _FLOAT
            if node.op in _GIVES_FLOATS:
                is_cut = True
                node = copy
            else:
                copy.name = f"{node.name}/of_floats"
                nodes.append(copy)
                floats |= {name: f"{copy.name}:{name.rpartition(':')[2]}" for name in own}
        nodes.append(node)
    if not is_cut:
        return graph
    scores = aliases.get(graph.scores, graph.scores)
    return prune(replace(graph, nodes=tuple(nodes), scores=scores, input_dtype=rounded))


def _target(cast: NodeDef) -> tf.DType:
    return tf.as_dtype(attribute(cast, "DstT").type)


def _reading(node: NodeDef, instead: Mapping[str, str]) -> NodeDef:
    """A copy of a node that reads other tensors instead of some."""
    copy = NodeDef()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(instead.get(tensor_name(name), name) for name in node.input)
    return copy
