"""Which activations a forward graph contains, recognised by what they compute.

A framework writes one activation in many ways: a ReLU with an upper bound is one op, three or five; GELU
has been written with Erf and with Erfc. So an activation is not matched by its ops. Every part of the graph
that is an elementwise function of one tensor and scalar constants is evaluated on a grid of numbers and
compared with the activations by their definitions. The largest part that is a known activation is taken as
one, so the rectifier inside a hard-swish belongs to the hard-swish and is not a rectifier of its own. One
learned array may take part, as the slopes of a PReLU do: the part is then evaluated for several values of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from .forward import ForwardGraph, NodeDef, called_functions, node_name, tensor_name

Array = np.ndarray

_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1.0, np.exp(np.minimum(x, 0))) / (1.0 + np.exp(-np.abs(x)))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

_ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Add": np.add,
    "AddV2": np.add,
    "Div": np.divide,
    "Elu": _elu,
    "Erf": _erf,
    "Erfc": _erfc,
    "Exp": np.exp,
    "Expm1": np.expm1,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Log1p": np.log1p,
    "LogicalAnd": np.logical_and,
    "LogicalNot": np.logical_not,
    "LogicalOr": np.logical_or,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "RealDiv": np.divide,
    "Relu": lambda x: np.maximum(x, 0),
    "Relu6": lambda x: np.clip(x, 0, 6),
    "Select": np.where,
    "SelectV2": np.where,
    "Selu": lambda x: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Square": np.square,
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "ClipByValue": np.clip,
}
_WITH_ATTRIBUTES = frozenset({"LeakyRelu", "Cast"})

# Ops that bend a function. A part without any of them is not an activation.
_BENDS = frozenset(_ELEMENTWISE) - {"Add", "AddV2", "Sub", "Neg", "Mul", "Div", "RealDiv"} | {"LeakyRelu"}
# Bends that rectify, or only ever occur in what does: left unrecognised, they must not pass as plain
# gradients. A lone Sigmoid, Tanh or Exp is a smooth gate or a squashing function, which guided
# backpropagation leaves alone.
_RECTIFYING = frozenset(
    {"Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Erf", "Erfc"}
    | {"Maximum", "Minimum", "ClipByValue", "Abs", "Select", "SelectV2"}
)
_MAX_ROOTS = 12


@dataclass(frozen=True)
class Activation:
    """One activation of a model.

    Attributes:
        kind: its name with parameters, such as "relu6", "relu(max_value=3)", "swish", "gelu".
        nodes: names of the ops that it is written in.
        input: tensor name of its input.
        output: tensor name of its output.
        threshold: where the region of the activation that passes a signal begins; for gates NaN.
        upper: where that region ends (ReLU6: 6), else infinity.
    """

    kind: str
    nodes: frozenset[str]
    input: str
    output: str
    threshold: float
    upper: float

    @property
    def is_gate(self) -> bool:
        """Whether it is a gate and not a rectifier: hard-sigmoid."""
        return math.isnan(self.threshold)

    @property
    def passes_unchanged(self) -> bool:
        """Whether its derivative is 1 in the whole region that passes."""
        return self.kind.partition("(")[0] in ("relu", "relu6", "prelu", "elu")

    @property
    def guided(self) -> str:
        """What the guided rule does with it, in words."""
        if self.is_gate:
            return "plain derivative (a gate)"
        if math.isinf(self.upper):
            return f"passes x > {self.threshold:.4g}"
        return f"passes {self.threshold:.4g} < x < {self.upper:.4g}"


@dataclass(frozen=True)
class Coverage:
    """The activations of a model that matter to guided backpropagation.

    Attributes:
        activations: every recognised activation.
        uncovered: (op type, node name) of each rectifying op that belongs to none of them.
    """

    activations: tuple[Activation, ...]
    uncovered: tuple[tuple[str, str], ...]

    @property
    def rectifiers(self) -> tuple[Activation, ...]:
        """The recognised activations that guided backpropagation changes."""
        return tuple(activation for activation in self.activations if not activation.is_gate)

    def count(self) -> dict[str, int]:
        """Number of activations by kind."""
        return dict(Counter(activation.kind for activation in self.activations))

    def to_manifest(self) -> dict[str, Any]:
        """Each kind with its count and rule, and every op that has none, as JSON values."""
        rules = {activation.kind: activation.guided for activation in self.activations}
        return {
            "recognised": [
                {"kind": kind, "count": count, "guided": rules[kind]} for kind, count in self.count().items()
            ],
            "refused": [list(part) for part in self.uncovered],
        }


def find_activations(graph: ForwardGraph) -> Coverage:
    """Recognise the activations of a forward graph and list the rectifying ops that remain."""
    analysis = _Analysis(graph)
    claimed: set[str] = set()
    found: list[Activation] = []
    for node in reversed(graph.nodes):
        if node.name in claimed:
            continue
        activation = analysis.activation_ending_at(node.name, claimed)
        if activation is not None:
            found.append(activation)
            claimed |= activation.nodes
    owner = {name: activation for activation in found for name in activation.nodes}
    uncovered = tuple(analysis.uncovered(owner))
    return Coverage(tuple(reversed(found)), uncovered)


class _Analysis:
    """What of each tensor's computation is elementwise, and from where."""

    def __init__(self, graph: ForwardGraph) -> None:
        self.graph = graph
        self.nodes = graph.node_map()
        self.readers = graph.consumers()
        self.constants = {
            f"{node.name}:0": tf.make_ndarray(node.attr["value"].tensor)
            for node in graph.nodes
            if node.op == "Const" and not node.attr["value"].tensor.tensor_shape.dim
        }
        self.variable = self._depending_on_input()
        self.roots: dict[str, tuple[str, ...]] = {}
        for node in graph.nodes:
            self.roots[f"{node.name}:0"] = self._roots(node)
        self.identified: dict[object, tuple[str, float, float] | None] = {}

    def _depending_on_input(self) -> set[str]:
        names = {self.graph.input}
        for node in self.graph.nodes:
            if any(node_name(i) in names for i in node.input):
                names.add(node.name)
        return names

    def inputs(self, node: NodeDef) -> list[str]:
        """The tensors that a node reads and that depend on the model's input."""
        names = (tensor_name(i) for i in node.input)
        return [name for name in names if node_name(name) in self.variable]

    def learned(self, part: Sequence[NodeDef]) -> set[str]:
        """The arrays that a part reads and that do not depend on the model's input."""
        names = {tensor_name(i) for node in part for i in node.input}
        return {n for n in names if node_name(n) not in self.variable and n not in self.constants}

    def _roots(self, node: NodeDef) -> tuple[str, ...]:
        """Tensors, nearest first, of which alone (and weights) this node is an elementwise function."""
        if node.op not in _ELEMENTWISE and node.op not in _WITH_ATTRIBUTES:
            return ()
        inputs = list(dict.fromkeys(self.inputs(node)))
        if not inputs:
            return ()
        candidates = [(name, *self.roots.get(name, ())) for name in inputs]
        shared = [name for name in candidates[0] if all(name in other for other in candidates[1:])]
        return tuple(shared[:_MAX_ROOTS])

    def part(self, root: str, end: str) -> list[NodeDef]:
        """The nodes between a root tensor and a node, in topological order."""
        names: set[str] = set()
        stack = [end]
        while stack:
            name = stack.pop()
            if name in names:
                continue
            names.add(name)
            stack.extend(node_name(i) for i in self.inputs(self.nodes[name]) if i != root)
        return [node for node in self.graph.nodes if node.name in names]

    def activation_ending_at(self, end: str, claimed: set[str]) -> Activation | None:
        for root in reversed(self.roots.get(f"{end}:0", ())):
            part = self.part(root, end)
            if not any(node.op in _BENDS for node in part):
                continue
            names = frozenset(node.name for node in part)
            if names & claimed or not self._is_closed(names, end):
                continue
            identity = self._identify(root, part)
            if identity is not None:
                kind, *region = identity
                activation = Activation(kind, names, root, f"{end}:0", *region)
                # A rectifier behind a gate changes nothing of its values, and is a rectifier all the same.
                if not (activation.is_gate and self._holds_gate(activation)):
                    return activation
        return None

    def _holds_gate(self, gate: Activation) -> bool:
        """Whether a smaller part of a gate is a gate already."""
        inner = (name for name in gate.nodes if f"{name}:0" != gate.output)
        return any(
            math.isnan(identity[1])
            for name in inner
            if gate.input in self.roots[f"{name}:0"]
            and (identity := self._identify(gate.input, self.part(gate.input, name)))
        )

    def _is_closed(self, names: frozenset[str], end: str) -> bool:
        """Whether nothing outside the part reads what is inside it, its end aside."""
        return all(
            reader.name in names for name in names - {end} for reader in self.readers.get(f"{name}:0", ())
        ) and not any(f"{name}:0" == self.graph.scores for name in names - {end})

    def _identify(self, root: str, part: Sequence[NodeDef]) -> tuple[str, float, float] | None:
        learned = self.learned(part)
        if len(learned) > 1:
            return None
        key = self._structure(root, part)
        if key not in self.identified:
            if learned:
                (slopes,) = learned
                known = identify_learned(
                    lambda x, slope: self._evaluate(root, part, x, {slopes: np.float64(slope)})
                )
            else:
                known = identify(lambda x: self._evaluate(root, part, x))
            self.identified[key] = known
        return self.identified[key]

    def _structure(self, root: str, part: Sequence[NodeDef]) -> object:
        numbers = {node.name: index for index, node in enumerate(part)}

        def operand(name: str) -> object:
            name = tensor_name(name)
            if name == root:
                return "x"
            if name in self.constants:
                return float(self.constants[name])
            return ("node", numbers[node_name(name)]) if node_name(name) in numbers else "learned"

        return tuple(
            (
                node.op,
                tuple(operand(i) for i in node.input),
                node.attr["alpha"].f if "alpha" in node.attr else 0,
            )
            for node in part
        )

    def _evaluate(
        self, root: str, part: Sequence[NodeDef], x: Array, learned: Mapping[str, Array] | None = None
    ) -> Array:
        values: dict[str, Array] = {root: x, **(learned or {})}
        for node in part:
            operands = [
                values[name]
                if (name := tensor_name(i)) in values
                else self.constants[name].astype(np.float64)
                for i in node.input
            ]
            values[f"{node.name}:0"] = _apply(node, operands)
        return np.broadcast_to(np.asarray(values[f"{part[-1].name}:0"], np.float64), x.shape)

    def uncovered(self, owner: Mapping[str, Activation]) -> Iterator[tuple[str, str]]:
        """Rectifying ops that no recognised activation explains."""
        for node in self.graph.nodes:
            if node.name not in self.variable:
                continue
            activation = owner.get(node.name)
            if node.op in _RECTIFYING and (activation is None or self._is_reflected(node, activation)):
                yield node.op, node.name
            elif activation is None and node.op == "Mul" and self._gates_itself(node):
                yield "self-gated product", node.name
            else:
                for op in sorted(self._rectifying_in_functions(node)):
                    yield f"{op} inside {node.op}", node.name

    def _is_reflected(self, node: NodeDef, activation: Activation) -> bool:
        """A rectifier of −x: one half of an activation such as PReLU, whose other half rectifies x."""
        source = self.nodes.get(node_name(node.input[0]))
        return source is not None and source.op == "Neg" and source.name not in activation.nodes

    def _gates_itself(self, node: NodeDef) -> bool:
        """Whether a product's one factor is an elementwise function of the other: an unrecognised swish."""
        a, b = (tensor_name(i) for i in node.input)
        return self._bends_from(a, b) or self._bends_from(b, a)

    def _bends_from(self, root: str, end: str) -> bool:
        """Whether `end` is reached from `root` by elementwise ops, weights allowed, one of them bending."""
        stack, seen = [(end, False)], set()
        while stack:
            name, bent = stack.pop()
            if name == root and bent:
                return True
            node = self.nodes.get(node_name(name))
            if node is None or (name, bent) in seen or len(seen) > 64:
                continue
            seen.add((name, bent))
            if node.op in _ELEMENTWISE or node.op in _WITH_ATTRIBUTES:
                stack.extend((tensor_name(i), bent or node.op in _BENDS) for i in node.input)
        return False

    def _rectifying_in_functions(self, node: NodeDef) -> set[str]:
        """Rectifying ops in the functions that a control flow op runs."""
        library = {f.signature.name: f for f in self.graph.library.library.function}
        pending = called_functions(node)
        seen: set[str] = set()
        ops: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen or name not in library:
                continue
            seen.add(name)
            for inner in library[name].node_def:
                ops |= {inner.op} & _RECTIFYING
                pending.extend(called_functions(inner))
        return ops


