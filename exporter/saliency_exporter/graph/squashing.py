"""Softmax, log_softmax and sigmoid, found by what a part of a graph computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, tensor_name
from saliency_exporter.graph.parts import specs_of, values_of, without_values

Kind = Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid", "other"]

_OPS: dict[str, Kind] = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
_CLIPS = frozenset({"ClipByValue", "Minimum", "Relu6"})
_CURVED = _CLIPS | {"Erf", "Erfc", "Exp", "Expm1", "Log", "Log1p", "Softplus", "Tanh", *_OPS}
_ARITHMETIC = frozenset(
    {"Add", "AddV2", "Div", "DivNoNan", "Inv", "Mul", "Neg", "RealDiv", "Reciprocal", "Sub", "Sum"}
)
_CASES = frozenset({"Abs", "Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalNot", "OnesLike"})
_FORMS = frozenset({"Pack", "Relu", "Transpose"})
_SAFETY = frozenset({"IsFinite", "Max", "Maximum", "Min", "Minimum", "Select", "SelectV2", "ZerosLike"})
_SHIFT = _SAFETY | {"ExpandDims", "Reshape", "Squeeze", "StopGradient", "Sub"}
"""What a score is shifted by its largest value with."""
_WRITTEN_WITH = _CURVED | _ARITHMETIC | _CASES | _FORMS | _SHIFT
"""What one of these functions is written with. A product with weights, a convolution or a pooling is not
among them, so no search goes behind the last layer."""
_MOST_NODES = 64
_MOST_NUMBERS = 2**24
_ROUNDING = {"float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Squashing:
    """A function that squashes class scores.

    Attributes:
        kind: which it is; "other" for one that takes each score from 0 to 1 in another way, as hard_sigmoid.
        scores: name of the tensor that it is a function of, of the shape of its output.
        axis: of the classes, for a softmax; counted from the end.
    """

    kind: Kind
    scores: str
    axis: int = -1


class Squashings:
    """The squashing functions of a graph, asked for by their outputs."""

    def __init__(self, graph: ForwardGraph) -> None:
        """Takes the graph; nothing is computed before something is asked."""
        self.graph = graph
        self.nodes = graph.node_map()
        self.place = {node.name: place for place, node in enumerate(graph.nodes)}
        self._found: dict[str, Squashing | None] = {}

    @cached_property
    def static(self) -> set[str]:
        """Names of what no value of the input changes."""
        return without_values(self.graph)

    def of(self, tensor: str) -> Squashing | None:
        """The function that a tensor is the output of: one op, or several that compute the same."""
        if tensor not in self._found:
            self._found[tensor] = self._squashing(tensor)
        return self._found[tensor]

    def _squashing(self, tensor: str) -> Squashing | None:
        node = self.nodes.get(node_name(tensor))
        if node is None:
            return None
        if node.op in _OPS:
            kind, scores = _OPS[node.op], tensor_name(node.input[0])
            return Squashing(kind, self._unshifted(tensor, kind, scores, -1))
        other = None
        for scores, between in self._dominators(tensor):
            if not {self.nodes[name].op for name in between} & _CURVED:
                continue
            for kind, axis in self._kinds(tensor, scores):
                if kind != "other":
                    return Squashing(kind, self._unshifted(tensor, kind, scores, axis), axis)
                other = other or Squashing(kind, scores)
        return other

    def _unshifted(self, tensor: str, kind: Kind, scores: str, axis: int) -> str:
        """What was shifted by its largest value, for exp to stay finite, which a softmax does not show.

        Of the shifted score the largest is 0 whatever the image is, and so is its gradient.
        """
        node = self.nodes.get(node_name(scores))
        if node is None or node.op != "Sub" or kind not in ("softmax", "log_softmax"):
            return scores
        for before, between in self._dominators(scores, _SHIFT):
            ops = [self.nodes[name].op for name in between]
            if "Max" not in ops or tensor_name(node.input[0]) != before or ops.count("Sub") > 1:
                continue
            if (kind, axis) in self._kinds(tensor, before):
                return before
        return scores

    def _dominators(self, tensor: str, ops: frozenset[str] = _WRITTEN_WITH) -> Iterator[tuple[str, set[str]]]:
        """Tensors that a tensor depends on by them alone, the nearest first, and the nodes in between."""
        frontier, between = {tensor}, set[str]()
        while len(between) < _MOST_NODES:
            latest = max(frontier, key=lambda name: self.place.get(node_name(name), -1))
            node = self.nodes.get(node_name(latest))
            if node is None or node.op not in ops:
                return
            frontier.remove(latest)
            between.add(node.name)
            frontier |= {i for i in map(tensor_name, node.input) if node_name(i) not in self.static}
            if not frontier:
                return
            if len(frontier) == 1:
                yield next(iter(frontier)), between

    def _kinds(self, tensor: str, scores: str) -> list[tuple[Kind, int]]:
        """Which functions of one tensor another is, with the axis of the classes: none, or one."""
        try:
            return self._compared(tensor, scores)
        # Shapes of a part that only the whole graph knows, or an op that this machine cannot run.
        except Exception:
            return []

    def _compared(self, tensor: str, scores: str) -> list[tuple[Kind, int]]:
        specs = specs_of(self.graph, [tensor, scores], 8)
        spec = specs[scores]
        if specs[tensor] != spec or not spec.shape.is_fully_defined() or not spec.dtype.is_floating:
            return []
        shape = spec.shape.as_list()
        size = int(np.prod(shape))
        if not 0 < size < _MOST_NUMBERS:
            return []
        # Far from 0 as well, where a function that is clipped is another one.
        x = np.random.default_rng(0).permutation(np.linspace(-9, 9, size)).reshape(shape)
        x = x.astype(spec.dtype.as_numpy_dtype)
        (y,) = values_of(self.graph, [tensor], {scores: x}, 8)
        rounding = _ROUNDING.get(spec.dtype.name, 1e-5)
        for kind, axis, expected in _functions(x.astype(np.float64)):
            tolerance = rounding * (1 if kind in ("softmax", "sigmoid") else 10)
            if np.allclose(y.astype(np.float64), expected, rtol=rounding, atol=tolerance):
                return [(kind, axis)]
        rising = y.astype(np.float64).ravel()[np.argsort(x.ravel(), kind="stable")]
        ends = np.allclose(rising[[0, -1]], [0, 1], rtol=0, atol=rounding)
        return [("other", -1)] if ends and (np.diff(rising) >= -rounding).all() else []


def _functions(x: np.ndarray) -> Iterator[tuple[Kind, int, np.ndarray]]:
    # By their logarithms, which lose nothing far from 0.
    yield "sigmoid", -1, np.exp(-np.logaddexp(0, -x))
    yield "log_sigmoid", -1, -np.logaddexp(0, -x)
    for axis in range(-1, -x.ndim, -1):
        largest = x.max(axis, keepdims=True)
        log = x - largest - np.log(np.exp(x - largest).sum(axis, keepdims=True))
        yield "softmax", axis, np.exp(log)
        yield "log_softmax", axis, log
