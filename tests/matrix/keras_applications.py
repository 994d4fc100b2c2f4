"""The activations of every keras.applications family, and what guided backpropagation makes of them.

python tests/matrix/keras_applications.py          writes exporter/COVERAGE.md
python tests/matrix/keras_applications.py MEMBER…  prints the rows of these members

One small member of each family is built with random weights and traced; no weights are downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.activations.find import find_activations
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.trace import trace
from saliency_exporter.methods import guided
from saliency_exporter.sources import keras_application
from saliency_exporter.sources.load import load_source
from saliency_exporter.version.describe import describe_activations, describe_preprocessing
from saliency_exporter.version.inspection import preprocessing_in_words

PAGE = Path(__file__).parents[2] / "exporter" / "COVERAGE.md"
MEMBERS = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "VGG19",
    "Xception",
)
# Every family can be built for it; the activations do not depend on the size.
_IMAGE_SIZE = (96, 96)

_HEAD = """# Coverage: keras.applications

What guided backpropagation finds in each family of keras.applications, in one small member with random
weights, and the preprocessing that an export bakes in. `make coverage-table` writes this page; the tests hold
it against the models. [Which rule each activation has, and why][rules].

[rules]: README.md#guided-backpropagation-which-activations

| family | member | activations found | rule | guided | preprocessing |
|---|---|---|---|---|---|
"""


def row(member: str) -> str:
    """The line of one model in the table."""
    source = load_source(member, weights="none", image_size=_IMAGE_SIZE)
    graph = trace(source)
    recognised = describe_activations(find_activations(graph)).recognised
    cells = (
        keras_application.family(member),
        member,
        ", ".join(f"{kind.count} × {kind.kind}" for kind in recognised) or "none",
        "; ".join(f"{kind.kind}: {kind.guided}" for kind in recognised),
        _verdict(graph, member),
        preprocessing_in_words(describe_preprocessing(source.preprocessing))
        if source.preprocessing
        else "asked for",
    )
    return f"| {' | '.join(cells)} |\n"


def _verdict(graph: ForwardGraph, member: str) -> str:
    try:
        covered = len(guided.replacements(graph, member))
    except ExportError as error:
        return f"refused: {error}"
    return f"covered: all {covered}"


def page(members: tuple[str, ...] = MEMBERS) -> str:
    """The whole page."""
    rows = []
    for member in members:
        rows.append(row(member))
        print(rows[-1], end="", flush=True)
        keras.backend.clear_session()
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        page(tuple(sys.argv[1:]))
    else:
        PAGE.write_text(page(), encoding="utf-8")
