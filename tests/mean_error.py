"""The error of a mean of samples, in NumPy and float64, which the library's own is held to."""

from __future__ import annotations

import numpy as np


def relative_error(samples: np.ndarray) -> float:
    """‖se‖ / √(‖mean‖² − ‖se‖²) of samples [n, …], n > 1; ∞ where nothing is left below the root."""
    samples = np.asarray(samples, np.float64).reshape(len(samples), -1)
    squared_error = samples.var(axis=0, ddof=1).sum() / len(samples)
    left = (samples.mean(axis=0) ** 2).sum() - squared_error
    return float(np.sqrt(squared_error / left)) if left > 0 else float("inf")


def relative_error_of_pairs(samples: np.ndarray) -> float:
    """The same, of samples [n, …], n > 2, that are independent pair by pair: of the means of pairs.

    The last of an odd number stands for a pair with a weight of a half, and its deviation counts twice.
    """
    samples = np.asarray(samples, np.float64).reshape(len(samples), -1)
    n, mean = len(samples), samples.mean(axis=0)
    pairs = samples[: n - n % 2].reshape(n // 2, 2, -1).mean(axis=1)
    squares = 4 * ((pairs - mean) ** 2).sum() + (2 * ((samples[-1] - mean) ** 2).sum() if n % 2 else 0)
    units = (n + 1) // 2
    squared_error = squares / n**2 * units / (units - 1)
    left = (mean**2).sum() - squared_error
    return float(np.sqrt(squared_error / left)) if left > 0 else float("inf")


def contrast(maps: np.ndarray) -> np.ndarray:
    """Maps [n, …], each less its mean over places."""
    return maps - maps.mean(axis=tuple(range(1, maps.ndim)), keepdims=True)
