"""The activations of a forward graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

from saliency_exporter.graph.activations.elementwise import BENDS, ELEMENTWISE, WITH_ATTRIBUTES, Array, apply
from saliency_exporter.graph.activations.identify import identify, identify_learned
from saliency_exporter.graph.forward_graph import ForwardGraph, node_name, tensor_name
from saliency_exporter.graph.gates import arguments_of, is_gate, on_the_way_back
from saliency_exporter.graph.inlining import topological
from saliency_exporter.graph.library import functions_of
from saliency_exporter.graph.nodes import attribute, unit_roundoff

# Bends that rectify, or only ever occur in what does: left unrecognized, they must not pass as plain
# gradients. A lone Sigmoid, Tanh or Exp is a smooth gate or a squashing function, which guided
# backpropagation leaves alone.
_RECTIFYING = frozenset(
    {"Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Erf", "Erfc"}
    | {"Maximum", "Minimum", "ClipByValue", "Abs", "Select", "SelectV2"}
)
_MAX_ROOTS = 12
# Of those, what also bounds a number that is no feature: a norm, a divisor, the operand of a logarithm.
_BOUNDING = frozenset({"Maximum", "Minimum", "ClipByValue", "Abs"})
_SELECTIONS = frozenset({"Select", "SelectV2"})
_ORDERINGS = frozenset({"Greater", "GreaterEqual", "Less", "LessEqual"})
_REDUCTIONS = frozenset({"Sum", "Mean", "Max", "Min", "Prod", "EuclideanNorm"})
_OF_ONE_SIGN = frozenset({"Square", "Abs", "SquaredDifference", "Sqrt"})
_PASSING_ON = frozenset({"Reshape", "ExpandDims", "Squeeze", "Cast", "EnsureShape"})
_WITH_A_DOMAIN = frozenset({"Log", "Sqrt", "Rsqrt", "Acos", "Asin", "Acosh", "Atanh", "Reciprocal", "Inv"})
_DIVISIONS = frozenset({"Div", "RealDiv", "DivNoNan", "Xdivy"})


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
        activations: every recognized activation.
        uncovered: (op type, node name) of each rectifying op that belongs to none of them.
    """

    activations: tuple[Activation, ...]
    uncovered: tuple[tuple[str, str], ...]

    @property
    def rectifiers(self) -> tuple[Activation, ...]:
        """The recognized activations that guided backpropagation changes."""
        return tuple(activation for activation in self.activations if not activation.is_gate)

    def count(self) -> dict[str, int]:
        """Number of activations by kind."""
        return dict(Counter(activation.kind for activation in self.activations))


def find_activations(graph: ForwardGraph) -> Coverage:
    """Recognizes the activations of a forward graph and lists the rectifying ops that remain."""
    analysis = _Analysis(graph)
    found = _activations(analysis)
    owner = {name: activation for activation in found for name in activation.nodes}
    # What the gradient of a gate stands for is on no way back, and needs no rule.
    skipped = {node.name for node in graph.nodes} - on_the_way_back(graph)
    passed = tuple(a for a in reversed(found) if node_name(a.output) not in skipped)
    uncovered = [(op, name) for op, name in analysis.uncovered(owner) if name not in skipped]
    return Coverage(passed, (*uncovered, *_with_own_gradient(graph, found, skipped)))


def _activations(analysis: _Analysis) -> list[Activation]:
    """The activations, the last one first."""
    claimed: set[str] = set()
    found: list[Activation] = []
    for node in reversed(analysis.graph.nodes):
        if node.name in claimed:
            continue
        activation = analysis.activation_ending_at(node.name, claimed)
        if activation is not None:
            found.append(activation)
            claimed |= activation.nodes
    return found


