"""The forward pass of a model as one flat graph, and its replay under rules.

Whatever a model is made of, its forward pass is traced once, inlined, and pruned to the class scores; its
weights are taken out of the graph as arrays. `Forward` keeps those weights as variables and runs the graph
again, op by op, inside whatever function is being traced: an op that has a rule goes through the rule,
every other op is imported as it is. A saliency method is such a replay under a table of rules, so no model is
cloned or patched, and layers, nested models and plain functions are one case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

NodeDef = tf.compat.v1.NodeDef
GraphDef = tf.compat.v1.GraphDef

Rule = Callable[[NodeDef, Sequence[tf.Tensor]], Sequence[tf.Tensor] | None]
"""`rule(node, inputs) -> outputs`, or None to leave the node as it is.

`inputs` are the node's data inputs in order. An output may carry another gradient (`tf.custom_gradient`)."""


ReplacementRule = Callable[[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]], tf.Tensor]
"""`rule(x, forward) -> y`: the output of a group of nodes; `forward(x)` runs the nodes as they are."""


def tensor_name(name: str) -> str:
    """The full name `node:index` of a node's input as it is written in a NodeDef."""
    return name if ":" in name else f"{name}:0"


def node_name(name: str) -> str:
    """The node part of a tensor name."""
    return name.split(":", 1)[0].lstrip("^")


def with_inputs(node: NodeDef, aliases: Mapping[str, str]) -> NodeDef:
    """A copy of the node that reads what its inputs stand for; its control inputs are dropped."""
    copy = NodeDef()
    copy.CopyFrom(node)
    del copy.input[:]
    for name in node.input:
        if name.startswith("^"):
            continue
        name = tensor_name(name)
        while name in aliases:
            name = aliases[name]
        copy.input.append(name)
    return copy


@dataclass(frozen=True)
class Replacement:
    """Several nodes that a replay treats as one: an activation that is written in several ops.

    Attributes:
        nodes: names of the nodes that belong to it, its last one included.
        input: tensor name of its one input.
        output: tensor name of its one output.
        rule: computes the output from the input and a function that runs the nodes as they are.
    """

    nodes: frozenset[str]
    input: str
    output: str
    rule: ReplacementRule


@dataclass(frozen=True)
class ForwardGraph:
    """A traced, inlined and pruned forward pass: plain data but for the variables that it names.

    Attributes:
        nodes: the ops in topological order; no pass-through ops, no control inputs, no weights.
        library: the functions that nodes call (control flow); empty for most models.
        producer: the GraphDef version that the nodes were written with.
        weights: array per weight name; a node reads a weight as the tensor `name:0`.
        input: name of the placeholder, float32 [B, *input_shape].
        scores: tensor name of the unnormalised class scores, [B, classes].
        head: which function of the scores the probabilities are: "softmax", "sigmoid", or "output" where the
            scores themselves were declared to be what the model gives.
        head_assumed: whether the model has no softmax or sigmoid of its own and its output is taken as
            logits.
        input_shape: shape of one example, (H, W, C) for images.
        classes: number of class scores.
        variables: weight name to the model's own variable that the array is the value of.
        foldings: names of the foldings that made it what it is, in their order.
    """

    nodes: tuple[NodeDef, ...]
    library: tf.compat.v1.GraphDef
    producer: int
    weights: Mapping[str, np.ndarray]
    input: str
    scores: str
    head: str
    head_assumed: bool
    input_shape: tuple[int, ...]
    classes: int
    variables: Mapping[str, tf.Variable] = field(default_factory=dict)
    foldings: tuple[str, ...] = ()

    def node_map(self) -> dict[str, NodeDef]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    def consumers(self) -> dict[str, list[NodeDef]]:
        """The nodes that read each tensor."""
        readers: dict[str, list[NodeDef]] = {}
        for node in self.nodes:
            for name in node.input:
                readers.setdefault(tensor_name(name), []).append(node)
        return readers


def prune(graph: ForwardGraph) -> ForwardGraph:
    """Keep what the scores need, and the placeholder."""
    nodes = graph.node_map()
    needed = {graph.input}
    stack = [node_name(graph.scores)]
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in nodes:
            stack.extend(node_name(i) for i in nodes[name].input)
    return replace(
        graph,
        nodes=tuple(node for node in graph.nodes if node.name in needed),
        weights={name: weight for name, weight in graph.weights.items() if name in needed},
    )


def calls_functions(node: NodeDef) -> bool:
    """Whether a node runs functions of the library, as control flow does."""
    return bool(called_functions(node))


def called_functions(node: NodeDef) -> list[str]:
    """Names of the functions that a node runs."""
    names = []
    for value in node.attr.values():
        names.extend([value.func.name] if value.HasField("func") else [f.name for f in value.list.func])
    return names


