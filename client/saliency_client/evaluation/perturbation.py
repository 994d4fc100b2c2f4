"""How pixels are ranked and what stands in place of those that are removed."""

from __future__ import annotations

from typing import Literal

import numpy as np

from saliency_client.evaluation.measure import Array, FloatArray, as_input

Substrate = Literal["black", "mean", "blur"]
SUBSTRATES = ("black", "mean", "blur")
BLUR_PIXELS, BLUR_SIGMA = 11, 5.0
"""RISE's blur: the side of its kernel, and the σ."""


def order(values: FloatArray, seed: int) -> Array:
    """[H·W]: the pixels from the most salient to the least; equal ones in random order, by the seed.

    So a constant map gives a random order, and never that of rows and columns, which removes whole areas and
    so differs from a random one.
    """
    shuffled = np.random.default_rng(seed).permutation(values.size)
    return np.asarray(shuffled[np.argsort(-values.ravel()[shuffled], kind="stable")])


def counts(num_pixels: int, steps: int) -> Array:
    """[steps + 1]: how many pixels are removed at each step, from 0 to all; ⌊k · H·W / steps⌋."""
    return np.arange(steps + 1) * num_pixels // steps


def substrate(image: Array, kind: Substrate) -> Array:
    """What an image is replaced with: [H, W, C] of its dtype.

    Args:
        image: [H, W, C] or [H, W].
        kind: "black" is 0, in the unit of the model's images: with float32 images, whatever 0 means to the
            network. "mean" is the image's mean of each channel. "blur" is RISE's: 11 pixels, σ 5.
    """
    if kind == "black":
        return np.zeros_like(image)
    pixels = np.asarray(image, np.float64)
    mean = np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape)
    return as_input(mean if kind == "mean" else _blurred(pixels, image.dtype == np.uint8), image.dtype)


def replaced(image: Array, other: Array, ranked: Array, numbers: Array) -> Array:
    """[len(numbers), …]: the image with its first n ranked pixels taken from another, for each n.

    All channels of a pixel go together.
    """
    place = np.empty(ranked.size, np.int64)
    place[ranked] = np.arange(ranked.size)
    taken = place.reshape(image.shape[:2])[None] < np.asarray(numbers)[:, None, None]
    return np.where(taken if image.ndim == 2 else taken[..., None], other, image)


def blur_kernel(size: int = BLUR_PIXELS, sigma: float = BLUR_SIGMA) -> FloatArray:
    """[size] whose outer product with itself is RISE's kernel.

    RISE's `gkern` is SciPy's `gaussian_filter` of a single 1 in a field of size × size: the tails of the
    Gaussian, up to 4 σ, are mirrored into the field.
    """
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    # Of the output at i the weight at offset j reads i + j, mirrored at the half-pixel edges; we want those
    # that read the middle.
    positions = (np.arange(size)[:, None] + offsets) % (2 * size)
    mirrored = np.minimum(positions, 2 * size - 1 - positions)
    return np.asarray(((mirrored == size // 2) * weights).sum(axis=1))


def _blurred(pixels: FloatArray, is_photo: bool) -> FloatArray:
    """RISE's blur.

    Beyond its edges an image is 0, as in RISE, whose images have a mean of about 0. A uint8 one is the mean
    of its channel there, which is what 0 stands for.
    """
    kernel = blur_kernel()
    outside = pixels.mean(axis=(0, 1)) if is_photo else np.zeros(pixels.shape[2:])
    blurred = pixels - outside
    half = len(kernel) // 2
    for axis in (0, 1):
        padding = [(0, 0)] * pixels.ndim
        padding[axis] = (half, half)
        padded = np.pad(blurred, padding)
        size = pixels.shape[axis]
        blurred = sum(
            weight * np.take(padded, range(at, at + size), axis=axis) for at, weight in enumerate(kernel)
        )
    return np.asarray(blurred + outside)
