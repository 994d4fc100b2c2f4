"""The activations of a forward graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.activations.elementwise import BENDS, ELEMENTWISE, WITH_ATTRIBUTES, Array, apply
from saliency_exporter.graph.activations.identify import identify, identify_learned
from saliency_exporter.graph.forward_graph import ForwardGraph, called_functions, node_name, tensor_name
from saliency_exporter.graph.gates import arguments_of, is_gate, on_the_way_back

# Bends that rectify, or only ever occur in what does: left unrecognized, they must not pass as plain
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
    # What the gradient of a gate stands for is on no way back, and needs no rule.
    way_back = on_the_way_back(graph)
    passed = tuple(a for a in reversed(found) if node_name(a.output) in way_back)
    uncovered = [(op, name) for op, name in analysis.uncovered(owner) if name in way_back]
    return Coverage(passed, (*uncovered, *_with_own_gradient(graph, found)))


def _with_own_gradient(graph: ForwardGraph, found: Sequence[Activation]) -> Iterator[tuple[str, str]]:
    """Rectifiers that the model's author gave a gradient: which of the two rules holds is not ours to say."""
    rectifiers = {(a.output, a.input) for a in found if not a.is_gate}
    for gate in filter(is_gate, graph.nodes):
        given = tensor_name(gate.input[0])
        if any((given, tensor_name(name)) in rectifiers for name in arguments_of(gate, graph)):
            yield "rectifier with a gradient of its own", gate.name


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
            values[f"{node.name}:0"] = apply(node, operands)
        return np.broadcast_to(np.asarray(values[f"{part[-1].name}:0"], np.float64), x.shape)

    def uncovered(self, owner: Mapping[str, Activation]) -> Iterator[tuple[str, str]]:
        """Rectifying ops that no recognized activation explains."""
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
