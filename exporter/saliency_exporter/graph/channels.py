"""Where a model has the channels of its input: what its first ops do with the axes tells it.

Maps are reduced over channels, so an export has to know them. A shape alone does not say it: [3, 32, 32] may
be a picture with its channels first, and [28, 28] a gray picture or a series of 28 features. But a
convolution names its layout, a transposition to [B, H, W, C] or an axis that is added for the missing channel
is there for a reason, and what works along the last axis alone takes it for features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.evaluate import static_shapes
from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, tensor_name
from saliency_exporter.graph.nodes import attribute
from saliency_exporter.sources.channels import MOST_CHANNELS, looks_channels_first, own_shape, shape_in_words
from saliency_exporter.sources.source import Source

Place = Literal["first", "last", "none"]

_MOST_NODES = 64
"""So many nodes behind the input are looked at: what a model does with the axes it does early."""

_RECURRENT = (1, 0, 2)
_ELEMENTWISE_PADS = frozenset({"MirrorPad", "Pad", "PadV2"})

Shapes = Mapping[str, list[int | None]]


class Evidence(NamedTuple):
    """Where a model has its input's channels, and the op that shows it, in words."""

    place: Place
    op: str


def with_channels_found(graph: ForwardGraph, source: Source) -> ForwardGraph:
    """The graph with what is known of its input's channels, `ForwardGraph.channels`.

    Args:
        graph: of `source`, as it was traced.
        source: the model, with what the user says of the channels.

    Raises:
        ExportError: the model has them first, and the user did not say so, or the other way round.
    """
    if source.channels in ("last", "none"):
        return replace(graph, channels=source.channels)
    evidence = find_channels(graph, own_shape(source), transposed=source.channels == "first")
    if source.channels == "first":
        if evidence is not None and evidence.place != "first":
            raise ExportError(
                f"--channels first: {source.name} takes input of shape {shape_in_words(own_shape(source))}, "
                f"and {evidence.op} shows that its channels are not first",
                hint="leave --channels out",
            )
        return replace(graph, channels="last")
    shape = source.input_shape
    if evidence is None and looks_channels_first(shape):
        evidence = Evidence("first", f"a first size of {shape[0]}")
    if evidence is not None and evidence.place == "first":
        raise _channels_first(source, evidence)
    return replace(graph, channels="none" if evidence is not None and evidence.place == "none" else "last")


def _channels_first(source: Source, evidence: Evidence) -> ExportError:
    channels, *sizes = source.input_shape
    return ExportError(
        f"{source.name} takes input of shape {shape_in_words(source.input_shape)}, which has its channels "
        f"first ({evidence.op} shows it); an export has them last, as TensorFlow's pictures do",
        hint="--channels first transposes inside, so that clients send "
        f"{shape_in_words((*sizes, channels))}. If the channels are last after all: --channels last",
    )


def find_channels(
    graph: ForwardGraph, input_shape: Sequence[int], *, transposed: bool = False
) -> Evidence | None:
    """What the model does with the axes of its input; None where nothing shows it.

    Args:
        graph: the traced model.
        input_shape: of one example, as the model itself takes it.
        transposed: the graph begins with the transposition that hands [B, …, C] to a model of [B, C, …].
    """
    near = _first_nodes(graph)
    shapes = static_shapes(replace(graph, nodes=tuple(near)))
    constants = {f"{node.name}:0": node for node in near if node.op == "Const"}
    shape: list[int | None] = [None, *input_shape]
    start = f"{graph.input}:0"
    if transposed:
        reader = next((node for node in near if node.op == "Transpose" and _reads(node, {start})), None)
        if reader is None:
            return None
        start = f"{reader.name}:0"
    weak: Evidence | None = None
    # Tensors that are the input but for elementwise functions, and those that have an axis of 1 beside.
    same, widened = {start}, dict[str, int]()
    for node in near:
        if f"{node.name}:0" in same or not _reads(node, {*same, *widened}):
            continue
        found = _shown_by(node, shapes, constants, shape, same, widened)
        if isinstance(found, Evidence):
            return found
        weak = weak or _flattened(node, shapes, shape, same)
    return weak


def _reads(node: NodeDef, tensors: set[str]) -> bool:
    return any(tensor_name(name) in tensors for name in node.input)


def _first_nodes(graph: ForwardGraph) -> list[NodeDef]:
    """The graph's first nodes, up to the last of those that are looked at."""
    reached, near = {graph.input}, list[NodeDef]()
    for node in graph.nodes:
        near.append(node)
        if any(node_name(name) in reached for name in node.input):
            reached.add(node.name)
            if len(reached) > _MOST_NODES:
                break
    return near


