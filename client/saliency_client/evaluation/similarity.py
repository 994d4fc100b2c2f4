"""How alike two maps are: by the order of their pixels, and by their local structure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

WINDOW = 7
"""Side of SSIM's window, in pixels."""

_K1, _K2 = 0.01, 0.03


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rank correlation of all values of two maps; equal values share their mean rank.

    Args:
        a: a map of any shape.
        b: another one, of the same shape.

    Returns:
        −1..1: 1 for the same order, −1 for the opposite one; NaN where a map is constant or has a value
        that is not finite, as it then has no order.

    Raises:
        ValueError: the shapes differ, or the maps are empty.
    """
    first, second = _pair(a, b)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    x, y = _centred_ranks(first), _centred_ranks(second)
    norms = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / norms, -1, 1)) if norms > 0 else float("nan")


def ssim(a: npt.ArrayLike, b: npt.ArrayLike, *, data_range: float | None = None) -> float:
    """The mean structural similarity of two maps, over all places of a window that lie inside them.

    The window is uniform, 7 values along every axis, with the sample covariance, K1 0.01 and K2 0.03, as
    scikit-image's `structural_similarity` has it by default.

    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".

    Args:
        a: a map, [H, W] of a picture, or with fewer or more axes.
        b: another one, of the same shape.
        data_range: the distance from the smallest to the largest value that maps can have; by default that
            of the values of both maps.

    Returns:
        −1..1: 1 for equal maps; NaN where a map is smaller than the window along an axis, where one is
        constant, as it then has no structure, or where a value is not finite.

    Raises:
        ValueError: the shapes differ, or the maps are empty.
    """
    x, y = _pair(a, b)
    if data_range is None:
        data_range = float(max(x.max(), y.max()) - min(x.min(), y.min()))
    if min(x.shape, default=0) < WINDOW or not (np.isfinite(data_range) and data_range > 0):
        return float("nan")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    # In units of the range: the square of a tiny gradient is less than float64 holds.
    x, y = x / data_range, y / data_range
    mean_x, mean_y = _window_means(x), _window_means(y)
    size = WINDOW**x.ndim
    sample = size / (size - 1)
    variance_x = sample * (_window_means(x * x) - mean_x**2)
    variance_y = sample * (_window_means(y * y) - mean_y**2)
    covariance = sample * (_window_means(x * y) - mean_x * mean_y)
    c1, c2 = _K1**2, _K2**2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float((above / below).mean())


def in_units_of_largest(values: npt.ArrayLike) -> Array:
    """A map over its largest magnitude, float64, as SSIM compares pictures of one scale; zeros stay zeros."""
    scaled = np.asarray(values, np.float64)
    return np.asarray(scaled / (float(np.abs(scaled).max()) or 1.0))


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Array, Array]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"maps of one shape are compared, with a value at least: {first.shape} and {second.shape}"
        )
    return first, second


def _centred_ranks(values: Array) -> Array:
    """Rank of each value minus the mean of all ranks, flat."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # The mean position of a group of equal values.
    ranks = np.cumsum(counts) - (counts - 1) / 2 - (values.size + 1) / 2
    return np.asarray(ranks[inverse.ravel()], np.float64)


def _window_means(values: Array) -> Array:
    for axis in range(values.ndim):
        values = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=axis).mean(axis=-1)
    return values
