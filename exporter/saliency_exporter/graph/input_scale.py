"""Whether pixels are scaled twice: by the preprocessing of an export, and by the model itself.

A model with a Rescaling layer, or with x / 255 in its code, takes pixels 0..255. Behind a preprocessing that
scales as well, its network sees next to nothing of them, and every map, score and class is that of wrong
pixels, though all of them are computed rightly. What can be known of it is in the graph's first ops: they
scale and shift by constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.evaluate import imported
from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, prune, tensor_name
from saliency_exporter.graph.nodes import attribute
from saliency_exporter.sources.preprocessing import Preprocessing, builtin

_SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank"})
_MOVES = frozenset(
    {
        "BroadcastTo",
        "Cast",
        "CheckNumerics",
        "ConcatV2",
        "EnsureShape",
        "ExpandDims",
        "GatherV2",
        "Identity",
        "MirrorPad",
        "Neg",
        "Pack",
        "Reshape",
        "ResizeArea",
        "ResizeBilinear",
        "ResizeNearestNeighbor",
        "ReverseV2",
        "Slice",
        "Snapshot",
        "Split",
        "SplitV",
        "Squeeze",
        "StridedSlice",
        "Tile",
        "Transpose",
        "Unpack",
    }
)
"""Ops that give values of their inputs, or means of them; but for `Neg`, in the same unit."""

_FACTORS = frozenset(
    {
        "Add",
        "AddV2",
        "BiasAdd",
        "ClipByValue",
        "Div",
        "DivNoNan",
        "FusedBatchNormV3",
        "Maximum",
        "Minimum",
        "Mul",
        "RealDiv",
        "Sub",
    }
)
"""Ops that scale, shift or bound one of their inputs by the others."""

_OF_THE_FIRST = frozenset({"BiasAdd", "ClipByValue", "Div", "DivNoNan", "FusedBatchNormV3", "RealDiv"})

_NEXT_TO_NOTHING = 0.1
"""A network behind a scaling of its own is given numbers some 1 to 6 apart. Pixels that were scaled twice are
0.004 (x / 255) to 0.08 (the mean and the deviation of ImageNet) apart."""

_BEYOND_PIXELS = 300.0
"""More than pixels, 255 apart, which is the most that a known network takes."""

_SHRINKS, _GROWS = 1 / 20, 1.2
"""Of a model's own factor: below, it is there for numbers like pixels; above, for numbers like 0..1."""


@dataclass(frozen=True)
class _Range:
    """What a batch of tensors is made of.

    Attributes:
        low: the smallest value.
        high: the largest value.
        least: how far the values at one place of the last axis are apart, where they are least.
        most: the same, where they are most.
    """

    low: float
    high: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.low:.3g}..{self.high:.3g}"


def scaling_note(graph: ForwardGraph, preprocessing: Preprocessing, name: str) -> str | None:
    """A sentence where a model scales its input for other numbers than the preprocessing gives; else None.

    It is said where it can be known: where the model's first ops are a known scaling of pixels 0..255, or of
    numbers 0..1, and the preprocessing gives others; where what both make of pixels is next to nothing, or
    far more than pixels; and where a model on whole numbers is given fractions.

    Args:
        graph: the forward pass, as it was traced.
        preprocessing: of the export. Of ``none``, where clients send model input, nothing is known.
        name: the model, for the sentence.
    """
    if preprocessing.image_dtype != "uint8":
        return None
    pixels = _pixels(graph.input_shape)
    images = np.asarray(preprocessing.function(tf.constant(pixels)))
    given = _range_of(images)
    # One's own function may give less than all pixels, or pixels about their mean.
    fits = _like if preprocessing.steps is not None else _apart_like
    if graph.input_dtype:
        right = fits(given, 255.0)
        return None if right else _sentence(name, preprocessing, given, None, given, pixels=True)
    front = front_of(graph)
    if front is None:
        return None
    try:
        raw, got = _values(graph, front, pixels), _values(graph, front, images)
    except tf.errors.OpError:  # this processor has no kernel for an op, as for channels first
        return None
    if raw is None or got is None:
        return None
    own, received = _range_of(raw), _range_of(got)
    zero, full, half = raw[:3]
    # Where it is bounded on the way, black and white show nothing.
    straight = np.allclose(half, (zero + full) / 2, rtol=0.01, atol=0.01)
    factor = np.abs(full - zero).min() / 255, np.abs(full - zero).max() / 255
    unit = _known_unit(zero, full, learned=_reads_weights(graph, front)) if straight else None
    if unit is not None:
        if not fits(given, unit):
            return _sentence(name, preprocessing, given, own, received, pixels=unit == 255.0)
    elif factor[1] < _SHRINKS and received.most < _NEXT_TO_NOTHING:
        return _sentence(name, preprocessing, given, own, received, pixels=True)
    elif factor[0] > _GROWS and received.least > _BEYOND_PIXELS:
        return _sentence(name, preprocessing, given, own, received, pixels=False)
    return None


