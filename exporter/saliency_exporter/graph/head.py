"""The head of a classifier: what its class scores are, and the function that makes probabilities of them.

A model ends in a softmax, a log_softmax or a sigmoid, and the scores are its input (Simonyan et al. 2013).
Behind it there may be ops that only move values: a reshape, a slice, a concatenation of several sigmoids.
They are applied to the scores instead. A mixture of probabilities has no scores; its output is explained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.types_pb2 import DT_BFLOAT16, DT_BOOL, DT_DOUBLE, DT_FLOAT, DT_HALF
from tensorflow.python.framework import op_def_registry

from saliency_exporter.graph.forward_graph import (
    ForwardGraph,
    Head,
    calls_functions,
    node_name,
    prune,
    tensor_name,
)
from saliency_exporter.graph.nodes import attribute, constant
from saliency_exporter.graph.parts import SHAPE_OPS, constant_value, specs_of, values_of, without_values
from saliency_exporter.graph.squashing import Squashing, Squashings
from saliency_exporter.sources.class_scores import MEAN_OF_POSITIONS

_IN_PLACE = frozenset({"Cast", "CheckNumerics", "EnsureShape", "Identity"})
"""Ops after which every value is where it was."""
_SELECTS = frozenset({"Gather", "GatherNd", "GatherV2", "Slice", "SplitV", "StridedSlice", "Unpack"})
_MOVES_FIRST = (
    _IN_PLACE
    | _SELECTS
    | {"BroadcastTo", "ExpandDims", "Reshape", "ReverseV2", "Snapshot", "Squeeze", "Tile", "Transpose"}
)
"""Ops that move values of their first input and compute nothing."""
_FLOATS = frozenset({DT_FLOAT, DT_HALF, DT_BFLOAT16, DT_DOUBLE})

_SUMS = frozenset({"AccumulateNV2", "Add", "AddN", "AddV2", "Cumsum", "Mean", "Neg", "Sub", "Sum"})
_PRODUCTS = frozenset({"BatchMatMulV2", "Cumprod", "Einsum", "MatMul", "Mul", "Prod"})
_QUOTIENTS = frozenset({"Div", "DivNoNan", "RealDiv", "Reciprocal"})
_POWERS = frozenset({"Exp", "Log", "Pow", "Sqrt", "Square"})
_CHOICES = frozenset({"Max", "Maximum", "Min", "Minimum", "Select", "SelectV2", "TopKV2"})
_ROUNDINGS = frozenset(
    {
        *(
            "Ceil",
            "ClipByValue",
            "FakeQuantWithMinMaxArgs",
            "FakeQuantWithMinMaxVars",
            "Floor",
            "Pad",
            "PadV2",
        ),
        *("Rint", "Round", "StopGradient"),
    }
)
_GROUPS = frozenset(
    f"{kind}{of}{version}"
    for kind in ("Segment", "UnsortedSegment", "SparseSegment")
    for of in ("Max", "Mean", "Min", "Prod", "Sum")
    for version in ("", "V2")
)
"""Ops that take several classes as one."""
_CONDITIONS = frozenset(
    {
        *("Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual"),
        *("LogicalAnd", "LogicalNot", "LogicalOr", "OnesLike", "ZerosLike"),
    }
)
"""Ops that a threshold on probabilities is written with."""
_MIXES = _SUMS | _PRODUCTS | _QUOTIENTS | _POWERS | _CHOICES | _ROUNDINGS | _GROUPS | _CONDITIONS
"""Ops that mix probabilities, if all that they read are probabilities and constants."""
_HIDES = frozenset({"TensorListStack", "XlaCallModule"})
_MAY_NORMALIZE = _HIDES | _QUOTIENTS | _POWERS | _CHOICES | _SUMS | _GROUPS | (_PRODUCTS - {"MatMul"})
"""Ops whose output may be probabilities in a way that only its values show."""
_REDUCTIONS = frozenset({"Max", "Mean", "Min", "Prod", "Sum"})
_BATCH = 3
_SHARE_ROUNDING = 1e-4
_SUM_ROUNDING = {"float16": 2e-2, "bfloat16": 5e-2}


@dataclass(frozen=True)
class _Path:
    """How values come from where they are computed to a tensor, without a change.

    Attributes:
        moves: names of the nodes that move them.
        complements: those of the nodes that take 1 − p of them.
        ends: the tensors where they are computed.
    """

    moves: frozenset[str]
    complements: frozenset[str]
    ends: frozenset[str]


def find_head(graph: ForwardGraph) -> ForwardGraph:
    """The graph whose scores are the unnormalized class scores, and its head.

    | the output, behind ops that move values | the scores | head |
    |---|---|---|
    | a softmax or log_softmax of the classes | its input, moved alike | softmax |
    | sigmoids p of z, and 1 − p | z, moved alike, and −z | sigmoid |
    | a mixture or a part of these, or probabilities by its values | the output | output |
    | anything else | the output, assumed to be logits | softmax; sigmoid for one class |

    Args:
        graph: with the model's output as the scores, float [B, classes].
    """
    graph = _without_reductions_of_one(graph)
    squashings = Squashings(graph)
    path = _path_to(graph.scores, graph, squashings)
    ends = {end: squashings.of(end) for end in path.ends}
    known = {end: squashing for end, squashing in ends.items() if squashing is not None}
    kinds = {squashing.kind for squashing in known.values()}
    if len(known) == len(ends) and len(kinds) == 1:
        (kind,) = kinds
        if kind in ("sigmoid", "log_sigmoid"):
            if kind == "sigmoid" or not path.complements:
                return _with_scores(graph, path, known, "sigmoid")
        elif kind != "other" and _keeps_classes(graph, squashings, path, known):
            return _with_scores(graph, path, known, "softmax")
    if _is_mixture(graph, squashings) or _sums_to_one(graph, path):
        return replace(graph, head="output", head_assumed=False, is_probability=True)
    return graph


def two_classes(graph: ForwardGraph) -> ForwardGraph:
    """Both classes of a model that gives one number for two: class 0 is what class 1 is not.

    Of one logit z the scores are [−z, z], the logarithmic odds of each class, and the probabilities their
    sigmoids, 1 − p and p. Of one probability p the scores are [1 − p, p].

    Args:
        graph: any; it is returned as it is where it has several classes, or one that is no probability.
    """
    if graph.classes != 1 or not (graph.head == "sigmoid" or _is_one_probability(graph)):
        return graph
    dtype = _dtype_of(graph)
    if graph.head == "sigmoid":
        first = NodeDef(name="both_classes/other", op="Neg", input=[graph.scores])
        added = []
    else:
        first = NodeDef(name="both_classes/other", op="Sub", input=["both_classes/one:0", graph.scores])
        added = [constant("both_classes/one", np.ones((), tf.as_dtype(dtype).as_numpy_dtype))]
    first.attr["T"].type = dtype
    both = NodeDef(name="both_classes", op="ConcatV2")
    both.input.extend([f"{first.name}:0", graph.scores, "both_classes/axis:0"])
    both.attr["N"].i, both.attr["T"].type = 2, dtype
    axis = constant("both_classes/axis", np.int32(1))
    both.attr["Tidx"].type = axis.attr["dtype"].type
    return replace(
        graph,
        nodes=(*graph.nodes, *added, first, axis, both),
        scores="both_classes:0",
        classes=2,
        both_of_one=True,
    )


def _is_one_probability(graph: ForwardGraph) -> bool:
    """Whether the output, taken as it is, is made of probabilities and one itself."""
    if graph.head != "output":
        return False
    found = find_head(graph)
    if not (found.is_probability or (found.head == "sigmoid" and not found.head_assumed)):
        return False
    output = _at_any_input(graph)
    return output is not None and bool(((output >= 0) & (output <= 1)).all())


def _without_reductions_of_one(graph: ForwardGraph) -> ForwardGraph:
    """The graph where what reduces axes of size 1 behind the head drops these axes, which is the same.

    A pooling over the whole of a map that is one pixel large is one.
    """
    while True:
        nodes = graph.node_map()
        ends = _path_to(graph.scores, graph, Squashings(graph)).ends
        reducing = [nodes[n] for n in map(node_name, ends) if n in nodes and nodes[n].op in _REDUCTIONS]
        moves = {node.name: move for node in reducing if (move := _as_a_move(graph, nodes, node)) is not None}
        if not moves:
            return graph
        graph = replace(graph, nodes=tuple(moves.get(node.name, node) for node in graph.nodes))


def _as_a_move(graph: ForwardGraph, nodes: Mapping[str, NodeDef], node: NodeDef) -> NodeDef | None:
    """The node that drops the axes of size 1 that a reduction goes over; None where one of them is larger."""
    given = constant_value(graph, nodes, node.input[1])
    read = tensor_name(node.input[0])
    if given is None or _is_mean_of_positions(node):
        return None
    shape = specs_of(graph, [read], _BATCH)[read].shape
    if shape.rank is None:
        return None
    axes = sorted({int(axis) % shape.rank for axis in given.ravel()})
    if 0 in axes or any(shape[axis] != 1 for axis in axes):
        return None
    keeps = attribute(node, "keep_dims").b or not axes
    move = NodeDef(name=node.name, op="Identity" if keeps else "Squeeze", input=[read])
    move.attr["T"].CopyFrom(node.attr["T"])
    if not keeps:
        move.attr["squeeze_dims"].list.i.extend(axes)
    return move


def _path_to(tensor: str, graph: ForwardGraph, squashings: Squashings) -> _Path:
    moves, complements, ends, seen = set[str](), set[str](), set[str](), set[str]()
    stack = [tensor_name(tensor)]
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        node = squashings.nodes.get(node_name(name))
        data = [] if node is None else moved_inputs(node)
        if node is not None and data:
            moves.add(node.name)
            stack.extend(data)
        elif node is not None and _is_complement(graph, squashings, node):
            complements.add(node.name)
            stack.append(tensor_name(node.input[1]))
        else:
            ends.add(name)
    return _Path(frozenset(moves), frozenset(complements), frozenset(ends))


def moved_inputs(node: NodeDef) -> list[str]:
    """The tensors whose values a node moves, unchanged; none where it computes something."""
    inputs = [tensor_name(name) for name in node.input]
    if node.op == "Cast":
        kinds = {attribute(node, "SrcT").type, attribute(node, "DstT").type}
        return inputs if kinds <= _FLOATS else []
    if node.op in _MOVES_FIRST or _is_mean_of_positions(node):
        return inputs[:1]
    return {"Split": inputs[1:], "ConcatV2": inputs[:-1], "Concat": inputs[1:], "Pack": inputs}.get(
        node.op, []
    )


def is_mean_of_logits(graph: ForwardGraph) -> bool:
    """Whether the scores are a mean over positions of logits, of which the model gives probabilities."""
    means = any(_is_mean_of_positions(node) for node in graph.nodes)
    return means and graph.head != "output" and not graph.head_assumed


def _is_mean_of_positions(node: NodeDef) -> bool:
    """Whether a node is the mean that `--output NAME[mean]` asks for: of scores, not of probabilities."""
    return node.op == "Mean" and MEAN_OF_POSITIONS in node.name


def _is_complement(graph: ForwardGraph, squashings: Squashings, node: NodeDef) -> bool:
    if node.op != "Sub":
        return False
    one = constant_value(graph, squashings.nodes, node.input[0])
    return one is not None and one.size == 1 and bool(one == 1)


def _keeps_classes(
    graph: ForwardGraph, squashings: Squashings, path: _Path, ends: Mapping[str, Squashing]
) -> bool:
    """Whether each row of the output is one softmax: all of its classes, in one order for all rows.

    Several positions that were flattened into one row are not, and neither are some classes of all.
    """
    nodes = squashings.nodes
    if path.complements:
        return False
    if {nodes[name].op for name in path.moves} <= _IN_PLACE:
        return True
    means = [nodes[name] for name in path.moves if nodes[name].op == "Mean"]
    for name in path.moves:
        given = {tensor_name(i) for i in nodes[name].input} - set(moved_inputs(nodes[name]))
        if not all(node_name(i) in squashings.static for i in given):
            return False
    target = tensor_name(means[0].input[0]) if means else graph.scores
    # Moved in the place of the probabilities: the number of its class, and the number of its position.
    classes: dict[str, np.ndarray] = {}
    places: dict[str, np.ndarray] = {}
    dtypes: dict[str, np.dtype] = {}
    for end, (shape, dtype) in _shapes(graph, list(ends), _BATCH).items():
        axis = ends[end].axis % len(shape)
        around = [*shape[:axis], 1, *shape[axis + 1 :]]
        by_class = np.arange(shape[axis]).reshape([-1] + [1] * (len(shape) - axis - 1))
        by_place = np.arange(np.prod(around)).reshape(around) + sum(array.size for array in places.values())
        classes[end], places[end] = np.broadcast_to(by_class, shape), np.broadcast_to(by_place, shape)
        dtypes[end] = dtype
    class_of, place_of = (_moved(graph, target, numbers, dtypes) for numbers in (classes, places))
    return (
        {array.max() + 1 for array in classes.values()} == {class_of.shape[-1]}
        and np.array_equal(np.sort(class_of[0]), np.arange(class_of.shape[-1]))
        and bool((class_of == class_of[:1]).all())
        and bool((place_of == place_of[:, :1]).all())
    )


def _shapes(graph: ForwardGraph, tensors: Sequence[str], batch: int) -> dict[str, tuple[list[int], np.dtype]]:
    """Shape and dtype of tensors; the model is run where its shapes are not known without."""
    specs = specs_of(graph, tensors, batch)
    shapes = {name: spec.shape for name, spec in specs.items()}
    if not all(shape.is_fully_defined() for shape in shapes.values()):
        values = values_of(graph, tensors, {}, batch)
        shapes = {name: tf.TensorShape(value.shape) for name, value in zip(tensors, values, strict=True)}
    return {name: (shapes[name].as_list(), specs[name].dtype.as_numpy_dtype) for name in tensors}


def _moved(
    graph: ForwardGraph, target: str, numbers: Mapping[str, np.ndarray], dtypes: Mapping[str, np.dtype]
) -> np.ndarray:
    """Where numbers in the place of some tensors are in another, as rows. Every dtype holds their digits."""
    base, weight = 128, 1
    rows: np.ndarray = np.zeros(1, np.int64)
    while weight <= max(1, *(array.max() for array in numbers.values())):
        digits = {name: (array // weight % base).astype(dtypes[name]) for name, array in numbers.items()}
        (moved,) = values_of(graph, [target], digits, _BATCH)
        rows = rows + np.rint(moved.astype(np.float64)).astype(np.int64) * weight
        weight *= base
    return rows.reshape(-1, rows.shape[-1])


def _with_scores(graph: ForwardGraph, path: _Path, ends: Mapping[str, Squashing], head: Head) -> ForwardGraph:
    """The graph whose scores come by the same path from what is squashed; the model's own path stays."""
    found = replace(graph, head=head, head_assumed=False)
    nodes = graph.node_map()
    if not path.complements and {nodes[name].op for name in path.moves} <= _IN_PLACE:
        return prune(replace(found, scores=next(iter(ends.values())).scores))
    on_path = path.moves | path.complements
    moved = {end: squashing.scores for end, squashing in ends.items()}
    tensors = {tensor_name(graph.scores), *graph.consumers()}
    kept: list[NodeDef] = []
    for node in graph.nodes:
        # The shape is the same, and the softmax itself need not be computed for it.
        kept.append(_reading(node, moved) if node.op in SHAPE_OPS else node)
        if node.name not in on_path:
            continue
        copy = _reading(node, moved)
        copy.name = _free(f"{node.name}/of_scores", nodes)
        if node.name in path.complements:
            copy.op = "Neg"
            del copy.input[0]
        for name in tensors:
            if node_name(name) == node.name:
                moved[name] = f"{copy.name}:{name.split(':')[1]}"
        kept.append(copy)
    return prune(replace(found, nodes=tuple(kept), scores=moved[graph.scores]))


