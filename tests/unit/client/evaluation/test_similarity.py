"""Similarity of maps, against scipy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from skimage.metrics import structural_similarity

from saliency_client.evaluation.similarity import spearman, ssim

rng = np.random.default_rng(7)


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_spearman_is_scipys_with_ties_too(decimals: int) -> None:
    a = rng.normal(size=(19, 23)).round(decimals)
    b = (a + rng.normal(size=a.shape)).round(decimals)
    expected = scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_a_monotonous_function_is_one_and_of_its_opposite_minus_one() -> None:
    a = rng.normal(size=100)
    assert spearman(a, np.exp(a)) == pytest.approx(1, abs=1e-12)
    assert spearman(a, -(a**3)) == pytest.approx(-1, abs=1e-12)


def test_a_map_without_an_order_has_no_rank_correlation() -> None:
    a = np.arange(6.0)
    assert np.isnan(spearman(a, np.ones(6)))
    assert np.isnan(spearman(a, [1, 2, np.nan, 4, 5, 6]))


@pytest.mark.parametrize("shape", [(7, 7), (40, 31), (50,), (9, 8, 10)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e30])
def test_ssim_is_scikit_images(shape: tuple[int, ...], scale: float) -> None:
    a = rng.gamma(1.0, size=shape)
    b = a + 0.3 * rng.normal(size=shape)
    data_range = max(a.max(), b.max()) - min(a.min(), b.min())
    expected = structural_similarity(a, b, data_range=data_range)
    assert ssim(a * scale, b * scale) == pytest.approx(expected, abs=1e-9)


def test_ssim_takes_a_range() -> None:
    a, b = rng.random((2, 16, 16))
    assert ssim(a, b, data_range=5.0) == pytest.approx(structural_similarity(a, b, data_range=5.0), abs=1e-9)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_ssim_is_nan_where_it_is_not_defined() -> None:
    a = rng.random((6, 20))
    assert np.isnan(ssim(a, a))
    assert np.isnan(ssim(np.ones((9, 9)), np.ones((9, 9))))
    b = rng.random((9, 9))
    # Without structure the formula gives c₂ / (σ² + c₂), nearly 0, which says nothing of the other map.
    assert np.isnan(ssim(b, np.zeros((9, 9))))
    assert np.isnan(ssim(np.ones((9, 9)), b))
    assert np.isnan(ssim(b, np.where(b > 0.5, np.nan, b)))


@pytest.mark.parametrize("measure", [spearman, ssim])
def test_maps_of_two_shapes_are_not_compared(measure: object) -> None:
    with pytest.raises(ValueError, match=r"\(8, 8\) and \(8, 9\)"):
        measure(np.ones((8, 8)), np.ones((8, 9)))  # type: ignore[operator]
    with pytest.raises(ValueError, match="at least"):
        measure(np.ones(0), np.ones(0))  # type: ignore[operator]
