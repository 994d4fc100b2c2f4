"""A forward pass cut out of a graph: from an input, or a tensor behind it, to the class scores."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from saliency_exporter.errors import ExportError, brief
from saliency_exporter.runtime.inlined import Inlined, full_name, in_a_graph, node_of, run
from saliency_exporter.sources.any_batch import fixed_batch, for_any_batch
from saliency_exporter.sources.choices import Choices
from saliency_exporter.sources.class_scores import choose_scores, of_any_batch, probe
from saliency_exporter.sources.held_inputs import for_batch_of, held_inputs
from saliency_exporter.sources.input_shape import shape_of_spec

_UNCHANGED = frozenset({"Identity", "Cast"})
_SHOWN = 8


@dataclass(frozen=True)
class Cut:
    """A forward pass that was cut out.

    Attributes:
        call: float32 [B, *input_shape] to the class scores [B, classes].
        input_shape: shape of one example.
        input: tensor name of what is explained.
        output: name of the output with the class scores.
    """

    call: Callable[[tf.Tensor], tf.Tensor]
    input_shape: tuple[int, ...]
    input: str
    output: str


def cut(
    name: str,
    graph: Inlined,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    choices: Choices,
) -> Cut:
    """Cuts the forward pass out of a graph.

    Args:
        name: the model, for messages.
        graph: the graph.
        inputs: input name to tensor name.
        outputs: output name to tensor name, of those that may hold the class scores.
        choices: ``input``, the name of an input or of any tensor, which is explained; ``held`` for the other
            inputs; output and size.

    Raises:
        ExportError: there is no such tensor, it has no gradient, or an input that the scores need has no
            value.
    """
    specs = tensor_specs(name, graph)
    explained = _explained(name, graph, specs, inputs, outputs, choices)
    held = {_tensor(name, specs, inputs, key): value for key, value in choices.held.items()}
    values = held_inputs(name, specs, Choices(held=held))
    given = {explained, *held}
    computed = {key: tensor for key, tensor in outputs.items() if not _open_inputs(graph, given, tensor)}
    if not computed or (choices.output in outputs and choices.output not in computed):
        key, tensor = next((k, t) for k, t in outputs.items() if not computed or k == choices.output)
        missing = _open_inputs(graph, given, tensor)[0]
        raise ExportError(
            f"output {key} of {name} needs {described(missing, specs)}, which has no value",
            hint=f"hold it at one: --hold {missing}=VALUE (a number, true, false, or a .npy file with one "
            "example's)",
        )
    spec = specs[explained]
    if not spec.dtype.is_floating:
        takes = "strings, which have" if spec.dtype == tf.string else f"{spec.dtype.name}, which has"
        raise ExportError(
            f"{explained} of {name} takes {takes} no gradient", hint=_hint(graph, specs, explained, outputs)
        )
    what = f"tensor {explained} of {name}"
    input_shape = shape_of_spec(what, spec, choices)
    batch = fixed_batch(spec)

    def forward(x: tf.Tensor) -> dict[str, tf.Tensor]:
        fed = {key: for_batch_of(x, value, specs[key]) for key, value in values.items()}
        fed[explained] = tf.cast(x, spec.dtype)
        return dict(zip(computed, run(graph, fed, list(computed.values())), strict=True))

    found: Mapping[str, Any] = probe(name, forward, input_shape, batch=batch or 1)
    scores = choose_scores(name, of_any_batch(found, batch or 1), choices.output)
    classes = int(scores.of(found).shape[-1])
    forward_pass = in_a_graph(lambda x: tf.ensure_shape(scores.of(forward(x)), [None, classes]))
    output = choices.output or scores.name
    return Cut(for_any_batch(name, forward_pass, batch, input_shape), input_shape, explained, output)


def tensor_specs(name: str, graph: Inlined) -> dict[str, tf.TensorSpec]:
    """Dtype and shape of every tensor of a graph, by its name.

    Raises:
        ExportError: it has an op that this TensorFlow does not know.
    """
    with tf.Graph().as_default() as built:
        try:
            tf.graph_util.import_graph_def(graph.graph_def, name="")
        except Exception as error:
            raise ExportError(f"the graph of {name} cannot be read: {brief(error)}") from error
        return {
            tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype)
            for operation in built.get_operations()
            for tensor in operation.outputs
        }


def described(tensor: str, specs: Mapping[str, tf.TensorSpec]) -> str:
    """A tensor with its dtype and shape, for messages: `x:0, float32 [B, 224, 224, 3]`."""
    spec = specs[tensor]
    if spec.shape.rank is None:
        return f"{tensor}, {spec.dtype.name} of any shape"
    sizes = ["any" if size is None else str(size) for size in spec.shape]
    if sizes and sizes[0] == "any":
        sizes[0] = "B"
    return f"{tensor}, {spec.dtype.name} [{', '.join(sizes)}]"


def tensor_behind(
    graph: Inlined, specs: Mapping[str, tf.TensorSpec], tensor: str, outputs: Iterable[str]
) -> str | None:
    """The first float tensor behind another one that all its ways to an output go through.

    That is the image behind the decoding of a file, or behind the cast of uint8 pixels. One whose sizes are
    known is preferred.
    """
    for output in outputs:
        through = _all_go_through(graph, specs, tensor, output)
        ranked = [(_rank_of_shape(specs[candidate].shape), candidate) for candidate in through]
        if ranked:
            return min(ranked, key=lambda pair: pair[0])[1]
    return None


def _explained(
    name: str,
    graph: Inlined,
    specs: Mapping[str, tf.TensorSpec],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    choices: Choices,
) -> str:
    scores = [tensor for key, tensor in outputs.items() if choices.output in (None, key)]
    scores = [t for t in scores if specs[t].dtype.is_floating] or list(outputs.values())
    if choices.input is not None:
        explained = _tensor(name, specs, inputs, choices.input)
        return _behind_cast(graph, specs, explained, scores) or explained
    held = {_tensor(name, specs, inputs, key) for key in choices.held}
    needed = [
        tensor
        for tensor in inputs.values()
        if tensor not in held and any(tensor in _open_inputs(graph, held, output) for output in scores)
    ]
    images = [tensor for tensor in needed if specs[tensor].shape.rank is None or specs[tensor].shape.rank > 1]
    if len(images or needed) == 1:
        (explained,) = images or needed
        return _behind_cast(graph, specs, explained, scores) or explained
    if not needed:
        raise ExportError(f"the outputs of {name} depend on no input", hint="choose one with --output NAME")
    listed = "; ".join(described(tensor, specs) for tensor in needed)
    raise ExportError(
        f"{name} has {len(needed)} inputs: {listed}",
        hint="choose the one to explain with --input NAME, and give every other its value with --hold "
        "NAME=VALUE",
    )


def _behind_cast(
    graph: Inlined, specs: Mapping[str, tf.TensorSpec], tensor: str, outputs: Iterable[str]
) -> str | None:
    """The float tensor that an input of whole numbers is at once cast to; clients send uint8 all the same."""
    if not specs[tensor].dtype.is_integer:
        return None
    behind = tensor_behind(graph, specs, tensor, outputs)
    nodes = {node.name: node for node in graph.graph_def.node}
    node = nodes[node_of(behind)] if behind is not None else None
    while node is not None and node.op in _UNCHANGED:
        source = full_name(node.input[0])
        if source == tensor:
            return behind
        node = nodes[node_of(source)]
    return None


def _tensor(name: str, specs: Mapping[str, tf.TensorSpec], inputs: Mapping[str, str], wanted: str) -> str:
    """The tensor that is meant by the name of an input, of a tensor, or of an op with one output."""
    if wanted in inputs:
        return inputs[wanted]
    tensor = full_name(wanted)
    if tensor in specs:
        return tensor
    near = difflib.get_close_matches(tensor, specs, n=3)
    raise ExportError(
        f"{name} has no input or tensor {wanted!r}",
        hint=f"did you mean {' or '.join(near)}?"
        if near
        else f"its inputs are {_listed(inputs.values(), specs) or 'none'}",
    )


def _listed(tensors: Iterable[str], specs: Mapping[str, tf.TensorSpec]) -> str:
    every = [described(tensor, specs) for tensor in tensors]
    return "; ".join(every[:_SHOWN]) + (f"; and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


def _hint(graph: Inlined, specs: Mapping[str, tf.TensorSpec], tensor: str, outputs: Mapping[str, str]) -> str:
    behind = tensor_behind(graph, specs, tensor, outputs.values())
    if behind is None:
        return "name a float tensor behind it with --input NAME, or export the network as module:callable"
    return (
        f"explain the float tensor behind it, {described(behind, specs)}: --input {behind}; clients then "
        "send what it holds"
    )


def _open_inputs(graph: Inlined, given: Iterable[str], output: str) -> list[str]:
    """The placeholders without a default that a tensor needs beside the given ones and what is captured."""
    nodes = {node.name: node for node in graph.graph_def.node}
    ends = {*given, *graph.captures}
    found: list[str] = []
    seen: set[str] = set()
    pending = [output]
    while pending:
        name = pending.pop()
        if name in seen or name in ends or node_of(name) not in nodes:
            continue
        seen.add(name)
        node = nodes[node_of(name)]
        if node.op in ("Placeholder", "PlaceholderV2"):
            found.append(f"{node.name}:0")
        pending += map(full_name, node.input)
    return list(dict.fromkeys(found))


def _all_go_through(
    graph: Inlined, specs: Mapping[str, tf.TensorSpec], tensor: str, output: str
) -> list[str]:
    """The float tensors that all ways from a tensor to an output go through, the nearest first."""
    readers: dict[str, list[NodeDef]] = {}
    for node in graph.graph_def.node:
        for name in node.input:
            readers.setdefault(node_of(name), []).append(node)

    def reached(start: str, without: str | None = None) -> dict[str, None]:
        found = dict.fromkeys([start])
        pending = [start]
        while pending:
            for node in readers.get(pending.pop(0), ()):
                if node.name not in found and node.name != without:
                    found[node.name] = None
                    pending.append(node.name)
        return found

    ops = {node.name: node.op for node in graph.graph_def.node}
    start, end = node_of(tensor), node_of(output)
    downstream = reached(start)
    if end not in downstream:
        return []
    enters_loop = any(ops.get(name) in ("Enter", "RefEnter") for name in downstream)
    through = []
    for name in downstream:
        candidate = f"{name}:0"
        if name in (start, end) or candidate not in specs or not specs[candidate].dtype.is_floating:
            continue
        if specs[candidate].shape.rank in (0, 1) or end in reached(start, without=name):
            continue
        if enters_loop and any(ops.get(other) in ("Exit", "RefExit") for other in reached(name)):
            continue  # Inside the loop that decodes one image after another.
        through.append(candidate)
        if len(through) == _SHOWN:
            break
    return through


def _rank_of_shape(shape: tf.TensorShape) -> int:
    """How likely a shape is that of what a network takes, 0 first: an image, and its sizes known."""
    if shape.rank is None:
        return 2
    known = None not in shape.as_list()[1:]
    if shape.rank == 4 and shape[-1] in (None, 1, 3, 4):
        return 0 if known else 1
    return 3 if known else 4
