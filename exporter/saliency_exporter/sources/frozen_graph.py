"""A frozen graph: a GraphDef file, its weights constants among the nodes, as TensorFlow 1 made them."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.inlined import Inlined, full_name, needed_nodes, node_of, without_records
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.cut_graph import cut, described, tensor_specs
from saliency_exporter.sources.source import Source

SUFFIXES = (".pb", ".pbtxt")

_VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable"})
_NO_RESULT = frozenset({"Const", "Placeholder", "PlaceholderWithDefault", "NoOp", "Assert"})


def load(path: Path, choices: Choices = NO_CHOICES) -> Source:
    """Loads the forward pass of a frozen graph.

    Args:
        path: a GraphDef, binary (.pb) or as text (.pbtxt).
        choices: input and output as tensor names, ``node:0`` or ``node``, where the graph has more than one
            placeholder or result; any tensor may be the input. Size and held inputs, where the graph leaves
            them open.

    Raises:
        ExportError: it is no frozen graph, or input or output are not decided.
    """
    graph_def = without_records(_read(path))
    name = path.name
    placeholders = [f"{node.name}:0" for node in graph_def.node if node.op == "Placeholder"]
    graph = Inlined(graph_def, tuple(placeholders), (), {})
    specs = tensor_specs(name, graph)
    output = _output(name, graph_def, specs, choices)
    _check_frozen(name, graph_def, output)
    chosen = cut(
        name,
        graph,
        {tensor: tensor for tensor in placeholders},
        {output: output},
        Choices(
            image_size=choices.image_size,
            input_shape=choices.input_shape,
            input=choices.input,
            held=choices.held,
        ),
    )
    return Source(
        name=path.stem,
        origin=f"frozen graph {path.name}, input {chosen.input}, output {output}",
        call=chosen.call,
        input_shape=chosen.input_shape,
        variables=(),
    )


def _read(path: Path) -> GraphDef:
    content = path.read_bytes()
    try:
        if path.suffix.lower() == ".pbtxt":
            graph_def = text_format.Parse(content.decode(), GraphDef())
        else:
            graph_def = GraphDef.FromString(content)
    except (DecodeError, UnicodeDecodeError, text_format.ParseError) as error:
        _refuse_saved_model(path, content)
        raise ExportError(
            f"{path} is not a frozen graph: it is damaged, cut short, or something else",
            hint="a frozen graph is a GraphDef; copy it again, or export what it was made from",
        ) from error
    if graph_def.node:
        return graph_def
    _refuse_saved_model(path, content)
    raise ExportError(f"{path} is an empty graph", hint="copy it again, or export what it was made from")


def _refuse_saved_model(path: Path, content: bytes) -> None:
    try:
        is_one = bool(SavedModel.FromString(content).meta_graphs)
    except DecodeError:
        return
    if is_one:
        raise ExportError(
            f"{path} is the graph of a SavedModel, without its directory",
            hint="name it saved_model.pb, put it beside its folder variables, and export that directory",
        )


def _output(name: str, graph_def: GraphDef, specs: dict[str, tf.TensorSpec], choices: Choices) -> str:
    read = {node_of(input_name) for node in graph_def.node for input_name in node.input}
    ends = [
        f"{node.name}:0"
        for node in graph_def.node
        if node.name not in read and node.op not in _NO_RESULT and f"{node.name}:0" in specs
    ]
    listed = "; ".join(described(tensor, specs) for tensor in ends)
    if choices.output is not None:
        if full_name(choices.output) not in specs:
            raise ExportError(
                f"{name} has no tensor {choices.output!r}", hint=f"its last tensors are {listed or 'none'}"
            )
        return full_name(choices.output)
    scores = [t for t in ends if specs[t].dtype.is_floating and specs[t].shape.rank in (2, None)] or ends
    if len(scores) == 1:
        return scores[0]
    raise ExportError(
        f"{name} has {len(ends)} last tensors: {listed or 'none'}",
        hint="choose the one with the class scores, float [B, classes], with --output NAME",
    )


def _check_frozen(name: str, graph_def: GraphDef, output: str) -> None:
    """Refuses a graph whose weights are in another file."""
    variables = [node.name for node in needed_nodes(graph_def, (), [output]) if node.op in _VARIABLES]
    if variables:
        raise ExportError(
            f"{name} is not frozen: the value of {variables[0]}"
            + (f" and of {len(variables) - 1} more variables" if len(variables) > 1 else "")
            + " is not in the file",
            hint="export the SavedModel or the .keras file that it belongs to, or freeze the graph with its "
            "checkpoint: tf.compat.v1.graph_util.convert_variables_to_constants",
        )