def _with_own_gradient(
    graph: ForwardGraph, found: Sequence[Activation], skipped: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Rectifiers that the model's author gave a gradient: which of the two rules holds is not ours to say.

    They may be a part of what has the gradient: `tf.recompute_grad` gives one to a whole block.
    """
    rectifiers = {node_name(a.output) for a in found if not a.is_gate} & set(skipped)
    nodes = graph.node_map()
    for gate in filter(is_gate, graph.nodes):
        seen = {node_name(name) for name in arguments_of(gate, graph)}
        stack = [node_name(gate.input[0])]
        while stack:
            name = stack.pop()
            if name in rectifiers:
                yield "rectifier with a gradient of its own", gate.name
                break
            if name in nodes and name not in seen:
                seen.add(name)
                stack += map(node_name, nodes[name].input)


class _Analysis:
    """What of each tensor's computation is elementwise, and from where."""

    def __init__(self, graph: ForwardGraph, sources: Collection[str] = ()) -> None:
        self.graph = graph
        self.sources = {graph.input, *sources}
        self.nodes = graph.node_map()
        self.readers = graph.consumers()
        self.constants = {
            f"{node.name}:0": tf.make_ndarray(node.attr["value"].tensor)
            for node in graph.nodes
            if node.op == "Const" and not node.attr["value"].tensor.tensor_shape.dim
        }
        for node in graph.nodes:
            # A constant that is cast to the model's dtype is one as well.
            if node.op == "Cast" and (value := self.constants.get(tensor_name(node.input[0]))) is not None:
                self.constants[f"{node.name}:0"] = value
        self.variable = self._depending_on_input()
        self.roots: dict[str, tuple[str, ...]] = {}
        for node in graph.nodes:
            self.roots[f"{node.name}:0"] = self._roots(node)
        self.identified: dict[object, tuple[str, float, float] | None] = {}

    def _depending_on_input(self) -> set[str]:
        names = set(self.sources)
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
        if node.op not in ELEMENTWISE and node.op not in WITH_ATTRIBUTES:
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
            if not any(node.op in BENDS for node in part):
                continue
            names = frozenset(node.name for node in part)
            if names & claimed or not self._is_closed(names, end):
                continue
            if any(self._is_no_rectifier(node) for node in part):
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
            types = (tf.as_dtype(attribute(node, "T").type or tf.float32) for node in part)
            rounding = max(map(unit_roundoff, types))
            if learned:
                (slopes,) = learned
                known = identify_learned(
                    lambda x, slope: self._evaluate(root, part, x, {slopes: np.float64(slope)}), rounding
                )
            else:
                known = identify(lambda x: self._evaluate(root, part, x), rounding)
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
            values[f"{node.name}:0"] = apply(node, operands)
        return np.broadcast_to(np.asarray(values[f"{part[-1].name}:0"], np.float64), x.shape)

    def uncovered(self, owner: Mapping[str, Activation]) -> Iterator[tuple[str, str]]:
        """Rectifying ops that no recognized activation explains."""
        for node in self.graph.nodes:
            if node.name not in self.variable:
                continue
            activation = owner.get(node.name)
            if node.op in _RECTIFYING and (activation is None or self._is_reflected(node, activation)):
                if not self._is_no_rectifier(node):
                    yield node.op, node.name
            elif activation is None and node.op == "Mul" and self._gates_itself(node):
                yield "self-gated product", node.name
            else:
                for op in sorted(self._rectifying_in_functions(node)):
                    yield f"{op} inside {node.op}", node.name

    def _is_no_rectifier(self, node: NodeDef) -> bool:
        """Whether an op that rectifies in other places bounds or selects what is no feature here.

        A selection rectifies where it asks for the sign of features, not where it asks for equality with a
        mask's value, or for places. Maximum and its like bound a norm before something is divided by it, and
        what a logarithm, a root or an arc cosine takes.
        """
        if node.op not in _BOUNDING | _SELECTIONS | {"Relu"}:
            return False
        if node.op in _SELECTIONS:
            return not self._orders_features(tensor_name(node.input[0]))
        if not tf.as_dtype(node.attr["T"].type).is_floating:
            return True
        read = self.inputs(node)
        if read and all(self._is_statistic(name) for name in read):
            return True
        return node.op in _BOUNDING - {"Abs"} and (self._guards_a_domain(node) or self._bounds_a_cosine(node))

    def _orders_features(self, condition: str) -> bool:
        """Whether a condition is made of comparisons by order of floats that are features."""
        stack, seen = [condition], set()
        while stack:
            name = stack.pop()
            node = self.nodes.get(node_name(name))
            if node is None or name in seen or node.name not in self.variable:
                continue
            seen.add(name)
            if node.op in _ORDERINGS:
                floating = tf.as_dtype(node.attr["T"].type).is_floating
                if floating and not all(self._is_statistic(i) for i in self.inputs(node)):
                    return True
            elif node.op in ELEMENTWISE or node.op in _PASSING_ON:
                stack.extend(tensor_name(i) for i in node.input)
        return False

    def _is_statistic(self, name: str) -> bool:
        """Whether a tensor is a norm or a moment of features, or elementwise of such.

        That is a sum, mean or maximum of what has one sign, or one over the channels whose axis is kept.
        """
        node = self.nodes.get(node_name(name))
        if node is None:
            return False
        if node.op in _REDUCTIONS:
            if node.op == "EuclideanNorm" or self._has_one_sign(tensor_name(node.input[0])):
                return True
            return attribute(node, "keep_dims").b and self._reduces_channels(node)
        if node.op in ELEMENTWISE or node.op in _PASSING_ON | {"Sqrt", "Rsqrt"}:
            read = self.inputs(node)
            return bool(read) and all(self._is_statistic(i) for i in read)
        return False

    def _has_one_sign(self, name: str) -> bool:
        node = self.nodes.get(node_name(name))
        if node is None:
            return False
        if node.op == "Mul":
            return tensor_name(node.input[0]) == tensor_name(node.input[1])
        if node.op in _PASSING_ON | _REDUCTIONS:
            return self._has_one_sign(tensor_name(node.input[0]))
        return node.op in _OF_ONE_SIGN

    def _reduces_channels(self, node: NodeDef) -> bool:
        axes = self.nodes.get(node_name(node.input[1]))
        if axes is None or axes.op != "Const":
            return False
        # Which axis is the last one its input's rank would say; channels are the last of four at most.
        return bool(np.max(tf.make_ndarray(axes.attr["value"].tensor)) >= 3) or bool(
            np.any(tf.make_ndarray(axes.attr["value"].tensor) == -1)
        )

    def _guards_a_domain(self, node: NodeDef) -> bool:
        """Whether what a bounded number goes to is not defined, or not finite, beyond the bounds."""
        readers = self.readers.get(f"{node.name}:0", [])
        return bool(readers) and all(
            reader.op in _WITH_A_DOMAIN
            or (reader.op in _DIVISIONS and node_name(reader.input[0]) != node.name)
            or (reader.op in _BOUNDING and self._guards_a_domain(reader))
            for reader in readers
        )

    def _bounds_a_cosine(self, node: NodeDef) -> bool:
        """Whether it bounds the product of features of norm 1 with weights, as ArcFace does, to about ±1."""
        name = tensor_name(node.input[0])
        passed = _BOUNDING | _PASSING_ON
        while (source := self.nodes.get(node_name(name))) is not None and source.op in passed:
            name = tensor_name(source.input[0])
        bounds = [self.constants[n] for n in map(tensor_name, node.input) if n in self.constants]
        if source is None or source.op != "MatMul" or not bounds:
            return False
        near_one = all(0.99 <= abs(float(bound)) <= 1 for bound in bounds)
        return near_one and self._has_norm_one(tensor_name(source.input[0]))

    def _has_norm_one(self, name: str) -> bool:
        node = self.nodes.get(node_name(name))
        return (
            node is not None
            and node.op in {"Mul"} | _DIVISIONS
            and any(self._is_statistic(tensor_name(i)) for i in node.input)
        )

    def _is_reflected(self, node: NodeDef, activation: Activation) -> bool:
        """A rectifier of −x: one half of an activation such as PReLU, whose other half rectifies x."""
        source = self.nodes.get(node_name(node.input[0]))
        return source is not None and source.op == "Neg" and source.name not in activation.nodes

    def _gates_itself(self, node: NodeDef) -> bool:
        """Whether a product's one factor is an elementwise function of the other: an unrecognized swish."""
        a, b = (tensor_name(i) for i in node.input)
        return self._bends_from(a, b) or self._bends_from(b, a)

    def _bends_from(self, root: str, end: str) -> bool:
        """Whether `end` is reached from `root` by elementwise ops, weights allowed, one of them bending."""
        stack = [(end, False)]
        seen: set[tuple[str, bool]] = set()
        while stack:
            name, bent = stack.pop()
            if name == root and bent:
                return True
            node = self.nodes.get(node_name(name))
            if node is None or (name, bent) in seen or len(seen) > 64:
                continue
            seen.add((name, bent))
            if node.op in ELEMENTWISE or node.op in WITH_ATTRIBUTES:
                stack.extend((tensor_name(i), bent or node.op in BENDS) for i in node.input)
        return False

    def _rectifying_in_functions(self, node: NodeDef) -> set[str]:
        """Rectifying ops in the functions that a control flow op runs, gates aside."""
        ops: set[str] = set()
        for function in functions_of([node], self.graph.library).values():
            arguments = [argument.name for argument in function.signature.input_arg]
            graph_def, _ = function_def_to_graph_def(function)
            nodes = tuple(topological(graph_def.node))
            body = replace(self.graph, nodes=nodes, weights={}, input="", scores="")
            analysis = _Analysis(body, arguments)
            found = _activations(analysis)
            owner = {name: activation for activation in found for name in activation.nodes}
            rectifiers = (activation for activation in found if not activation.is_gate)
            ops |= {analysis.nodes[node_name(activation.output)].op for activation in rectifiers}
            ops |= {op for op, name in analysis.uncovered(owner) if "inside" not in op}
        return ops
