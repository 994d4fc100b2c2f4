"""The numbers of the randomisation test."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from saliency_exporter.evaluation.randomisation import chosen_depths, entropy, permuted


def test_a_permuted_weight_has_the_same_values_in_another_order_along_every_axis() -> None:
    weight = np.arange(3 * 3 * 4 * 5, dtype=np.float16).reshape(3, 3, 4, 5)
    drawn = permuted(weight, np.random.default_rng(0))
    assert drawn.shape == weight.shape
    assert drawn.dtype == weight.dtype
    np.testing.assert_array_equal(np.sort(drawn.ravel()), weight.ravel())
    # A permutation of the first axis alone, as of whole slices, would leave the others ascending.
    for axis in range(4):
        assert (np.diff(drawn, axis=axis) < 0).any()


def test_the_entropy_of_a_map_is_that_of_its_histogram_of_a_hundred_bins() -> None:
    values = np.random.default_rng(1).gamma(0.5, size=(40, 50))
    expected = scipy.stats.entropy(np.histogram(values, bins=100)[0])
    assert entropy(values) == pytest.approx(expected, abs=1e-12)


def test_the_entropy_is_that_of_the_shares_in_closed_form() -> None:
    assert entropy(np.arange(100)) == pytest.approx(np.log(100))
    assert entropy([0.0, 1.0, 1.0, 1.0]) == pytest.approx(0.25 * np.log(4) + 0.75 * np.log(4 / 3))
    assert entropy(np.full((3, 3), 7.0)) == 0
    assert np.isnan(entropy([1.0, np.inf]))


@pytest.mark.parametrize(
    ("groups", "most", "expected"),
    [(1, 8, [1]), (3, 8, [1, 2, 3]), (99, 8, [1, 15, 29, 43, 57, 71, 85, 99]), (10, 1, [1, 10])],
)
def test_depths_begin_with_the_top_and_end_with_all(groups: int, most: int, expected: list[int]) -> None:
    assert chosen_depths(groups, most) == expected