def _apply(node: NodeDef, operands: Sequence[Array]) -> Array:
    if node.op == "Cast":
        return operands[0].astype(np.float64)
    if node.op == "LeakyRelu":
        return np.where(operands[0] > 0, operands[0], node.attr["alpha"].f * operands[0])
    return _ELEMENTWISE[node.op](*operands)


_GRID = np.concatenate([np.linspace(-12, 12, 4801), [-900.0, -60.0, 60.0, 900.0]])
_FAR = 1e5


def identify(function: Callable[[Array], Array]) -> tuple[str, float, float] | None:
    """Name the activation that a function of one number is.

    Returns:
        (kind, threshold, upper) as in `Activation`, or None where it is none that is known.
    """
    with np.errstate(all="ignore"):
        values = function(_GRID)
        if not np.all(np.isfinite(values)):
            return None
        for kind, reference, is_gate in _SMOOTH:
            if _same(values, reference(_GRID)):
                return (kind, math.nan, math.inf) if is_gate else (kind, 0.0, math.inf)
        return _swish(function, values) or _elu_with_alpha(function, values) or _rectifier(function, values)


_SLOPES = (-0.5, 0.0, 0.01, 0.25, 0.75, 1.5)


def identify_learned(function: Callable[[Array, float], Array]) -> tuple[str, float, float] | None:
    """Name the activation that a function of one number and one learned number is.

    The one that is known is PReLU (He et al. 2015, arXiv 1502.01852): x above 0, slope · x below. Whatever
    slope was learned, the function above 0 is the same.

    Returns:
        (kind, threshold, upper) as in `Activation`, or None where it is none that is known.
    """
    with np.errstate(all="ignore"):
        for sign in (1.0, -1.0):
            if all(
                _same(function(_GRID, sign * slope), np.where(_GRID > 0, _GRID, slope * _GRID))
                for slope in _SLOPES
            ):
                return ("prelu", 0.0, math.inf)
    return None


