"""Views and scalings of a raw gradient have the values that their formulas give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from saliency_client import maps

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
any_maps = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=finite)


def test_views_sum_magnitudes_positive_parts_and_negative_parts_over_channels() -> None:
    gradients = np.array([[[1, -2, 4], [-3, 0, 0]]], np.float32)
    np.testing.assert_array_equal(maps.absolute(gradients), [[7, 3]])
    np.testing.assert_array_equal(maps.positive(gradients), [[5, 0]])
    np.testing.assert_array_equal(maps.negative(gradients), [[2, 3]])
    np.testing.assert_array_equal(maps.signed(gradients), [[3, -3]])


def test_views_keep_the_batch() -> None:
    gradients = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    for view in (maps.absolute, maps.positive, maps.negative, maps.signed):
        assert view(gradients).shape == (2, 5, 4)
        assert view(gradients).dtype == np.float32


def test_normalize_takes_the_minimum_to_0_and_the_percentile_to_1() -> None:
    ramp = np.arange(101, dtype=np.float32).reshape(1, 101) + 50
    # The 80th percentile of 0..100 is 80, so the value 40 above the minimum is half way.
    normal = maps.normalize(ramp, clip=80)
    assert normal[0, 0] == 0
    assert normal[0, 40] == pytest.approx(0.5)
    np.testing.assert_array_equal(normal[0, 80:], 1)


def test_one_extreme_pixel_does_not_darken_the_rest() -> None:
    values = np.ones((100, 100), np.float32)
    values[:50] = 0
    values[99, 99] = 1e6
    assert maps.normalize(values)[75, 75] == 1
    assert maps.normalize(values, clip=100)[75, 75] == pytest.approx(1e-6)


def test_a_map_with_fewer_hot_pixels_than_the_percentile_still_shows_them() -> None:
    values = np.zeros((100, 100), np.float32)
    values[3, 4] = 2
    normal = maps.normalize(values)
    assert normal[3, 4] == 1
    assert normal.sum() == 1


def test_a_span_beyond_float32_is_scaled_right() -> None:
    np.testing.assert_allclose(maps.normalize([[-3e38, 0, 3e38]], clip=100), [[0, 0.5, 1]])


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0])
def test_a_constant_map_is_zero_everywhere(value: float) -> None:
    np.testing.assert_array_equal(maps.normalize(np.full((3, 4), value)), np.zeros((3, 4)))


def test_signed_scaling_keeps_zero_and_the_ratio_of_the_two_signs() -> None:
    values = np.array([[-1.0, 0.0, 4.0]])
    np.testing.assert_allclose(maps.normalize(values, clip=100, signed=True), [[-0.25, 0, 1]])
    np.testing.assert_allclose(maps.normalize(-values, clip=100, signed=True), [[0.25, 0, -1]])


@given(values=any_maps, clip=st.floats(0.1, 100), signed=st.booleans())
def test_normalized_maps_are_finite_and_in_range(values: np.ndarray, clip: float, signed: bool) -> None:
    normal = maps.normalize(values, clip=clip, signed=signed)
    assert np.isfinite(normal).all()
    assert normal.min() >= (-1 if signed else 0)
    assert normal.max() <= 1


def test_each_map_of_a_batch_is_scaled_by_itself() -> None:
    values = np.random.default_rng(0).normal(size=(3, 8, 9)) * np.array([1, 100, 1e-6])[:, None, None]
    for signed in (False, True):
        alone = [maps.normalize(one, signed=signed) for one in values]
        np.testing.assert_array_equal(maps.normalize(values, signed=signed), alone)


def test_values_that_cannot_be_shown_are_errors() -> None:
    with pytest.raises(ValueError, match=r"1 of 4 values that are NaN or infinite"):
        maps.normalize([[1, np.nan], [2, 3]])
    with pytest.raises(ValueError, match="clip is 101"):
        maps.normalize([[1, 2]], clip=101)
    with pytest.raises(ValueError, match="clip is 0"):
        maps.normalize([[1, 2]], clip=0)
    with pytest.raises(ValueError, match=r"shape \[0, 3\]"):
        maps.normalize(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        maps.normalize(np.zeros(3))


@pytest.mark.parametrize("clip", ["99", None, True, float("nan")])
def test_a_clip_that_is_no_percentile_is_named(clip: object) -> None:
    with pytest.raises(ValueError, match="it is a percentile above 0"):
        maps.limits(np.ones((1, 2, 2)), clip=clip)