def _reading(node: NodeDef, instead: Mapping[str, str]) -> NodeDef:
    """A copy of a node that reads other tensors instead of some; not those that these stand for in turn."""
    copy = NodeDef()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(instead.get(tensor_name(name), name) for name in node.input)
    return copy


def _free(name: str, nodes: Mapping[str, NodeDef]) -> str:
    while name in nodes:
        name += "_"
    return name


def _is_mixture(graph: ForwardGraph, squashings: Squashings) -> bool:
    """Whether the output is made of softmaxes and sigmoids, and of constants beside them, alone.

    A weight that was learned ends the search: behind it, what is squashed is a feature.
    """
    numbers = without_values(graph, weights=False)
    squashed = False
    seen = set[str]()
    stack = [tensor_name(graph.scores)]
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        node = squashings.nodes.get(node_name(name))
        if node_name(name) in numbers or _is_share(graph, squashings, name):
            continue
        if node is None:
            return False
        if squashings.of(name) is not None:
            squashed = True
            continue
        moved = moved_inputs(node)
        if not moved and node.op not in _MIXES and not _is_of_truth_values(node):
            return False
        stack.extend(moved or map(tensor_name, node.input))
    return squashed


def _is_of_truth_values(node: NodeDef) -> bool:
    return node.op == "Cast" and attribute(node, "SrcT").type == DT_BOOL