def front_of(graph: ForwardGraph) -> str | None:
    """The tensor that a model's first ops, which scale, shift and move by constants, make of its input.

    None where there are none, or where the network reads several such tensors.
    """
    reached, affine = {graph.input}, {graph.input}
    read: dict[str, bool] = {}
    for node in graph.nodes:
        if node.op in _SHAPES:
            continue
        data = [tensor_name(i) for i in node.input if node_name(i) in reached]
        if not data:
            continue
        reached.add(node.name)
        if _is_affine(node, data, affine):
            affine.add(node.name)
            continue
        for tensor in data:
            if node_name(tensor) in affine:
                read[tensor] = True
    read |= {graph.scores: True} if node_name(graph.scores) in affine else {}
    front = next(iter(read)) if len(read) == 1 else None
    return None if front is None or node_name(front) == graph.input else front


def _is_affine(node: NodeDef, data: list[str], affine: set[str]) -> bool:
    if any(node_name(name) not in affine for name in data):
        return False
    if node.op == "Cast":
        return tf.as_dtype(attribute(node, "DstT").type).is_floating
    if node.op in _MOVES:
        return True
    if node.op not in _FACTORS or len(data) != 1 or attribute(node, "is_training").b:
        return False
    return node.op not in _OF_THE_FIRST or tensor_name(node.input[0]) == data[0]


def _pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Black, white, the gray between, and all grays one way and the other, float32 [5, *shape]."""
    grays = np.linspace(0, 255, max(1, int(np.prod(shape[:-1]))), dtype=np.float32)
    picture = np.broadcast_to(grays.reshape(*shape[:-1], 1), shape) if len(shape) > 1 else np.full(shape, 127)
    return np.stack([*(np.full(shape, gray) for gray in (0, 255, 127.5)), picture, 255 - picture]).astype(
        np.float32
    )


def _values(graph: ForwardGraph, front: str, images: np.ndarray) -> np.ndarray | None:
    """The values of a tensor, an example in each row; None where its first axis has something else."""
    part = prune(replace(graph, scores=front, features=None))
    with imported(part) as tensors, tf.compat.v1.Session() as session:
        given = {tensors[f"{name}:0"]: weight for name, weight in part.weights.items()}
        of_examples = tensors[front].shape.rank and tensors[front].shape[0] is None
        values: np.ndarray = session.run(tensors[front], {**given, tensors[f"{graph.input}:0"]: images})
    return values.astype(np.float64) if of_examples and len(values) == len(images) else None


def _range_of(values: np.ndarray) -> _Range:
    rows = values.astype(np.float64).reshape(-1, values.shape[-1])
    apart = np.nanmax(rows, 0) - np.nanmin(rows, 0)
    return _Range(float(np.nanmin(rows)), float(np.nanmax(rows)), float(apart.min()), float(apart.max()))


def _reads_weights(graph: ForwardGraph, front: str) -> bool:
    return bool(prune(replace(graph, scores=front, features=None)).weights)


def _known_unit(zero: np.ndarray, full: np.ndarray, *, learned: bool) -> float | None:
    """255 where a model makes of 0 and 255 what a known scaling makes of pixels, 1 where it does of 0..1.

    Args:
        zero: what it makes of 0, of any shape.
        full: what it makes of 255.
        learned: whether it is made of weights. A normalization that has seen bright pictures of -1..1 may
            subtract a half and divide by a half, and so shows nothing.
    """
    for unit in (255.0, 1.0):
        low, high = zero, zero + (full - zero) * (unit / 255)
        for name, ends in _known().items():
            # Of 0..1 the first is no scaling at all.
            if unit == 1.0 and (name == "unit" or (learned and name == "tf")):
                continue
            if all(_near(v, e) for v, e in zip((low, high), ends, strict=True)):
                return unit
    return None


@cache
def _known() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What known scalings make of black and white, of each channel."""
    ends = {"unit": (np.zeros(1), np.ones(1))}
    for name in ("tf", "torch", "caffe"):
        scale = builtin(name).function
        ends[name] = scale(tf.zeros([1, 3])).numpy()[0], scale(tf.fill([1, 3], 255.0)).numpy()[0]
    return ends


def _near(values: np.ndarray, ends: np.ndarray) -> bool:
    """Whether values are those, all of them, to rounding of the constants that people write."""
    bound = 0.02 * max(1.0, float(np.abs(ends).max()))
    found = np.abs(values.reshape(-1, 1) - ends) <= bound
    return bool(found.any(1).all() and found.any(0).all())


def _like(given: _Range, unit: float) -> bool:
    return abs(given.low) <= 0.15 * unit and abs(given.high - unit) <= 0.15 * unit


def _apart_like(given: _Range, unit: float) -> bool:
    return unit / 4 <= given.high - given.low <= 4 * unit


def _sentence(
    name: str,
    preprocessing: Preprocessing,
    given: _Range,
    own: _Range | None,
    received: _Range,
    *,
    pixels: bool,
) -> str:
    step = (
        "if it takes pixels 0..255: --preprocessing pixels"
        if pixels
        else "if it takes 0..1: --preprocessing unit"
    )
    itself = (
        f"{name} takes whole numbers, and --preprocessing {preprocessing.name} gives {given}"
        if own is None
        else f"{name} scales its input itself (it makes {own} of pixels 0..255), and --preprocessing "
        f"{preprocessing.name} gives it {given}, so that its network sees {received}"
    )
    return f"{itself}: maps and classes are probably of wrongly scaled pixels; {step}"
