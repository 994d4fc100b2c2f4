"""Where a model's input has its channels; a model that takes them first becomes one that takes them last."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.choices import Channels
from saliency_exporter.sources.source import Source

MOST_CHANNELS = 4
"""A picture has 1, 3 or 4."""


def with_channels(source: Source, channels: Channels) -> Source:
    """The source with what the user says about its input's channels.

    Args:
        source: a model, its input as it takes it.
        channels: "first" gives a source that takes [B, …, C] and hands [B, C, …] to the model.

    Raises:
        ExportError: "first", of an input [B, F] that has no axis beside them.
    """
    if channels != "first":
        return replace(source, channels=channels)
    if len(source.input_shape) < 2:
        raise ExportError(
            f"--channels first: {source.name} takes input of shape {shape_in_words(source.input_shape)}, "
            "which has no axis beside its channels",
            hint="leave --channels out",
        )
    first, *sizes = source.input_shape
    last = len(source.input_shape)
    to_first = [0, last, *range(1, last)]
    return replace(
        source,
        call=lambda x: source.call(tf.transpose(x, to_first)),
        input_shape=(*sizes, first),
        origin=f"{source.origin}, channels first",
        channels="first",
    )


def own_shape(source: Source) -> tuple[int, ...]:
    """The shape of one example as the model itself takes it."""
    if source.channels != "first":
        return source.input_shape
    *sizes, channels = source.input_shape
    return (channels, *sizes)


def shape_in_words(shape: Iterable[int | None]) -> str:
    """The shape of a batch of examples: [B, any, 80], "any" where a size is open."""
    return "[" + ", ".join(["B", *("any" if size is None else str(size) for size in shape)]) + "]"


def looks_channels_first(shape: tuple[int | None, ...]) -> bool:
    """Whether the sizes of an example are those of a picture or a volume whose channels come first.

    That is a first size that is a number of channels, 1, 3 or 4, and no other size that is one.
    """
    if len(shape) < 3 or shape[0] not in (1, 3, MOST_CHANNELS):
        return False
    return all(size is None or size > MOST_CHANNELS for size in shape[1:])
