"""Kinds of maps: what a method's own map is called, and how `saliency` is made of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_MOST_CHANNELS_APART = 4
"""Up to so many channels a maximum over them is taken one by one."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """A kind of map, [B, …, C], and its saliency, [B, …].

    Attributes:
        name: "sensitivity" or "attribution".
        output: name of the signature's output that holds the map.
        rule: how saliency is made of it, in words.
        saliency: the function, in TensorFlow.
        expected: the same, in NumPy, which answers are held against.
    """

    name: str
    output: str
    rule: str
    saliency: Callable[[tf.Tensor], tf.Tensor]
    expected: Callable[[FloatArray], FloatArray]


def with_channel_axis(values: Any, channels: str) -> Any:
    """A map, or a batch of them, with an axis for channels, of size 1 where it has none.

    Args:
        values: a tensor or an array [B, …, C], or [B, …] where `channels` is "none".
        channels: as in `ForwardGraph.channels`.
    """
    return values[..., None] if channels == "none" else values


def channel_max(x: tf.Tensor) -> tf.Tensor:
    """Maximum over the last axis, [B, H, W, C] to [B, H, W]."""
    if x.shape[-1] > _MOST_CHANNELS_APART:
        return tf.reduce_max(x, axis=-1)
    # Uncompiled, reducing a short last axis takes twice as long as comparing its channels.
    return functools.reduce(tf.maximum, tf.unstack(x, axis=-1))


SENSITIVITY = Kind(
    name="sensitivity",
    output="gradients",
    rule="the maximum over channels of |gradients|",
    saliency=lambda gradients: channel_max(tf.abs(gradients)),
    expected=lambda gradients: np.abs(gradients).max(axis=-1),
)
"""A signed map like a gradient (Simonyan et al. 2013, arXiv 1312.6034, section 3.1)."""

ATTRIBUTION = Kind(
    name="attribution",
    output="attributions",
    rule="|the sum over channels of attributions|",
    saliency=lambda attributions: tf.abs(tf.reduce_sum(attributions, axis=-1)),
    expected=lambda attributions: np.abs(attributions.sum(axis=-1)),
)
"""Shares of the score, in its units."""

KINDS = {kind.name: kind for kind in (SENSITIVITY, ATTRIBUTION)}
