"""Means over images with bootstrap intervals, and methods compared in pairs on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 2000
ROUNDING = 1e-9
"""Values that differ by less than this share of them are the same; two rank correlations of 1 differ so."""


@dataclass(frozen=True)
class Summary:
    """One measure of one method over images.

    Attributes:
        mean: over those images of which it is defined; NaN if there are none.
        low: lower end of the interval of the mean, at 95 %; NaN of fewer than 2 images.
        high: its upper end.
        images: how many it is defined of.
        undefined: how many it is not defined of.
    """

    mean: float
    low: float
    high: float
    images: int
    undefined: int


@dataclass(frozen=True)
class Comparison:
    """Two methods by one measure, on the images of which both are defined.

    Attributes:
        difference: mean of the first's value minus the second's.
        low: lower end of its interval, at 95 %; NaN of fewer than 2 images.
        high: its upper end.
        wins: images of which the first is better; of a measure that prefers neither, larger.
        ties: images of which both have the same value, but for rounding.
        images: how many there are.
        better: whether the first is better, that is, the whole interval is on the better side of 0.
    """

    difference: float
    low: float
    high: float
    wins: int
    ties: int
    images: int
    better: bool


def interval(values: npt.ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean at 95 %, of 2000 resamples (Efron 1979).

    With few images it is too narrow: of 10, it holds the mean in about 90 % of cases.

    Returns:
        Lower and upper end; NaN of fewer than 2 values.
    """
    known = np.asarray(values, np.float64)
    if known.size < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(known.size, size=(RESAMPLES, known.size))
    low, high = np.quantile(known[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def summary(values: Sequence[float], *, seed: int = 0) -> Summary:
    """The mean of values, without those that are NaN, which are counted."""
    known = [value for value in values if math.isfinite(value)]
    low, high = interval(known, seed=seed)
    mean = float(np.mean(known)) if known else math.nan
    return Summary(mean, low, high, len(known), len(values) - len(known))


def compare(
    first: Mapping[str, float], second: Mapping[str, float], *, better: str | None, seed: int = 0
) -> Comparison:
    """Compare two methods.

    Args:
        first: value of each image, by its name.
        second: the same of the other method.
        better: "lower", "higher" or None.
        seed: of the resamples.
    """
    both = [
        (first[name], second[name])
        for name in first
        if name in second and math.isfinite(first[name]) and math.isfinite(second[name])
    ]
    differences = np.array([0.0 if math.isclose(a, b, rel_tol=ROUNDING) else a - b for a, b in both])
    low, high = interval(differences, seed=seed)
    sign = -1 if better == "lower" else 1
    return Comparison(
        float(differences.mean()) if both else math.nan,
        low,
        high,
        int((sign * differences > 0).sum()),
        int((differences == 0).sum()),
        len(both),
        better is not None and (high < 0 if better == "lower" else low > 0),
    )