def _shown_by(
    node: NodeDef,
    shapes: Shapes,
    constants: Mapping[str, NodeDef],
    shape: list[int | None],
    same: set[str],
    widened: dict[str, int],
) -> Evidence | None:
    """What a node that reads the input shows; else `same` and `widened` grow by what it makes of it."""
    rank, last = len(shape), len(shape) - 1
    read = next(name for name in map(tensor_name, node.input) if name in same or name in widened)
    out = shapes.get(f"{node.name}:0")
    layout = attribute(node, "data_format").s.decode()
    if layout and len(shapes.get(read, ())) > 3:
        first = layout.startswith("NC")
        axis = widened.get(read)
        place: Place = "first" if first else "last"
        if (first and axis == 1) or (not first and axis == rank and (shape[last] or 0) > MOST_CHANNELS):
            place = "none"
        return Evidence(place, f"{node.op} with {layout}")
    if read in widened:
        if out is not None and out == shapes.get(read):
            widened[f"{node.name}:0"] = widened[read]
        return None
    if node.op == "Transpose" and (order := _integers(constants.get(tensor_name(node.input[1])))):
        return _shown_by_order(tuple(order), rank)
    if node.op in ("MatMul", "BatchMatMulV2", "Einsum") and tensor_name(node.input[0]) == read and rank == 3:
        return Evidence("last", f"{node.op} along the last axis")
    if node.op in ("Mean", "Max") and rank == 3:
        axes = _integers(constants.get(tensor_name(node.input[1])))
        return Evidence("last", f"{node.op} over the first axis") if axes in ([1], [-2]) else None
    if out is None:
        return None
    if rank == 3 and len(out) == 2 and out[0] is None and out[1] == shape[last] and shape[1] != 1:
        return Evidence("last", f"{node.op} to rows of the last axis")
    if len(out) == rank + 1:
        added = _added_axis(shape, out)
        if added == rank and rank == 3:
            return Evidence("none", f"{node.op} adds an axis for them")
        if added is not None:
            widened[f"{node.name}:0"] = added
        return None
    if len(out) == rank and (out[1:] == shape[1:] or node.op in _ELEMENTWISE_PADS):
        same.add(f"{node.name}:0")
        return next(_shown_by_vector(node, shapes, rank, read), None)
    return None


def _shown_by_order(order: tuple[int, ...], rank: int) -> Evidence | None:
    if rank > 3 and order == (0, *range(2, rank), 1):
        return Evidence("first", "a transposition to channels last")
    if rank > 3 and order == (0, rank - 1, *range(1, rank - 1)):
        return Evidence("last", "a transposition to channels first")
    return Evidence("last", "a loop over the first axis") if order == _RECURRENT else None


def _shown_by_vector(node: NodeDef, shapes: Shapes, rank: int, read: str) -> Iterator[Evidence]:
    """A vector with one value for each channel, as a normalization has it."""
    for name in map(tensor_name, node.input):
        sizes = shapes.get(name, [])
        if name == read or not sizes or node.op in _ELEMENTWISE_PADS:
            continue
        aligned = [1] * (rank - len(sizes)) + sizes
        apart = [axis for axis, size in enumerate(aligned) if size != 1]
        if apart == [rank - 1]:
            yield Evidence("last", f"{node.op} with a value for each")
        elif rank > 3 and apart == [1]:
            yield Evidence("first", f"{node.op} with a value for each")


def _flattened(node: NodeDef, shapes: Shapes, shape: list[int | None], same: set[str]) -> Evidence | None:
    """A square input whose values are all treated alike: a gray picture, as series are seldom square."""
    out = shapes.get(f"{node.name}:0")
    if len(shape) != 3 or out is None or len(out) != 2 or not _reads(node, same) or node.op != "Reshape":
        return None
    height, width = shape[1] or 0, shape[2] or 0
    if out[1] == height * width and height == width > 1:
        return Evidence("none", "it is square, and flattened")
    return None


def _added_axis(shape: list[int | None], out: list[int | None]) -> int | None:
    """Where `out` has one more axis, of size 1; None where that is not all it has."""
    axes = [axis for axis, size in enumerate(out) if axis > 0 and size == 1]
    return next((axis for axis in reversed(axes) if out[1:axis] + out[axis + 1 :] == shape[1:]), None)


def _integers(node: NodeDef | None) -> list[int] | None:
    if node is None:
        return None
    value = tf.make_ndarray(node.attr["value"].tensor)
    return [int(number) for number in np.ravel(value)] if value.dtype.kind in "iu" else None
