"""The forward pass of a model as one flat graph: plain data, and what is asked about it.

What a replay may do with its nodes, `Rule` and `Replacement`, is named here too, so that rules and rewrites
need not know what runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

Head = Literal["softmax", "sigmoid", "output"]

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
class OwnGradient:
    """The gradient that a model's author gave an op, as a graph of its own.

    Attributes:
        graph_def: its nodes and functions, without its inputs.
        inputs: tensor names of its inputs: one signal for each output in `signals`, then what it reads.
        signals: positions of the op's outputs that have a signal on the way back.
        results: for each input of the op, the tensor name of the signal that it gets; None for no signal.
        outputs: number of the op's outputs.
    """

    graph_def: GraphDef
    inputs: tuple[str, ...]
    signals: tuple[int, ...]
    results: tuple[str | None, ...]
    outputs: int


@dataclass(frozen=True)
class FeatureLayer:
    """A tensor of features with a place in the image: what the methods of the CAM family look at.

    Attributes:
        name: of the layer, as a person knows it.
        tensor: its name in the graph: [B, h, w, K], [B, K, h, w], or tokens, [B, T, K].
        sizes: of the grid, (h, w) for pictures.
        channels: K, how many features there are.
        channels_first: whether they are in front of the grid.
        first_token: position of the grid's first token among all, row by row; None where the grid has axes of
            its own.
    """

    name: str
    tensor: str
    sizes: tuple[int, ...]
    channels: int
    channels_first: bool = False
    first_token: int | None = None


@dataclass(frozen=True)
class ForwardGraph:
    """A traced, inlined and pruned forward pass: plain data but for the variables that it names.

    Attributes:
        nodes: the ops in topological order; no pass-through ops, no control inputs, no weights.
        library: the functions that nodes call (control flow); empty for most models.
        producer: the GraphDef version that the nodes were written with.
        weights: array per weight name; a node reads a weight as the tensor `name:0`.
        input: name of the placeholder, float32 [B, *input_shape].
        scores: tensor name of the unnormalized class scores, [B, classes].
        head: which function of the scores the probabilities are: "softmax", "sigmoid", or "output" where the
            scores themselves were declared to be what the model gives.
        head_assumed: whether the model has no softmax or sigmoid of its own and its output is taken as
            logits.
        is_probability: whether the head is "output" because the output is made of probabilities.
        both_of_one: whether the two scores are of one: class 0 is what class 1 is not.
        input_shape: shape of one example, (H, W, C) for images.
        classes: number of class scores.
        variables: weight name to the model's own variable that the array is the value of.
        foldings: names of the foldings that made it what it is, in their order.
        input_dtype: the integers that the model makes of its input, where the graph takes it as it is; or "".
        assigns: whether the model itself changes variables while it runs, as the graph does not.
        own_gradients: by key, the gradients that the model's author gave some ops, see `own_gradients`.
        lost_gradients: the ops inside loops and branches that have a gradient of their author's, which is not
            in `own_gradients`.
        channels: "last" where the last axis of the input holds channels, over which saliency is reduced, else
            "none".
        features: the layer that methods of the CAM family look at; None where there is none.
    """

    nodes: tuple[NodeDef, ...]
    library: GraphDef
    producer: int
    weights: Mapping[str, np.ndarray]
    input: str
    scores: str
    head: Head
    head_assumed: bool
    input_shape: tuple[int, ...]
    classes: int
    variables: Mapping[str, tf.Variable] = field(default_factory=dict)
    foldings: tuple[str, ...] = ()
    input_dtype: str = ""
    assigns: bool = False
    own_gradients: Mapping[str, OwnGradient] = field(default_factory=dict)
    lost_gradients: tuple[str, ...] = ()
    is_probability: bool = False
    both_of_one: bool = False
    channels: Literal["last", "none"] = "last"
    features: FeatureLayer | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of an example without its channels: (H, W) of a picture."""
        return self.input_shape[:-1] if self.channels == "last" else self.input_shape

    @property
    def fetched(self) -> tuple[str, ...]:
        """Names of the tensors that a replay is asked for: their values have to stay."""
        return (self.scores,) if self.features is None else (self.scores, self.features.tensor)

    def renamed(self, aliases: Mapping[str, str]) -> ForwardGraph:
        """The graph where tensors that are asked for have other names, if they have one in `aliases`."""
        features = self.features
        if features is not None:
            features = replace(features, tensor=aliases.get(features.tensor, features.tensor))
        return replace(self, scores=aliases.get(self.scores, self.scores), features=features)

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
    """Keeps what the scores need, and the placeholder."""
    nodes = graph.node_map()
    needed = {graph.input}
    stack = [node_name(name) for name in graph.fetched]
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
