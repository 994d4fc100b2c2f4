"""What the methods that hide parts of an image share: where they are defined."""

from __future__ import annotations

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.forward_graph import ForwardGraph


def check_hideable(graph: ForwardGraph, model: str, side: int | None = None, asked: str = "") -> None:
    """Refuses a model whose input has no places, or fewer of them along an axis than are asked for.

    Args:
        graph: the model's.
        model: its name, for messages.
        side: what the method was asked for along every axis; None where it goes by the image's size.
        asked: the method with `side` in braces, as it is written: "rise(grid={})".

    Raises:
        ExportError: it is such a model.
    """
    if not graph.sizes:
        raise ExportError(
            f"the input of {model}, {graph.input_shape[0]} values, has no axis beside its channels: there "
            "are no places to hide",
            hint="if its values are places, such as steps of a series: --channels none; else export other "
            "methods",
        )
    least = min(graph.sizes)
    if side is not None and side > least:
        raise ExportError(
            f"{asked.format(side)} does not fit into the images of {model}, "
            + " × ".join(map(str, graph.sizes)),
            hint=f"the largest is {asked.format(least)}; without a number it follows the image's size",
        )
