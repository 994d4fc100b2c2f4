"""The parts of the randomisation test that are numbers alone: what is drawn, how deep, and measured how."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 100
"""Of the histogram that the entropy of a map is taken of (Hedström et al. 2024, section 4.2)."""


def permuted(weight: npt.NDArray[np.generic], rng: np.random.Generator) -> npt.NDArray[np.generic]:
    """A weight with all of its values in another, random order, whatever their axes.

    Every value stays: so activations keep their scale, and a variance stays positive, without knowing from
    what distribution a model's author would draw a weight. (Quantus permutes the first axis of a Keras
    weight, which for a kernel of 3 × 3 leaves most of it as it was.)

    Args:
        weight: of any shape.
        rng: what is drawn from.
    """
    return rng.permutation(weight.ravel()).reshape(weight.shape)


def entropy(values: npt.ArrayLike) -> float:
    """The entropy in nats of the histogram of a map's values, 100 bins from its smallest to its largest.

    Source: Hedström et al. 2024, arXiv 2401.06465, section 4.2, as Quantus computes it.

    Args:
        values: a map of any shape, with one value at least.

    Returns:
        0 (all values in one bin) to log 100; NaN where a value is not finite.
    """
    flat = np.asarray(values, np.float64).ravel()
    if not np.isfinite(flat).all():
        return float("nan")
    counts, _ = np.histogram(flat, BINS)
    shares = counts[counts > 0] / flat.size
    return float(-(shares * np.log(shares)).sum()) + 0.0


def chosen_depths(groups: int, most: int) -> list[int]:
    """How many groups of weights are random where maps are made: the first, the last, and some between.

    Args:
        groups: how many there are, ≥ 1.
        most: how many depths at most, ≥ 1.

    Returns:
        Ascending, the last is `groups`; as even as whole numbers are.
    """
    return sorted({round(depth) for depth in np.linspace(1, groups, min(most, groups))} | {groups})
