"""How sure the mean of sampled maps is, and how many samples an error takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from saliency_client._tensors import Array

FloatArray = npt.NDArray[np.float64]

SETTLED = 0.5
"""The relative error that a note speaks of where none is asked for: a map that is mostly signal."""
STOPS_AT = 10
"""Sampling ends at multiples of so many samples."""


_ROUNDING = 16 * 2.0**-23
"""Samples whose spread is less, over the norm of their mean, differ by float32 rounding alone."""


def relative_error(
    mean: Array, squared_error: npt.ArrayLike, samples: npt.ArrayLike, *, contrast: bool = False
) -> FloatArray:
    """The distance of a sample mean from the true mean, over the norm of the true mean: an estimate, [B].

    ‖se‖₂ ⁄ √(max(‖mean‖² − ‖se‖², 0)), with the standard error se of the mean: the noise that is part of the
    sample mean's norm is taken out of it (E‖mean‖² = ‖true mean‖² + E‖se‖²). Infinite where nothing is left,
    NaN where the standard error is, 0 where the samples differ by rounding alone.

    Args:
        mean: [B, …], over the samples.
        squared_error: [B], ‖se‖².
        samples: [B], how many.
        contrast: whether the error is one of what differs between places, of the map less its mean.
    """
    noise, count = np.asarray(squared_error, np.float64), np.asarray(samples, np.float64)
    squared_norm = _squared_norm(mean)
    signal = _squared_norm(contrast_of(mean)) if contrast else squared_norm
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(noise / np.maximum(signal - noise, 0))
    return np.where(noise * count <= _ROUNDING**2 * squared_norm, 0.0, error)


def contrast_of(maps: Array) -> FloatArray:
    """Maps [B, …], each less its mean over places."""
    difference: FloatArray = maps - maps.mean(tuple(range(1, maps.ndim)), keepdims=True, dtype=np.float64)
    return difference


def merged_squares(
    before: Array, squares: Array, more: Array, error_of_more: Array, difference: Array
) -> FloatArray:
    """Σ ‖sample − mean‖² of two parts together (Chan et al. 1979), [B], from the second's standard error.

    Where samples come in pairs it is the sum that as many independent samples would have to the same error.

    Args:
        before: [B], how many samples are in the first part.
        squares: [B], the sum of the first.
        more: [B], how many samples are in the second part.
        error_of_more: [B], ‖se‖ of its mean; NaN where there are too few samples to know it.
        difference: [B, …], of the parts' means.
    """
    own = np.square(error_of_more, dtype=np.float64) * more * (more - 1.0)
    between = _squared_norm(difference) * before * more / (before + more)
    sum_of_both: FloatArray = squares + np.where(np.isnan(own), 0, own) + between
    return sum_of_both


def _squared_norm(values: Array) -> FloatArray:
    norm: FloatArray = np.square(values, dtype=np.float64).sum(tuple(range(1, values.ndim)))
    return norm


def samples_needed(error: npt.ArrayLike, samples: npt.ArrayLike, target: npt.ArrayLike) -> FloatArray:
    """About how many samples a relative error takes: samples · (error ⁄ target)².

    Noise over signal, squared, falls with the number of samples. Two digits, rounded up, and a multiple of
    ten; infinite where the error is, or where the target is 0, NaN where the error is not known.

    Args:
        error: the relative error that there is.
        samples: after so many samples.
        target: the one that is wanted.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(error, np.float64) / np.asarray(target, np.float64)
        needed = np.asarray(samples, np.float64) * np.square(ratio)
        step = 10.0 ** np.maximum(np.floor(np.log10(np.maximum(needed, 1))) - 1, 1)
        # A hair less, so that what is exactly a multiple is not rounded up to the next.
        rounded = np.maximum(np.ceil(needed / step * (1 - 1e-12)), 1) * step
    return np.where(np.isfinite(needed), rounded, needed)
