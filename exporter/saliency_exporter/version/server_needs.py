"""Which TensorFlow Serving can serve an export, and why. Needs no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saliency_exporter.runtime.versions import minor, version_numbers
from saliency_exporter.version.manifest import GraphVersions, ServerNeeds

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

OLDEST = "2.18"
"""The oldest TensorFlow that the tests are run with; also the first whose GPU server can run XLA.

Source: the flag `--xla_gpu_compilation_enabled` came with TensorFlow Serving 2.18.0 (its commit e5e795f5).
"""

NEWEST_IMAGE = "2.20.0"
"""The newest published image of TensorFlow Serving; `TF_SERVING_VERSION` in docker/.env is the same."""

_FLAGS = {"gpu": "--xla_gpu_compilation_enabled", "cpu": "--xla_cpu_compilation_enabled"}
_RELEASES = Path(__file__).with_name("tensorflow_releases.json")


@cache
def releases() -> dict[str, dict[str, Any]]:
    """What each minor version of TensorFlow has, oldest first, that the one before has not.

    By version: `graph_version`, that of its graphs, and `new`, a list of `Op`, of `Op.attribute` for an
    attribute that an older op has since, and of `Op.attribute=value` for a value that an older attribute may
    have since. `make tensorflow-matrix` writes the file, from the registries of the installed versions.
    """
    return json.loads(_RELEASES.read_text(encoding="utf-8"))


def server_needs(meta_graphs: Iterable[MetaGraphDef], *, target: str, made_with: str) -> ServerNeeds:
    """Which servers can serve an export, derived from what is in the graph.

    Args:
        meta_graphs: the MetaGraphDefs of the SavedModel as written.
        target: "gpu" or "cpu", the device that the export is for.
        made_with: version of the TensorFlow that wrote it, such as 2.20.0.
    """
    graphs = [meta_graph.graph_def for meta_graph in meta_graphs]
    compiled = any(_is_compiled(node) for graph in graphs for node in _nodes(graph))
    made = minor(made_with)
    reasons = [_first_of(compiled, target)]
    if made in releases():
        reasons += [reason for graph in graphs for reason in _graph_reasons(graph)]
    else:
        reasons.append((made, f"which ops TensorFlow {made} has and older versions lack is not known here"))
    oldest = max((version for version, _ in reasons), key=version_numbers)
    why = list(dict.fromkeys(sentence for version, sentence in reasons if version == oldest))
    if made in releases():
        why.append(f"the graph has no op, attribute or value that TensorFlow added after {oldest}")
    why.append(_promise(made, oldest))
    return ServerNeeds(
        oldest=oldest,
        why=tuple(why),
        made_with=made,
        flag=_FLAGS[target] if compiled else None,
        graph=GraphVersions(
            producer=max(graph.versions.producer for graph in graphs),
            min_consumer=max(graph.versions.min_consumer for graph in graphs),
        ),
    )


def describe_server(needs: ServerNeeds) -> str:
    """The oldest server and its flag, in one line."""
    flag = f"started with {needs.flag}" if needs.flag else "without a flag for XLA"
    return f"TensorFlow Serving {needs.oldest} or newer, {flag}"


def newer_than_image(needs: ServerNeeds, image: str = NEWEST_IMAGE) -> str | None:
    """What to know of an export that is newer than the newest published image, and the way out.

    None where the image has the TensorFlow that made the export, or a newer one.
    """
    made, published = needs.made_with, minor(image)
    if version_numbers(made) <= version_numbers(published):
        return None
    facts = (
        f"TensorFlow {made} made this export, and the newest published image of TensorFlow Serving is "
        f"{published}; TensorFlow does not promise that an older server can load it"
    )
    again = f"export with TensorFlow {published}: pip install 'tensorflow=={published}.*'"
    if version_numbers(needs.oldest) <= version_numbers(published):
        return f"{facts}. It has nothing that was added after {published}. Where it does not load, {again}"
    return f"{facts}, and {published} cannot: {needs.why[0]}. For that image {again}"


def _first_of(compiled: bool, target: str) -> tuple[str, str]:
    if compiled and target == "gpu":
        return OLDEST, f"{OLDEST} is the first whose GPU server can run XLA"
    return OLDEST, f"{OLDEST} is the oldest TensorFlow that the exporter is tested with"


def _promise(made: str, oldest: str) -> str:
    older = "" if made == oldest else ", and not that older ones can"
    return f"TensorFlow promises that servers of {made}, which made the export, and newer can load it{older}"


def _nodes(graph: GraphDef) -> Iterator[NodeDef]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _is_compiled(node: NodeDef) -> bool:
    # Reading an absent key of the map would add it.
    return "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b


def _graph_reasons(graph: GraphDef) -> Iterator[tuple[str, str]]:
    """(version, sentence) of each thing in a graph that older versions lack."""
    first = {name: version for version, facts in releases().items() for name in facts["new"]}
    newer_in = {name.split(".")[0] for name in first}
    for node in _nodes(graph):
        if node.op in newer_in:
            for name in _names(node):
                if name in first:
                    yield first[name], f"{first[name]} is the first that knows {_words(name)}"
    asked = graph.versions.min_consumer
    readers = [version for version, facts in releases().items() if facts["graph_version"] >= asked]
    # Every known version is older than the graph asks for only where its producer is the newest of them.
    reader = readers[0] if readers else list(releases())[-1]
    if reader != OLDEST:
        yield reader, f"{reader} is the first that reads graphs of version {asked}, as this one asks for"


def _names(node: NodeDef) -> Iterator[str]:
    """A node's op, its attributes and their values, as `releases` names them."""
    yield node.op
    for name, value in node.attr.items():
        attribute = f"{node.op}.{name}"
        yield attribute
        kind = value.WhichOneof("value")
        if kind == "type":
            types = value.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number
            yield f"{attribute}={types[value.type].name}"
        elif kind == "s":
            yield f"{attribute}={value.s.decode(errors='replace')}"


def _words(name: str) -> str:
    op, _, attribute = name.partition(".")
    attribute, _, value = attribute.partition("=")
    words = f"the attribute {attribute} of the op {op}" if attribute else f"the op {op}"
    return f"the value {value} of {words}" if value else words
