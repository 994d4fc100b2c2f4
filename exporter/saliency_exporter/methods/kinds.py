"""Kinds of maps: what a method's own map is called, and how `saliency` is made of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from saliency_exporter.methods.enlarge import enlarged

_MOST_CHANNELS_APART = 4
"""Up to so many channels a maximum over them is taken one by one."""

FloatArray = npt.NDArray[np.float32]
Sizes = Sequence[int]
"""Of an image without its channels: (height, width) of a picture."""


@dataclass(frozen=True)
class Kind:
    """A kind of map, and its saliency, [B, *sizes].

    Attributes:
        name: what a method declares.
        output: name of the signature's output that holds the map.
        like: the map's shape: "images" for that of the images; "cells" for one value for each cell of a
            coarse grid, [B, h, w]; "pixels" for one value for each pixel, [B, H, W].
        rule: how saliency is made of it, in words.
        saliency: the function of the map and the image's sizes, in TensorFlow.
        expected: the same, in NumPy, which answers are held against.
    """

    name: str
    output: str
    like: Literal["images", "cells", "pixels"]
    rule: str
    saliency: Callable[[tf.Tensor, Sizes], tf.Tensor]
    expected: Callable[[FloatArray, Sizes], FloatArray]


def with_channel_axis(values: Any, sizes: Sizes) -> Any:
    """A batch of maps like images, with an axis for channels, of size 1 where it has none.

    Args:
        values: a tensor or an array, [B, *sizes] or [B, *sizes, C].
        sizes: of an image without its channels.
    """
    return values[..., None] if len(values.shape) == len(sizes) + 1 else values


def channel_max(x: tf.Tensor) -> tf.Tensor:
    """Maximum over the last axis, [B, H, W, C] to [B, H, W]."""
    if x.shape[-1] > _MOST_CHANNELS_APART:
        return tf.reduce_max(x, axis=-1)
    # Uncompiled, reducing a short last axis takes twice as long as comparing its channels.
    return functools.reduce(tf.maximum, tf.unstack(x, axis=-1))


def _stretched(values: FloatArray, sizes: Sizes) -> FloatArray:
    """Bilinearly enlarged by NumPy's interpolation: cells have half-pixel centres, and ends go on."""
    for axis, size in enumerate(sizes, start=1):
        cells = np.arange(values.shape[axis])
        centres = (np.arange(size) + 0.5) * len(cells) / size - 0.5

        def stretched(line: FloatArray, centres: Any = centres, cells: Any = cells) -> Any:
            return np.interp(centres, cells, line)

        values = np.apply_along_axis(stretched, axis, values)
    return values.astype(np.float32)


SENSITIVITY = Kind(
    name="sensitivity",
    output="gradients",
    like="images",
    rule="the maximum over channels of |gradients|",
    saliency=lambda gradients, sizes: channel_max(tf.abs(with_channel_axis(gradients, sizes))),
    expected=lambda gradients, sizes: np.abs(with_channel_axis(gradients, sizes)).max(axis=-1),
)
"""A signed map like a gradient (Simonyan et al. 2013, arXiv 1312.6034, section 3.1)."""

ATTRIBUTION = Kind(
    name="attribution",
    output="attributions",
    like="images",
    rule="|the sum over channels of attributions|",
    saliency=lambda shares, sizes: tf.abs(tf.reduce_sum(with_channel_axis(shares, sizes), axis=-1)),
    expected=lambda shares, sizes: np.abs(with_channel_axis(shares, sizes).sum(axis=-1)),
)
"""Shares of the score, in its units."""

LOCALISATION = Kind(
    name="localisation",
    output="cam",
    like="cells",
    rule="the cam without its negative part, bilinearly enlarged",
    saliency=lambda cam, sizes: enlarged(tf.nn.relu(cam), sizes),
    expected=lambda cam, sizes: _stretched(np.maximum(cam, 0), sizes),
)
"""A coarse map of where features speak for the class (Selvaraju et al. 2017, arXiv 1610.02391)."""

MASKING = Kind(
    name="masking",
    output="saliency",
    like="pixels",
    rule="the map itself",
    saliency=lambda importance, sizes: importance,
    expected=lambda importance, sizes: importance,
)
"""How much each pixel counts, found by hiding others (Petsiuk et al. 2018, arXiv 1806.07421)."""

KINDS = {kind.name: kind for kind in (SENSITIVITY, ATTRIBUTION, LOCALISATION, MASKING)}