def _same(values: Array, reference: Array) -> bool:
    # Constants of a graph are float32, whose rounding is 6e-8 of a value.
    return bool(np.allclose(values, reference, rtol=2e-6, atol=2e-6))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_SMOOTH: tuple[tuple[str, Callable[[Array], Array], bool], ...] = (
    ("gelu", lambda x: 0.5 * x * _erfc(-x / math.sqrt(2)), False),
    ("gelu(tanh)", _gelu_tanh, False),
    ("mish", lambda x: x * np.tanh(_softplus(x)), False),
    ("softplus", _softplus, False),
    ("elu", _elu, False),
    ("selu", _ELEMENTWISE["Selu"], False),
    ("hard_swish", lambda x: x * np.clip(x + 3, 0, 6) / 6, False),
    ("hard_sigmoid", lambda x: np.clip(x + 3, 0, 6) / 6, True),
    ("hard_sigmoid", lambda x: np.clip(0.2 * x + 0.5, 0, 1), True),
)


def _swish(function: Callable[[Array], Array], values: Array) -> tuple[str, float, float] | None:
    at_one = float(function(np.array([1.0]))[0])
    if not 0.5 < at_one < 1.0:
        return None
    beta = math.log(at_one / (1 - at_one))
    if not _same(values, _GRID * _sigmoid(beta * _GRID)):
        return None
    return ("swish" if abs(beta - 1) < 1e-6 else f"swish(beta={beta:.4g})", 0.0, math.inf)