def _is_share(graph: ForwardGraph, squashings: Squashings, name: str) -> bool:
    """Whether a tensor is an array of constant shares: weights of an average, groups of classes."""
    if node_name(name) in graph.variables:
        return False
    value = constant_value(graph, squashings.nodes, name)
    if value is None or not ((value >= 0) & (value <= 1)).all():
        return False
    return value.ndim < 2 or any(bool((value.sum(axis) <= 1 + _SHARE_ROUNDING).all()) for axis in (-2, -1))


def _sums_to_one(graph: ForwardGraph, path: _Path) -> bool:
    """Whether the output is shares of 1 for any input: a softmax inside a branch, a normalized vote."""
    nodes = graph.node_map()
    last = [nodes[node_name(end)] for end in path.ends if node_name(end) in nodes]
    if graph.classes < 2 or not last or not all(_may_normalize(graph, node) for node in last):
        return False
    output = _at_any_input(graph)
    if output is None or not np.isfinite(output).all():
        return False
    rounding = _SUM_ROUNDING.get(output.dtype.name, _SHARE_ROUNDING)
    sums = output.astype(np.float64).sum(1)
    return bool((output >= 0).all() and np.allclose(sums, 1, rtol=0, atol=rounding))


def _at_any_input(graph: ForwardGraph) -> np.ndarray | None:
    """The scores of a few inputs of noise, [3, classes]; None where this machine cannot run the model."""
    rng = np.random.default_rng(0)
    shape = graph.input_shape
    x = np.stack([rng.normal(size=shape), rng.uniform(size=shape), 255 * rng.uniform(size=shape)])
    try:
        (output,) = values_of(graph, [graph.scores], {f"{graph.input}:0": x.astype(np.float32)}, _BATCH)
    # Whatever the reason is, nothing is known then.
    except Exception:
        return None
    return output if output.shape == (_BATCH, graph.classes) else None


def _may_normalize(graph: ForwardGraph, node: NodeDef) -> bool:
    if calls_functions(node):
        return True
    # What adds a bias is the last layer.
    return node.op in _MAY_NORMALIZE and not any(node_name(name) in graph.weights for name in node.input)


def _dtype_of(graph: ForwardGraph) -> int:
    """The dtype of the scores, as protocol buffers number it."""
    node = graph.node_map()[node_name(graph.scores)]
    if node.op == "Placeholder":
        return attribute(node, "dtype").type
    outputs = op_def_registry.get(node.op).output_arg
    output = outputs[min(int(graph.scores.split(":")[1]), len(outputs) - 1)]
    return output.type or attribute(node, output.type_attr).type
