"""Where a model has features with a place in the image: the layers that methods of the CAM family look at.

A feature layer is a tensor that all of the score passes through, with a grid of places: the axes of height
and width of a convolutional network, or tokens that lie in a grid. The last one, before the places are
pooled or flattened, is what Grad-CAM takes (Selvaraju et al. 2017, arXiv 1610.02391, section 3).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.graph.differentiable import path_of
from saliency_exporter.graph.forward_graph import FeatureLayer, ForwardGraph, node_name, tensor_name
from saliency_exporter.graph.layer_names import innermost, layer_names
from saliency_exporter.graph.nodes import attribute
from saliency_exporter.graph.parts import SHAPE_OPS, constant_value, specs_of, values_of
from saliency_exporter.graph.replay import Forward

_BATCH = 3
"""No other size of a model is likely to be 3 where its input has a batch of 3 at the same place."""

_MOST_OTHER_TOKENS = 16
"""A class token, a distillation token and registers: a grid of tokens has no more others beside it."""

_LINEAR = frozenset(
    {"BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Einsum"}
    | {"MatMul", "XlaConvV2", "XlaDotV2", "QuantizedConv2D"}
)
"""Ops that mix positions or channels by weights: before the first of them there are pixels, not features."""

_CONCATENATIONS = frozenset({"Concat", "ConcatV2"})
_MOST_NAMED = 6


def with_feature_layer(graph: ForwardGraph, model: str, chosen: str | None = None) -> ForwardGraph:
    """The graph with its feature layer: the chosen one, else the last; without one where there is none.

    Args:
        graph: as it was traced.
        model: its name, for messages.
        chosen: name of a layer, of a node or of a tensor.

    Raises:
        ExportError: nothing has the chosen name, or what has it is no feature layer.
    """
    if chosen is None:
        layers = feature_layers(graph)
        return replace(graph, features=layers[-1] if layers else None)
    return replace(graph, features=_chosen_layer(graph, model, chosen))


def without_feature_layer(model: str) -> ExportError:
    """Why a method that looks at the feature layer is not defined for a model that has none."""
    return ExportError(
        f"{model} has no feature layer: no tensor that all of its score passes through has a height and a "
        "width, or tokens that lie in a grid, behind a layer with weights",
        hint="if only a branch of it has one, name a layer of that: --cam-layer NAME; else --methods all "
        "makes the methods that are defined",
    )


def feature_layers(graph: ForwardGraph) -> list[FeatureLayer]:
    """The feature layers of a model, first to last, one for each layer that has a name.

    Of tokens, those count whose grid still has a gradient: where a class token alone is read, the places are
    lost in the last block, and the layer before it is the last.
    """
    around = _Around(graph)
    found: dict[str, FeatureLayer] = {}
    for name in around.passages():
        if (layer := around.layer_at(name)) is not None:
            # Where it is met last: sums between layers all have the name of the model that they are in.
            found.pop(layer.name, None)
            found[layer.name] = layer
    layers = list(found.values())
    if layers and layers[-1].first_token is not None:
        return _with_a_gradient(graph, layers)
    return layers


def _chosen_layer(graph: ForwardGraph, model: str, chosen: str) -> FeatureLayer:
    around = _Around(graph)
    exact = [node for node in around.path if chosen in (node.name, f"{node.name}:0")]
    inside = [node for node in around.path if chosen in around.layers[node.name]]
    if not exact and not inside:
        others = dict.fromkeys(innermost(around.layers, node.name) for node in around.path)
        near = difflib.get_close_matches(chosen, others, n=3)
        raise ExportError(
            f"--cam-layer {chosen}: no layer or tensor of {model} between its input and its scores has this "
            "name" + (f"; near ones are {', '.join(near)}" if near else ""),
            hint=_candidates_hint(graph),
        )
    layers = (around.layer_at(f"{node.name}:0") for node in reversed(exact or inside))
    layer = next((layer for layer in layers if layer is not None), None)
    if layer is None:
        last = (exact or inside)[-1].name
        raise ExportError(
            f"--cam-layer {chosen}: {last} of {model} has the shape {around.shape_in_words(f'{last}:0')}, "
            "which is no grid of features",
            hint=_candidates_hint(graph),
        )
    return layer


def _candidates_hint(graph: ForwardGraph) -> str:
    layers = feature_layers(graph)
    if not layers:
        return "leave --cam-layer out: the model has no feature layer that all of its score passes through"
    shown = [f"{layer.name} ({' × '.join(map(str, layer.sizes))})" for layer in layers[-_MOST_NAMED:]]
    return f"feature layers, the last one first: {', '.join(reversed(shown))}"


def _with_a_gradient(graph: ForwardGraph, layers: Sequence[FeatureLayer]) -> list[FeatureLayer]:
    """The layers up to the last one of whose grid a score has a gradient."""
    forward = Forward(graph)

    @tf.function(autograph=False)
    def gradients(x: tf.Tensor) -> list[tf.Tensor]:
        scores, *tokens = forward.tensors(x, [graph.scores, *(layer.tensor for layer in layers)])
        found = tf.gradients(scores[:, :1], tokens, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [arranged(layer, gradient) for layer, gradient in zip(layers, found, strict=True)]

    with tf.device("/CPU:0"):
        x = tf.random.stateless_normal((1, *graph.input_shape), (0, 1))
        seen = [bool(tf.reduce_any(gradient != 0)) for gradient in gradients(x)]
    last = max((index for index, has in enumerate(seen) if has), default=-1)
    return list(layers[: last + 1])


def arranged(layer: FeatureLayer, tensor: tf.Tensor) -> tf.Tensor:
    """The tensor of a feature layer, or its gradient, as [B, *sizes, K], float32.

    Tokens that are not in the grid, such as a class token, are left out.
    """
    if layer.first_token is not None:
        tensor = tensor[:, layer.first_token : layer.first_token + math.prod(layer.sizes)]
    elif layer.channels_first:
        tensor = tf.transpose(tensor, [0, *range(2, len(layer.sizes) + 2), 1])
    return tf.cast(tf.reshape(tensor, [-1, *layer.sizes, layer.channels]), tf.float32)


@dataclass
class _Around:
    """What is asked about the tensors between the input and the scores."""

    graph: ForwardGraph

    def __post_init__(self) -> None:
        self.path = path_of(self.graph)
        self.layers = layer_names(node.name for node in self.path)
        on_path = {self.graph.input, *(node.name for node in self.path)}
        self.read: dict[str, list[str]] = {}
        """By node of the path, the tensors of the path that it reads."""
        for node in self.path:
            inputs = map(tensor_name, node.input)
            self.read[node.name] = (
                [] if node.op in SHAPE_OPS else [n for n in inputs if node_name(n) in on_path]
            )
        outputs = dict.fromkeys(
            [*(name for names in self.read.values() for name in names), self.graph.scores]
        )
        self.shapes = self._shapes([name for name in outputs if name != f"{self.graph.input}:0"])
        self.layouts = self._layouts()
        self.behind_weights = self._behind_weights()
        self.first_tokens = self._first_tokens()

    def passages(self) -> Iterator[str]:
        """Names of the tensors that all of the score passes through, first to last."""
        numbers = {node.name: number for number, node in enumerate(self.path)}
        last_reader: dict[str, int] = {}
        outputs: dict[str, set[str]] = {}
        for name, tensors in self.read.items():
            for tensor in tensors:
                owner = node_name(tensor)
                last_reader[owner] = max(last_reader.get(owner, 0), numbers[name])
                outputs.setdefault(owner, set()).add(tensor)
        open_until = last_reader.get(self.graph.input, 0)
        for number, node in enumerate(self.path):
            if open_until <= number and len(outputs.get(node.name, ())) == 1:
                yield next(iter(outputs[node.name]))
            open_until = max(open_until, last_reader.get(node.name, 0))

    def layer_at(self, name: str) -> FeatureLayer | None:
        """The feature layer that a tensor is; None where it is none."""
        shape, node = self.shapes.get(name), node_name(name)
        # A number, as a mean over everything, has no sizes at all.
        if not shape or node not in self.behind_weights or any(size is None for size in shape):
            return None
        batch, *rest = (int(size or 0) for size in shape)
        if batch != _BATCH:
            return None
        axes = len(self.graph.sizes)
        if len(rest) == axes + 1:
            first = self.layouts.get(node, False)
            channels, sizes = (rest[0], rest[1:]) if first else (rest[-1], rest[:-1])
            if not sizes or min(sizes) < 1 or math.prod(sizes) < 2:
                return None
            return FeatureLayer(innermost(self.layers, node), name, tuple(sizes), channels, first)
        if len(rest) == 2 and axes == 2 and (grid := self.grid_of(name)) is not None:
            return FeatureLayer(
                innermost(self.layers, node), name, grid, rest[-1], False, self.first_tokens[name]
            )
        return None

    def grid_of(self, name: str) -> tuple[int, ...] | None:
        """The sizes of the grid that tokens lie in."""
        return self.grids.get(name)

    def shape_in_words(self, name: str) -> str:
        """The shape of a tensor for a batch of any size."""
        shape = self.shapes.get(name)
        if shape is None:
            return "that is not known"
        return f"[{', '.join(['batch', *(str(size or '?') for size in shape[1:])])}]"

    def _shapes(self, names: Sequence[str]) -> Mapping[str, list[int | None]]:
        specs = specs_of(self.graph, names, _BATCH)
        unknown = [
            name
            for name, spec in specs.items()
            if spec.dtype.is_floating and not spec.shape.is_fully_defined()
        ]
        shapes = {name: spec.shape for name, spec in specs.items() if spec.dtype.is_floating}
        if unknown:
            # Where this machine cannot run the model, what is not known stays so.
            try:
                values = values_of(self.graph, unknown, {}, _BATCH)
            except Exception:
                values = []
            shapes |= {
                name: tf.TensorShape(value.shape) for name, value in zip(unknown, values, strict=False)
            }
        return {name: shape.as_list() for name, shape in shapes.items() if shape.rank is not None}

    def _layouts(self) -> dict[str, bool]:
        """By node, whether channels are in front of the places."""
        first: dict[str, bool] = {}
        axes = len(self.graph.sizes)
        nodes = self.graph.node_map()
        for node in self.path:
            layout = attribute(node, "data_format").s
            inherited = next(
                (first[node_name(n)] for n in self.read[node.name] if node_name(n) in first), False
            )
            if layout:
                inherited = layout.startswith(b"NC")
            elif node.op == "Transpose":
                order = constant_value(self.graph, nodes, node.input[1])
                if order is not None and order.tolist() == [0, *range(2, axes + 2), 1]:
                    inherited = False
                elif order is not None and order.tolist() == [0, axes + 1, *range(1, axes + 1)]:
                    inherited = True
            first[node.name] = inherited
        return first

    def _behind_weights(self) -> set[str]:
        behind: set[str] = set()
        for node in self.path:
            if node.op in _LINEAR or any(node_name(name) in behind for name in self.read[node.name]):
                behind.add(node.name)
        return behind

    def _first_tokens(self) -> dict[str, int]:
        """By tensor of tokens that lie in a grid, the position of its first one; `grids` are their sizes."""
        self.grids: dict[str, tuple[int, ...]] = {}
        found: dict[str, int] = {}
        grid: tuple[int, ...] | None = None
        offset = 0
        passages = set(self.passages())
        for node in self.path:
            name = f"{node.name}:0"
            shape = self.shapes.get(name)
            if not shape or None in shape or shape[0] != _BATCH or len(self.graph.sizes) != 2:
                continue
            if len(shape) == 4 and name in passages and node.name in self.behind_weights:
                sizes = shape[2:] if self.layouts[node.name] else shape[1:3]
                grid = (int(sizes[0] or 0), int(sizes[1] or 0))
                offset = 0
            if len(shape) != 3:
                continue
            tokens = int(shape[1] or 0)
            lying = grid if grid and 0 <= tokens - math.prod(grid) <= _MOST_OTHER_TOKENS else None
            lying = lying or self._grid_of_patches(tokens)
            if lying is None or math.prod(lying) < 2:
                continue
            others = tokens - math.prod(lying)
            if node.op in _CONCATENATIONS:
                offset = self._concatenated(node, found, tokens, others)
            found[name] = min(offset, others)
            self.grids[name] = lying
        return found

    def _concatenated(self, node: NodeDef, found: Mapping[str, int], tokens: int, others: int) -> int:
        """Position of a grid's first token behind a concatenation of tokens."""
        before = 0
        for read in map(tensor_name, node.input):
            shape = self.shapes.get(read)
            size = int(shape[1] or 0) if shape is not None and len(shape) == 3 else 0
            if read in found or size >= tokens - others:
                return before + found.get(read, 0)
            before += size or self._constant_tokens(read)
        return others

    def _constant_tokens(self, name: str) -> int:
        """How many tokens there are in a tensor that does not depend on the input, as a class token."""
        try:
            shape = specs_of(self.graph, [name], _BATCH)[tensor_name(name)].shape
        except Exception as error:
            raise ExportError(f"the tokens of {name} cannot be counted: {brief(error)}") from error
        return int(shape[1] or 1) if shape.rank == 3 else 1

    def _grid_of_patches(self, tokens: int) -> tuple[int, int] | None:
        """The grid of square patches of the image that there are so many tokens of, with a few others."""
        height, width = self.graph.sizes
        for others in range(_MOST_OTHER_TOKENS + 1):
            for patch in range(2, min(height, width) // 2 + 1):
                grid = (height // patch, width // patch)
                if math.prod(grid) == tokens - others:
                    return grid
        return None