def _elu_with_alpha(function: Callable[[Array], Array], values: Array) -> tuple[str, float, float] | None:
    alpha = -float(function(np.array([-900.0]))[0])
    if alpha <= 0 or not _same(values, np.where(_GRID > 0, _GRID, alpha * np.expm1(np.minimum(_GRID, 0)))):
        return None
    return (f"elu(alpha={alpha:.4g})", 0.0, math.inf)


def _rectifier(function: Callable[[Array], Array], values: Array) -> tuple[str, float, float] | None:
    """ReLU(x; slope a, max m, threshold t): m for x ≥ m, x for t ≤ x < m, a·(x − t) below t."""
    low, lower, high, higher = (float(v) for v in function(np.array([-_FAR, -2 * _FAR, _FAR, 2 * _FAR])))
    slope = (low - lower) / _FAR
    if abs(slope) < 1e-9:
        slope = 0.0
    upper = high if high == higher else math.inf
    if math.isinf(upper) and abs((higher - high) / _FAR - 1) > 1e-6:
        return None
    if slope:
        threshold = -_FAR - low / slope
        threshold = 0.0 if abs(threshold) < 1e-3 else threshold
    else:
        threshold = _first_positive(function, min(upper, _FAR))
    if not (0 <= slope < 1 and -_FAR < threshold < upper and (upper > 0 or math.isinf(upper))):
        return None
    grid = _GRID[np.abs(_GRID - threshold) > 1e-4]
    kept = values[np.abs(_GRID - threshold) > 1e-4]
    expected = np.where(grid >= threshold, np.minimum(grid, upper), slope * (grid - threshold))
    if not _same(kept, expected):
        return None
    return (_rectifier_name(slope, upper, threshold), threshold, upper)


def _first_positive(function: Callable[[Array], Array], high: float) -> float:
    """Where a function that is zero at first becomes positive, by bisection."""
    low = -_FAR
    for _ in range(80):
        middle = (low + high) / 2
        if float(function(np.array([middle]))[0]) > 0:
            high = middle
        else:
            low = middle
    return 0.0 if abs(high) < 1e-9 else round(high, 6)


def _rectifier_name(slope: float, upper: float, threshold: float) -> str:
    if not slope and not threshold and upper == 6:
        return "relu6"
    parameters: Mapping[str, float] = {"negative_slope": slope, "max_value": upper, "threshold": threshold}
    given = ", ".join(f"{k}={v:.4g}" for k, v in parameters.items() if v and math.isfinite(v))
    return f"relu({given})" if given else "relu"
