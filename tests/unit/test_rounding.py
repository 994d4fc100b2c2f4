"""The bound of rounding that other tests hold two computations to: what it lets pass and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
from rounding import ROUNDING, ULP, assert_equal_to_rounding, ulps_of_largest, ulps_of_norm

RNG = np.random.default_rng(0)
MAPS = RNG.normal(size=(3, 224, 224, 3)).astype(np.float32)


def test_a_distance_is_in_units_in_the_last_place_of_each_examples_own_norm():
    want = np.array([[3.0, 4.0], [3000.0, 4000.0]], np.float32)
    got = want.copy()
    got[0, 0] += 16 * 2.0**-22  # 16 units in the last place of 3
    np.testing.assert_allclose(ulps_of_norm(got, want), [16 * 2 / 5, 0])
    np.testing.assert_allclose(ulps_of_largest(got, want), [16 * 2 / 4, 0])


def test_the_last_bits_of_all_values_may_differ():
    nudged = np.nextafter(MAPS, np.float32(np.inf))
    assert (nudged != MAPS).all()
    assert_equal_to_rounding(nudged, MAPS)
    assert ulps_of_norm(nudged, MAPS).max() < 1


@pytest.mark.parametrize(
    "fault",
    [
        lambda maps: maps[[0, 1, 1]],
        lambda maps: maps[::-1],
        lambda maps: maps + np.float32(1e-4) * maps[:1],
        lambda maps: -maps,
        lambda maps: maps[..., ::-1],
        lambda maps: np.where(np.arange(3) == 2, 0, maps),
    ],
    ids=["a row of another", "order", "a leak of a ten-thousandth", "sign", "channels", "a channel"],
)
def test_what_is_of_another_example_is_no_rounding(fault):
    with pytest.raises(AssertionError, match="the map differs by"):
        assert_equal_to_rounding(fault(MAPS).astype(np.float32), MAPS, name="the map")


def test_one_pixel_of_a_neighbour_is_no_rounding():
    got = MAPS.copy()
    got[1, 100, 50] = MAPS[0, 100, 50]
    assert ulps_of_norm(got, MAPS)[1] > 100 * ROUNDING
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(got, MAPS)
    # Nor is a hundred-thousandth of the largest value in one pixel, which is nothing to the norm.
    got = MAPS.copy()
    got[1, 0, 0, 0] += 1e-5 * np.abs(MAPS[1]).max()
    assert ulps_of_norm(got, MAPS)[1] < 1
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(got, MAPS)


def test_zero_infinity_and_nan_are_equal_to_themselves_alone():
    odd = np.array([[0, 0], [np.nan, 1], [np.inf, 1]], np.float32)
    assert_equal_to_rounding(odd.copy(), odd)
    for row, value in ((0, 1e-30), (1, 1.0), (2, 1.0), (2, np.nan), (2, -np.inf)):
        got = odd.copy()
        got[row, 0] = value
        with pytest.raises(AssertionError):
            assert_equal_to_rounding(got, odd)
        with pytest.raises(AssertionError):
            assert_equal_to_rounding(odd, got)


def test_numbers_are_held_to_the_largest_of_them_and_classes_to_equality():
    scores = np.array([1e-6, 50.0], np.float32)
    assert_equal_to_rounding(scores + np.float32(50 * 10 * ULP), scores)
    for got in (scores + np.float32(50 * 100 * ULP), scores[::-1], np.array([1e-6, np.nan], np.float32)):
        with pytest.raises(AssertionError):
            assert_equal_to_rounding(got, scores)
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(np.array([1, 2], np.int32), np.array([1, 3], np.int32))
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(scores.astype(np.float64), scores)


def test_so_many_examples_may_be_at_a_kink_and_none_may_be_of_another():
    got = MAPS.copy()
    got[1, :20] *= 0.9
    assert_equal_to_rounding(got, MAPS, beyond=1)
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(got, MAPS)
    got[2, :20] *= 0.9
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(got, MAPS, beyond=1)
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(MAPS[[0, 1, 1]], MAPS, beyond=1)
