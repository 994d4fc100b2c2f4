"""Maps that know nothing of the model: a method that does no better than these explains nothing."""

from __future__ import annotations

import zlib

import numpy as np

from saliency_client.evaluation.measure import Array, FloatArray

PREFIX = "control:"
RANDOM, EDGES = f"{PREFIX}random", f"{PREFIX}sobel"
"""How the controls are called beside methods."""


def random_map(images: Array, class_index: int, *, seed: int = 0) -> FloatArray:
    """[N, H, W] uniform in 0..1: another map for another image, class or seed, and the same for the same."""
    return np.stack(
        [
            np.random.default_rng(
                [seed, class_index, zlib.crc32(np.ascontiguousarray(image).tobytes())]
            ).random(image.shape[:2])
            for image in images
        ]
    )


def sobel(images: Array, class_index: int = 0) -> FloatArray:
    """[N, H, W]: the magnitude of Sobel's derivatives of the mean over channels; edges are mirrored."""
    grey = np.asarray(images, np.float64)
    grey = grey if grey.ndim == 3 else grey.mean(axis=-1)
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="symmetric")
    smooth, differ = (1.0, 2.0, 1.0), (-1.0, 0.0, 1.0)
    down = _filtered(padded, differ, smooth, grey.shape)
    across = _filtered(padded, smooth, differ, grey.shape)
    return np.asarray(np.hypot(down, across))


def _filtered(
    padded: FloatArray, rows: tuple[float, ...], columns: tuple[float, ...], shape: tuple[int, ...]
) -> FloatArray:
    height, width = shape[1:3]
    total = np.zeros(shape)
    for top, down in enumerate(rows):
        for left, right in enumerate(columns):
            total += down * right * padded[:, top : top + height, left : left + width]
    return total
