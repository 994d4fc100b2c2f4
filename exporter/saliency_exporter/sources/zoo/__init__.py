"""Classifiers with real weights that are installed with the extra ``demo`` and need no download."""

from __future__ import annotations

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.source import Source

NAMES = ("efficientnet-lite0",)


def load(name: str, choices: Choices = NO_CHOICES) -> Source:
    """Load a model of the zoo.

    Raises:
        ExportError: the packages of its weights or labels are not installed or damaged, or
            ``choices`` are not the model's.
    """
    from saliency_exporter.sources.zoo import efficientnet_lite0

    if name not in NAMES:
        raise ExportError(f"the zoo has no model {name!r}; it has {', '.join(NAMES)}")
    return efficientnet_lite0.load(choices)
