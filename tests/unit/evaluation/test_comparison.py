"""How much two maps differ, and which classes and methods of two versions are the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_manifest import EXPORT

from saliency_exporter.errors import ExportError
from saliency_exporter.evaluation.comparison import (
    Answers,
    ImageComparison,
    Prediction,
    common_methods,
    compared,
    constant_notes,
    difference,
    moved,
    same_class,
    shared_parameters,
    top_overlap,
)
from saliency_exporter.version.manifest import MethodEntry, ParameterEntry

rng = np.random.default_rng(5)


def test_equal_maps_do_not_differ_whatever_their_scale() -> None:
    one = rng.gamma(1, size=(20, 30))
    found = difference(one, 7 * one)
    assert (found.spearman, found.ssim, found.top_overlap) == pytest.approx((1, 1, 1))
    assert max(map(abs, found.moved.values())) < 1e-12


def test_the_overlap_of_the_largest_tenth_is_counted() -> None:
    a, b = np.zeros((10, 10)), np.zeros((10, 10))
    # The 10 largest of a are the last row; of b, four of these and six others.
    a[9], b[9, :4], b[5, :6] = 1, 2, 2
    assert top_overlap(a, b) == pytest.approx(0.4)


def test_random_maps_share_a_tenth_of_the_largest_tenth() -> None:
    shares = [top_overlap(*rng.random((2, 40, 40))) for _ in range(200)]
    # Hypergeometric: mean 0.1, standard deviation 0.023 of one.
    assert np.mean(shares) == pytest.approx(0.1, abs=4 * 0.023 / np.sqrt(200))


def test_what_moved_is_a_share_of_the_sum() -> None:
    a, b = np.zeros((9, 9)), np.zeros((9, 9))
    a[0, 0], a[4, 4] = 3, 1
    b[8, 8], b[4, 4] = 1, 1
    expected = {"top left": -0.75, "middle centre": 0.25, "bottom right": 0.5}
    assert {place: share for place, share in moved(a, b).items() if share} == pytest.approx(expected)


def test_a_map_without_an_order_has_no_numbers_rather_than_zeros() -> None:
    for constant in (np.zeros((9, 9)), np.full((9, 9), 3.0)):
        found = difference(constant, rng.random((9, 9)))
        assert (found.spearman, found.ssim, found.top_overlap) == (None, None, None)
    assert difference(np.zeros((9, 9)), rng.random((9, 9))).moved == {}


def one_image(*probabilities: float | None, classes: tuple[int, int] = (3, 3)) -> ImageComparison:
    """One image of two versions without names of classes; the second one's map is the same everywhere."""
    manifests = tuple(replace(EXPORT, classes=number, labels=None) for number in classes)
    maps = [rng.random((1, 9, 9)), np.ones((1, 9, 9))]
    answers = tuple(
        Answers([Prediction(0, None, probability)], [0], {"gradients": one.astype(np.float32)})
        for probability, one in zip(probabilities, maps, strict=True)
    )
    return compared(["cat"], (manifests[0], manifests[1]), (answers[0], answers[1]))[0]


def test_a_map_that_is_not_compared_has_a_sentence() -> None:
    assert constant_notes([one_image(0.5, 0.5)]) == [
        "gradients: on 1 of 1 images a map is the same everywhere, and is not compared"
    ]


def test_it_is_not_said_that_a_class_changed_where_nothing_tells_which_it_is() -> None:
    assert one_image(0.5, None).changed is False
    assert one_image(0.5, 0.5, classes=(3, 1)).changed is None


def test_maps_of_pictures_of_two_sizes_are_compared_at_the_larger_one() -> None:
    rows, columns = np.mgrid[0:1:64j, 0:1:64j]
    large = np.exp(-20 * ((rows - 0.3) ** 2 + (columns - 0.6) ** 2))
    small = large.reshape(16, 4, 16, 4).mean((1, 3))
    assert (difference(small, large).spearman or 0) > 0.99
    assert (difference(large, small.T).spearman or 0) < 0.9


def test_classes_are_matched_by_name_and_else_by_number() -> None:
    three = replace(EXPORT, classes=3, labels=("ant", "bee", "cat"))
    other = replace(three, labels=("cat", "ant", "dog"))
    assert [same_class(index, three, other) for index in range(3)] == [1, None, 0]
    unnamed = replace(three, labels=None)
    assert [same_class(index, three, unnamed) for index in range(3)] == [0, 1, 2]
    assert same_class(0, unnamed, replace(unnamed, classes=4)) is None


def test_methods_that_one_version_lacks_are_noted_and_refused_where_asked_for() -> None:
    entry = MethodEntry("sensitivity", "gradients")
    first = replace(EXPORT, methods={"gradients": entry, "guided": entry})
    second = replace(first, methods={"gradients": entry, "smooth": entry})
    names, notes = common_methods(first, second, [])
    assert names == ["gradients"]
    assert notes == ["guided is in the first version alone", "smooth is in the second version alone"]
    with pytest.raises(ExportError, match="'guided'") as error:
        common_methods(first, second, ["guided"])
    assert error.value.hint == "they have gradients in common"
    with pytest.raises(ExportError, match="no method in common: gradients, guided and rise"):
        common_methods(first, replace(first, methods={"rise": entry}), [])


def test_both_versions_are_asked_with_values_that_both_take() -> None:
    def entry(default: int, high: int) -> MethodEntry:
        return MethodEntry("sensitivity", "m", (ParameterEntry("num_samples", "int32", default, 1, high),))

    assert shared_parameters(entry(50, 1000), entry(20, 30)) == {"num_samples": 30}
    assert shared_parameters(entry(50, 1000), MethodEntry("sensitivity", "m")) == {}
