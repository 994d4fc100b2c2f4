"""Classifiers with real weights that are installed with the extra ``demo`` and need no download."""

from __future__ import annotations

from importlib import import_module

from saliency_exporter.sources.choices import NO_CHOICES, Choices
from saliency_exporter.sources.source import Source

NAMES = ("efficientnet-lite0",)


def load(name: str, choices: Choices = NO_CHOICES) -> Source:
    """Loads a model of the zoo.

    Args:
        name: one of ``NAMES``; its module has the same name, with underscores.
        choices: the user's.

    Raises:
        ExportError: the packages of its weights or labels are not installed or damaged, or
            ``choices`` are not the model's.
    """
    source: Source = import_module(f"{__name__}.{name.replace('-', '_')}").load(choices)
    return source
