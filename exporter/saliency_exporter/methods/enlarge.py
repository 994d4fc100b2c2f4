"""Coarse maps at the size of the image."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def enlarged(cells: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
    """A coarse map, [B, h, w, …], at the size of the image, [B, H, W, …]: linear along each axis.

    Bilinear for two axes, as `tf.image.resize` does it: a cell's value is at its centre, and beyond the
    centres of the outer cells a map is constant. Written as a product with a matrix for each axis, which XLA
    compiles for every device and any number of axes.

    Args:
        cells: float32 [B, *cells, …]; what follows the axes of the grid stays.
        sizes: of the image without its channels, as many as the grid has axes.
    """
    letters = string.ascii_lowercase[: cells.shape.rank]
    for axis, size in enumerate(sizes, start=1):
        weights = tf.constant(weights_along(cells.shape[axis], size), cells.dtype)
        made = letters.replace(letters[axis], "z")
        cells = tf.einsum(f"{letters},z{letters[axis]}->{made}", cells, weights)
    return cells


def weights_along(cells: int, size: int) -> np.ndarray:
    """What each of `size` pixels takes of each of `cells` cells, [size, cells]; the rows' sums are 1."""
    centres = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    return np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(cells)))
