"""How far two computations of the same values may be from each other: float32 rounding.

Nothing promises a map's bits but a copy of it. Kernels add in an order of their own, by the processor, the
compiler, the shape of the batch and the row in it: without oneDNN's kernels 4 of 3072 values of a map differ
in their last bit between two positions in one batch. What a test holds two computations to is therefore a
distance, in units in the last place of the map's norm, float32's 2⁻²³ ‖map‖.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ULP = 2.0**-23
"""A unit in the last place of 1 in float32, which is the largest relative one; a rounding is half of it."""

ROUNDING = 32.0
"""Bound of the distance of two computations of one map, in units in the last place of its norm.

A sum of K products is K roundings, of signs that do not know of each other: √K half units of the sum of their
magnitudes. Forward and back through the layers of tests/models.py, whose sums have 27, 9, 72 and 768 terms,
is √(2 · 876) half units, 21 units; a handful each for activations, batch normalization and the mean over
samples. It is an estimate from above, since most errors are smaller than half a unit and sums cancel. Of 2000
gradients of tests/models.py on one AVX-512 processor the largest distance between compiled and uncompiled was
1.72 units with Eigen's kernels and 1.79 with oneDNN's (`TF_ENABLE_ONEDNN_OPTS` 0 and 1), and 0 between
uncompiled batches of 50 and of 1. The smallest fault that test_independence.py makes, a thousandth of another
example's map, is 5900 units.

It is a bound for weights and images whose units are not within rounding of a rectifier's kink: see `KINK`."""

KINK = 0.02
"""Bound of ‖difference‖₂ / ‖map‖₂ for a model that a test does not know, as verification has it.

A unit whose input is within rounding of a rectifier's kink passes its signal in one computation and not in
the other. If a part of 10⁻⁶ of a large network's units is so near, and each carries its share of the map's
squared norm, the map differs by 10⁻³ of its norm. In a small network it is none or one. In tests/models.py it
was none of 2000 maps between compiled and uncompiled; with weights changed by 10⁻⁵, a hundred times rounding,
0.85 % of the maps, by up to 0.16: by extrapolation, rounding meets one map of some 20,000."""


def ulps_of_norm(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """‖got − want‖₂ of each example in units in the last place of ‖want‖₂, float64 [B].

    0 where both are equal, whatever the norm; infinite where one of both has a NaN or an infinity that the
    other does not have.

    Args:
        got: float32 [B, …].
        want: float32 [B, …].
    """
    return _distances(got, want, lambda rows: np.linalg.norm(rows, axis=1))


def ulps_of_largest(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """max|got − want| of each example in units in the last place of max|want|, float64 [B].

    One pixel that is wrong by all of its value is 1/√(pixels) of a norm and everything here.
    """
    return _distances(got, want, lambda rows: np.abs(rows).max(axis=1))


def assert_equal_to_rounding(
    got: np.ndarray, want: np.ndarray, ulps: float = ROUNDING, *, beyond: int = 0, name: str = ""
) -> None:
    """Two computations of the same values: float32 within `ulps`, everything else equal.

    Maps and predictions, [B, …], are compared by example, by their norms and by their largest values.
    Numbers, one for each example, are compared in units in the last place of the largest of them, and of 1 at
    least: a score near 0 is a difference of sums that are not.

    Args:
        got: one array.
        want: the other.
        ulps: the bound.
        beyond: how many examples may have a unit at a rectifier's kink, and differ by up to a fifth of their
            norm. For many maps of a network with rectifiers; of one map it is none.
        name: what is compared, for the message.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert (got.shape, got.dtype) == (want.shape, want.dtype), name
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, err_msg=name)
        return
    if want.ndim < 2:
        finite = np.isfinite(want)
        np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=name)
        unit = ULP * max(1.0, float(np.abs(want[finite]).max(initial=0.0)))
        distances = np.abs(got[finite].astype(np.float64) - want[finite]) / unit
        assert (distances <= ulps).all(), f"{name} differs by {distances.max():.3g} units in the last place"
        return
    distances = np.maximum(ulps_of_norm(got, want), ulps_of_largest(got, want))
    far = distances > ulps
    worst = f"{name} differs by {distances.max():.3g} units in the last place of its norm or largest value"
    assert far.sum() <= beyond, f"{worst}, example {distances.argmax()} of {len(distances)}"
    assert (ulps_of_norm(got, want)[far] * ULP <= 0.2).all(), worst


def assert_equal_but_for_kinks(got: np.ndarray, want: np.ndarray, *, name: str = "") -> None:
    """Two computations of the same values by a model that is not known: maps within `KINK`, the rest equal.

    Args:
        got: one array, maps or predictions [B, …] or numbers [B].
        want: the other.
        name: what is compared, for the message.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert (got.shape, got.dtype) == (want.shape, want.dtype), name
    if want.dtype.kind != "f" or want.ndim < 2:
        assert_equal_to_rounding(got, want, KINK / ULP, name=name)
        return
    worst = ulps_of_norm(got, want).max() * ULP
    assert worst <= KINK, f"{name} differs by {worst:.2g} of its norm"


def assert_same_answers(
    got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], ulps: float = ROUNDING
) -> None:
    """Two answers with the same outputs, each as `assert_equal_to_rounding`."""
    assert set(got) == set(want)
    for name, value in want.items():
        assert_equal_to_rounding(got[name], value, ulps, name=name)


def _distances(got: np.ndarray, want: np.ndarray, norm) -> np.ndarray:
    rows = len(want)
    got, want = (np.asarray(array, np.float64).reshape(rows, -1) for array in (got, want))
    alike = (got == want) | (np.isnan(got) & np.isnan(want))
    # An infinity or a NaN on one side alone is an infinite distance.
    difference = np.full_like(want, np.inf)
    np.subtract(got, want, out=difference, where=np.isfinite(got) & np.isfinite(want))
    difference[alike] = 0.0
    size = norm(np.where(np.isfinite(want), want, 0.0))
    distance = norm(difference)
    with np.errstate(divide="ignore"):
        return np.where(distance == 0, 0.0, distance / np.where(distance == 0, 1.0, ULP * size))
