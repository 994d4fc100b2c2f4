from __future__ import annotations

import math

import numpy as np
import pytest

from saliency_client.evaluation.statistics import compare, interval, summary


def test_the_interval_of_many_normal_values_is_that_of_theory() -> None:
    """±1.96 σ/√n of the mean."""
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_an_interval_holds_the_mean_in_its_share_of_cases() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        low, high = interval(generator.normal(0, 1, 30))
        held += low <= 0 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_one_value_has_no_interval_and_nan_is_counted() -> None:
    found = summary([2.0, math.nan])
    assert (found.mean, found.images, found.undefined) == (2.0, 1, 1)
    assert math.isnan(found.low)
    assert math.isnan(summary([math.nan]).mean)


def test_methods_are_compared_on_the_images_of_both() -> None:
    first = {"a": 1.0, "b": 2.0, "c": 3.0, "d": math.nan, "only": 9.0}
    second = {"a": 2.0, "b": 2.0, "c": 5.0, "d": 1.0}
    found = compare(first, second, better="lower")
    assert (found.difference, found.wins, found.ties, found.images) == (-1.0, 2, 1, 3)
    assert compare(first, second, better="higher").wins == 0


def test_a_difference_by_rounding_is_a_tie() -> None:
    """Rank correlations of maps that are alike come out as 1 or as 1 − 2⁻⁵³."""
    ones = {str(number): 1.0 for number in range(9)}
    below = dict.fromkeys(ones, 1 - 2 ** (-53))
    found = compare(below, ones, better="lower")
    assert (found.wins, found.ties, found.better, found.difference) == (0, 9, False, 0.0)


def test_better_means_that_the_whole_interval_is_on_that_side() -> None:
    low = {str(i): 0.1 * i for i in range(10)}
    high = {str(i): 0.1 * i + 1 + 0.01 * i for i in range(10)}
    assert compare(low, high, better="lower").better
    assert not compare(high, low, better="lower").better
    assert compare(high, low, better="higher").better
    assert not compare(high, low, better=None).better
    mixed = {str(i): 0.1 * i + (-1) ** i for i in range(10)}
    assert not compare(mixed, low, better="lower").better
