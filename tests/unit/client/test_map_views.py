"""Polarity, lower percentiles and areas of a map have the values that their definitions give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import binary_dilation

from saliency_client import maps


def test_polarity_keeps_a_part_of_the_sum_over_channels() -> None:
    values = np.array([[3.0, -1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(maps.polarized(values, "positive"), [[3, 0, 0]])
    np.testing.assert_array_equal(maps.polarized(values, "negative"), [[0, 1, 0]])
    np.testing.assert_array_equal(maps.polarized(values, "both"), values)
    with pytest.raises(ValueError, match="polarity is 'up'; it is one of positive, negative, both"):
        maps.polarized(values, "up")  # type: ignore[arg-type]


def test_nothing_is_left_up_to_the_lower_percentile() -> None:
    ramp = np.arange(101, dtype=np.float32).reshape(1, 101) + 50
    normal = maps.normalize(ramp, clip=90, clip_low=40)
    # Of 0..100 above the minimum: up to 40 nothing, from 90 all, 65 half way.
    np.testing.assert_array_equal(normal[0, :41], 0)
    assert normal[0, 65] == pytest.approx(0.5)
    np.testing.assert_array_equal(normal[0, 90:], 1)


def test_of_a_signed_map_the_lower_percentile_is_of_the_magnitude() -> None:
    values = np.array([[-4.0, -2.0, 1.0, 0.0, 3.0]])
    # The magnitudes' median is 2: -4 is -1, and 3 half of it.
    np.testing.assert_allclose(
        maps.normalize(values, clip=100, clip_low=50, signed=True), [[-1, 0, 0, 0, 0.5]]
    )


@pytest.mark.parametrize("low", [-1, 99, 100, float("nan")])
def test_a_lower_percentile_that_is_not_below_the_upper_one_is_an_error(low: float) -> None:
    with pytest.raises(ValueError, match="clip_low is"):
        maps.normalize([[1, 2]], clip_low=low)


@settings(deadline=None)
@given(
    mask=arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)), reach=st.integers(0, 4)
)
def test_near_is_a_dilation_by_a_square(mask: np.ndarray, reach: int) -> None:
    expected = binary_dilation(mask, np.ones((2 * reach + 1,) * 2))
    np.testing.assert_array_equal(maps.near(mask, reach), expected)


def test_areas_join_hot_pixels_that_do_not_touch_and_pass_over_specks() -> None:
    values = np.zeros((200, 200))
    values[50:100:3, 50:100:3] = 1
    values[150, 20] = 2
    areas = maps.areas(values, clip_low=95)
    assert areas[55:95, 55:95].all()
    assert areas.sum() == pytest.approx(0.05 * 200 * 200, rel=0.01)
    assert not areas[120:].any()


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
@pytest.mark.parametrize("signed", [False, True])
def test_a_constant_map_has_no_areas(value: float, signed: bool) -> None:
    assert not maps.areas(np.full((120, 90), value), clip_low=0, signed=signed).any()


def test_areas_are_of_the_smoothed_map_whose_smoothing_keeps_a_plane_inside() -> None:
    """Means of squares keep a linear map but at its edges, so the areas are those of the map."""
    plane = np.add.outer(np.arange(100.0), 2 * np.arange(100.0))
    areas = maps.areas(plane, clip_low=50)
    np.testing.assert_array_equal(areas[10:-10, 10:-10], (plane > np.median(plane))[10:-10, 10:-10])


def test_areas_of_a_map_with_signs_have_theirs() -> None:
    values = np.zeros((100, 100))
    values[20:40, 20:40], values[60:80, 60:80] = 1, -1
    areas = maps.areas(values, clip_low=94, signed=True)
    assert (areas[23:37, 23:37] == 1).all()
    assert (areas[63:77, 63:77] == -1).all()
    assert not areas[:15].any()
    np.testing.assert_array_equal(maps.areas(-values, clip_low=94, signed=True), -areas)


@pytest.mark.parametrize(("values", "low"), [(np.zeros((2, 3, 4)), 1), (np.zeros((3, 4)), 100)])
def test_areas_are_of_one_map_and_below_the_largest_value(values: np.ndarray, low: float) -> None:
    with pytest.raises(ValueError, match=r"\[H, W\]|clip_low is 100"):
        maps.areas(values, clip_low=low)