@dataclass
class Forward:
    """A forward graph with its weights as variables, ready to be replayed in any traced function.

    The variables are made once and shared by every replay, so all signatures of an export hold one set.

    Attributes:
        graph: what is replayed.
        own_variables: read the weights from the model's own variables where it has them, for an export that
            holds the model's own functions too; the graph must not have been folded then.
        variables: weight name to variable.
    """

    graph: ForwardGraph
    own_variables: bool = False
    variables: dict[str, tf.Variable] = field(init=False)

    def __post_init__(self) -> None:
        """Make the variables."""
        own = self.graph.variables if self.own_variables else {}
        self.variables = {
            name: own[name]
            if name in own
            else tf.Variable(weight, trainable=False, name=name.split("/ReadVariableOp")[0])
            for name, weight in self.graph.weights.items()
        }

    def scores(
        self,
        x: tf.Tensor,
        *,
        rules: Mapping[str, Rule] | None = None,
        replacements: Sequence[Replacement] = (),
    ) -> tf.Tensor:
        """Run the graph on `x` in the function that is being traced.

        Args:
            x: model input, [B, *input_shape].
            rules: op type to rule.
            replacements: groups of nodes to run through one rule each.

        Returns:
            The class scores, float32 [B, classes].
        """
        scores = _Replay(self, x, rules or {}, replacements).run(self.graph.scores)
        return tf.cast(scores, tf.float32)


def watched(rules: Mapping[str, Rule], taken: set[str]) -> dict[str, Rule]:
    """The rules, which add to `taken` the op types of which they take a node."""

    def watch(rule: Rule) -> Rule:
        def run(node: NodeDef, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor] | None:
            outputs = rule(node, inputs)
            if outputs is not None:
                taken.add(node.op)
            return outputs

        return run

    return {op: watch(rule) for op, rule in rules.items()}


class _Replay:
    """One run over the nodes: collects what can be imported together, stops at what has a rule."""

    def __init__(
        self, forward: Forward, x: tf.Tensor, rules: Mapping[str, Rule], replacements: Sequence[Replacement]
    ) -> None:
        self.forward = forward
        self.graph = forward.graph
        self.rules = rules
        self.tensors: dict[str, tf.Tensor] = {f"{self.graph.input}:0": x}
        self.pending: list[NodeDef] = []
        self.skipped = {name for group in replacements for name in group.nodes}
        self.ends = {node_name(group.output): group for group in replacements}

    def run(self, fetch: str) -> tf.Tensor:
        self.consumed = {tensor_name(i) for node in self.graph.nodes for i in node.input} | {fetch}
        for node in self.graph.nodes:
            if node.name == self.graph.input:
                continue
            if node.name in self.ends:
                group = self.ends[node.name]
                self.tensors[group.output] = group.rule(
                    self.tensor(group.input), lambda x, group=group: self.run_group(group, x)
                )
            elif node.name in self.skipped or (node.op in self.rules and self.apply_rule(node)):
                continue
            else:
                self.pending.append(node)
        return self.tensor(fetch)

    def apply_rule(self, node: NodeDef) -> bool:
        outputs = self.rules[node.op](node, [self.tensor(name) for name in node.input])
        if outputs is None:
            return False
        self.tensors.update({f"{node.name}:{index}": output for index, output in enumerate(outputs)})
        return True

    def tensor(self, name: str) -> tf.Tensor:
        name = tensor_name(name)
        if name not in self.tensors:
            weight = self.forward.variables.get(node_name(name))
            if weight is not None:
                self.tensors[name] = weight.read_value()
            else:
                self.flush()
        return self.tensors[name]

    def flush(self) -> None:
        nodes, self.pending = self.pending, []
        self.tensors.update(self.import_nodes(nodes, self.consumed))

    def run_group(self, group: Replacement, x: tf.Tensor) -> tf.Tensor:
        nodes = [node for node in self.graph.nodes if node.name in group.nodes]
        return self.import_nodes(nodes, {group.output}, {group.input: x})[group.output]

    def import_nodes(
        self, nodes: Sequence[NodeDef], wanted: set[str], given: Mapping[str, tf.Tensor] | None = None
    ) -> dict[str, tf.Tensor]:
        own = {node.name for node in nodes}
        outputs = sorted(name for name in wanted if node_name(name) in own)
        inputs = {tensor_name(i) for node in nodes for i in node.input if node_name(i) not in own}
        given = given or {}
        graph_def = GraphDef(node=nodes)
        graph_def.versions.producer = self.graph.producer
        if any(calls_functions(node) for node in nodes):
            graph_def.library.CopyFrom(self.graph.library.library)
        tensors = tf.graph_util.import_graph_def(
            graph_def,
            input_map={name: given[name] if name in given else self.tensor(name) for name in sorted(inputs)},
            return_elements=outputs,
            name="forward",
        )
        return dict(zip(outputs, tensors, strict=True))
