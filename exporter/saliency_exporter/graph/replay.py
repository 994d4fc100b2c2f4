"""The forward pass of a model as one flat graph, and its replay under rules.

Whatever a model is made of, its forward pass is traced once, inlined, and pruned to the class scores; its
weights are taken out of the graph as arrays. `Forward` keeps those weights as variables and runs the graph
again, op by op, inside whatever function is being traced: an op that has a rule goes through the rule,
every other op is imported as it is. A saliency method is such a replay under a table of rules, so no model is
cloned or patched, and layers, nested models and plain functions are one case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.graph.forward_graph import (
    ForwardGraph,
    Replacement,
    Rule,
    node_name,
    tensor_name,
)
from saliency_exporter.graph.fusions import portable_graph
from saliency_exporter.graph.gates import differentiated, is_gate, key_of
from saliency_exporter.graph.library import with_own_functions
from saliency_exporter.graph.portable import portable_rules
from saliency_exporter.graph.resizing import resizing_rules


@dataclass
class Forward:
    """A forward graph with its weights as variables, ready to be replayed in any traced function.

    The variables are made once and shared by every replay, so all signatures of an export hold one set.

    Attributes:
        graph: what is replayed.
        own_variables: read the weights from the model's own variables where it has them, for an export that
            holds the model's own functions too; the graph must not have been folded then.
        shared: the variables of another replay of the same weights, to be used instead of new ones.
        variables: weight name to variable.
    """

    graph: ForwardGraph
    own_variables: bool = False
    shared: dict[str, tf.Variable] | None = None
    variables: dict[str, tf.Variable] = field(init=False)

    def __post_init__(self) -> None:
        """Makes the variables."""
        if self.shared is not None:
            self.variables = self.shared
            return
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
        compiled: bool = False,
        given: Mapping[str, tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """The class scores of `x`, float32 [B, classes]; see `tensors`."""
        (scores,) = self.tensors(
            x, [self.graph.scores], rules=rules, replacements=replacements, compiled=compiled, given=given
        )
        return tf.cast(scores, tf.float32)

    def tensors(
        self,
        x: tf.Tensor,
        names: Sequence[str],
        *,
        rules: Mapping[str, Rule] | None = None,
        replacements: Sequence[Replacement] = (),
        compiled: bool = False,
        given: Mapping[str, tf.Tensor] | None = None,
    ) -> list[tf.Tensor]:
        """Runs the graph on `x` in the function that is being traced.

        Args:
            x: model input, [B, *input_shape].
            names: of the tensors that are wanted; none may be inside of a group that is replaced.
            rules: op type to rule.
            replacements: groups of nodes to run through one rule each.
            compiled: whether XLA compiles that function. If so, what XLA resizes wrongly, or not at all, is
                written as products (`resizing`). If not, what one of TensorFlow's two sets of CPU kernels
                lacks is written in ops that both have (`fusions`, `portable`).
            given: tensors that are not computed again, by name, such as what does not depend on `x`.

        Returns:
            The tensors, in the order of their names.
        """
        graph = self.graph if compiled else self.portable
        fallbacks = (resizing_rules if compiled else portable_rules)(graph.producer)
        replay = _Replay(self, graph, x, rules or {}, fallbacks, replacements)
        replay.tensors.update({name: _here(tensor) for name, tensor in (given or {}).items()})
        return replay.run(names)

    @cached_property
    def portable(self) -> ForwardGraph:
        """The graph as it is replayed in what is not compiled."""
        return portable_graph(self.graph)


def _here(tensor: tf.Tensor) -> tf.Tensor:
    """A tensor in the function that is being traced, which may be one inside of the tensor's own."""
    graph = tf.compat.v1.get_default_graph()
    return tensor if tensor.graph is graph else graph.capture(tensor)


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
        self,
        forward: Forward,
        graph: ForwardGraph,
        x: tf.Tensor,
        rules: Mapping[str, Rule],
        fallbacks: Mapping[str, Rule],
        replacements: Sequence[Replacement],
    ) -> None:
        self.forward = forward
        self.graph = graph
        self.rules = [rules, fallbacks]
        self.tensors: dict[str, tf.Tensor] = {f"{self.graph.input}:0": x}
        self.pending: list[NodeDef] = []
        self.skipped = {name for group in replacements for name in group.nodes}
        self.ends = {node_name(group.output): group for group in replacements}

    def run(self, names: Sequence[str]) -> list[tf.Tensor]:
        self.consumed = {tensor_name(i) for node in self.graph.nodes for i in node.input} | {*names}
        for node in self.graph.nodes:
            if f"{node.name}:0" in self.tensors:
                continue
            if node.name in self.ends:
                group = self.ends[node.name]
                self.tensors[group.output] = group.rule(
                    self.tensor(group.input), partial(self.run_group, group)
                )
            elif node.name in self.skipped or self.apply_own_gradient(node) or self.apply_rule(node):
                continue
            else:
                self.pending.append(node)
        return [self.tensor(name) for name in names]

    def apply_own_gradient(self, node: NodeDef) -> bool:
        own = self.graph.own_gradients.get(key_of(node)) if is_gate(node) else None
        if own is None:
            return False
        outputs = differentiated(node, [self.tensor(name) for name in node.input], own)
        self.tensors.update({f"{node.name}:{index}": output for index, output in enumerate(outputs)})
        return True

    def apply_rule(self, node: NodeDef) -> bool:
        rules = [rules[node.op] for rules in self.rules if node.op in rules]
        if not rules:
            return False
        inputs = [self.tensor(name) for name in node.input]
        outputs = next((outputs for rule in rules if (outputs := rule(node, inputs)) is not None), None)
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
        graph_def = with_own_functions(nodes, self.graph.library)
        graph_def.versions.producer = self.graph.producer
        tensors = tf.graph_util.import_graph_def(
            graph_def,
            input_map={name: given[name] if name in given else self.tensor(name) for name in sorted(inputs)},
            return_elements=outputs,
            name="forward",
        )
        return dict(zip(outputs, tensors, strict=True))
