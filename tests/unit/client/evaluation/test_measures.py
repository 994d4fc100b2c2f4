"""Measures of linear models, whose values are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from saliency_client._errors import OptionError
from saliency_client.evaluation import perturbation, road
from saliency_client.evaluation.completeness_gap import CompletenessSettings, completeness_gap
from saliency_client.evaluation.controls import random_map, sobel
from saliency_client.evaluation.curves import CurveSettings, auc
from saliency_client.evaluation.deletion import deletion
from saliency_client.evaluation.faithfulness_correlation import (
    FaithfulnessSettings,
    faithfulness_correlation,
)
from saliency_client.evaluation.insertion import insertion
from saliency_client.evaluation.max_sensitivity import SensitivitySettings, max_sensitivity
from saliency_client.evaluation.measure import Predictions, UndefinedMeasure
from saliency_client.evaluation.random_logit import RandomLogitSettings, other_class, random_logit
from saliency_client.evaluation.registry import MEASURES
from saliency_client.evaluation.sparseness import SparsenessSettings, gini, sparseness

HEIGHT, WIDTH, CLASSES = 7, 6, 3
PIXELS = HEIGHT * WIDTH
WEIGHTS = np.random.default_rng(5).normal(size=(CLASSES, HEIGHT, WIDTH, 3))
IMAGE = np.random.default_rng(6).uniform(0.1, 1, (HEIGHT, WIDTH, 3))


def scores(images: np.ndarray) -> np.ndarray:
    return np.einsum("bhwc,khwc->bk", np.asarray(images, np.float64), WEIGHTS)


def predict(images: np.ndarray) -> Predictions:
    logits = scores(images)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Predictions(logits, exponents / exponents.sum(axis=1, keepdims=True))


def shares(image: np.ndarray, class_index: int) -> np.ndarray:
    """Gradient × input, summed over channels: each pixel's share of the linear score."""
    return (WEIGHTS[class_index] * image).sum(axis=-1)


def score_only(images: np.ndarray) -> Predictions:
    return Predictions(scores(images), None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 1, 1], 1), ([1, 0], 0.5), ([4, 2, 0], 2), ([1, 0, 0, 0, 0], 1 / 8), ([0, 1, 1], 0.75)],
)
def test_an_area_is_that_of_the_trapezoids(values: list[float], expected: float) -> None:
    assert auc(values) == expected


def test_an_area_of_one_value_is_refused() -> None:
    with pytest.raises(OptionError, match="2 values or more, not of 1"):
        auc([1.0])


@pytest.mark.parametrize("class_index", range(CLASSES))
def test_deletion_of_a_linear_score_is_the_sum_of_what_is_left(class_index: int) -> None:
    map_ = shares(IMAGE, class_index)
    left = np.concatenate([[0.0], np.cumsum(np.sort(map_.ravel()))])[::-1]
    settings = CurveSettings(class_index, steps=PIXELS, quantity="score")
    found = deletion(predict, None, IMAGE, map_, settings)
    assert found.value == pytest.approx((left.sum() - left[0] / 2 - left[-1] / 2) / PIXELS, rel=1e-12)
    assert [y for _, y in found.curve] == pytest.approx(left, abs=1e-12)
    assert found.predictions == PIXELS + 1


def test_no_order_deletes_a_linear_score_faster_than_that_of_its_shares() -> None:
    settings = CurveSettings(1, steps=PIXELS, quantity="score")
    best = deletion(predict, None, IMAGE, shares(IMAGE, 1), settings).value
    generator = np.random.default_rng(0)
    others = [
        deletion(predict, None, IMAGE, generator.random((HEIGHT, WIDTH)), settings).value for _ in range(50)
    ]
    assert best < min(others)


def test_insertion_runs_deletions_path_of_the_opposite_map_backwards() -> None:
    map_ = shares(IMAGE, 2)
    settings = CurveSettings(2, steps=PIXELS)
    added = insertion(predict, None, IMAGE, map_, settings)
    removed = deletion(predict, None, IMAGE, -map_, settings)
    assert added.value == pytest.approx(removed.value, rel=1e-12)
    assert added.curve[-1][1] == pytest.approx(predict(IMAGE[None]).probabilities[0, 2], rel=1e-12)


def test_the_class_is_that_of_the_whole_image_at_either_end_of_the_path() -> None:
    expected = int(scores(IMAGE[None])[0].argmax())
    for measure in (deletion, insertion):
        found = measure(predict, None, IMAGE, shares(IMAGE, 0), CurveSettings())
        assert found.class_index == found.settings["class_index"] == expected


def test_a_constant_map_is_as_good_as_a_random_order_in_the_mean() -> None:
    """A linear score falls in a random order along a straight line in the mean."""
    values = [
        deletion(
            predict,
            None,
            IMAGE,
            np.ones((HEIGHT, WIDTH)),
            CurveSettings(1, steps=PIXELS, quantity="score", seed=seed),
        ).value
        for seed in range(400)
    ]
    half = scores(IMAGE[None])[0, 1] / 2
    assert np.mean(values) == pytest.approx(half, abs=4 * np.std(values) / math.sqrt(400))
    assert np.std(values) > 0
    map_ = np.ones((HEIGHT, WIDTH))
    assert "constant" in (deletion(predict, None, IMAGE, map_, CurveSettings()).note or "")


def test_faithfulness_correlation_of_a_linear_model_is_1() -> None:
    for class_index in range(CLASSES):
        settings = FaithfulnessSettings(class_index, subset_size=5, runs=30)
        found = faithfulness_correlation(predict, None, IMAGE, shares(IMAGE, class_index), settings)
        assert found.value == pytest.approx(1, abs=1e-9)
        assert found.predictions == 31
        opposite = faithfulness_correlation(predict, None, IMAGE, -shares(IMAGE, class_index), settings)
        assert opposite.value == pytest.approx(-1, abs=1e-9)


def test_faithfulness_correlation_over_the_mean_is_of_shares_beside_the_mean() -> None:
    mean = IMAGE.mean(axis=(0, 1))
    map_ = (WEIGHTS[0] * (IMAGE - mean)).sum(axis=-1)
    settings = FaithfulnessSettings(0, "mean", subset_size=5)
    assert faithfulness_correlation(predict, None, IMAGE, map_, settings).value == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e9])
def test_faithfulness_correlation_of_a_constant_map_is_undefined(level: float) -> None:
    settings = FaithfulnessSettings(0, subset_size=5)
    found = faithfulness_correlation(predict, None, IMAGE, np.full((HEIGHT, WIDTH), level), settings)
    assert math.isnan(found.value)
    assert "same sum" in (found.note or "")
    assert found.to_json()["value"] is None


def test_faithfulness_correlation_of_a_score_that_never_changes_is_undefined() -> None:
    still = lambda images: Predictions(np.ones((len(images), 2)), None)  # noqa: E731
    found = faithfulness_correlation(
        still, None, IMAGE, shares(IMAGE, 0), FaithfulnessSettings(0, subset_size=5)
    )
    assert math.isnan(found.value)
    assert "changes by the same amount" in (found.note or "")


def test_a_subset_of_all_pixels_is_refused() -> None:
    with pytest.raises(OptionError, match=f"subset_size is 224.*1 to {PIXELS - 1}"):
        faithfulness_correlation(predict, None, IMAGE, shares(IMAGE, 0), FaithfulnessSettings())


def test_completeness_of_a_linear_models_shares_is_0() -> None:
    found = completeness_gap(predict, None, IMAGE, shares(IMAGE, 1), CompletenessSettings(1))
    assert found.value == pytest.approx(0, abs=1e-12)
    half = completeness_gap(predict, None, IMAGE, shares(IMAGE, 1) / 2, CompletenessSettings(1))
    assert half.value == pytest.approx(0.5, rel=1e-12)
    map_ = (WEIGHTS[1] * (IMAGE - 0.25)).sum(axis=-1)
    assert completeness_gap(predict, None, IMAGE, map_, CompletenessSettings(1, 0.25)).value < 1e-12


def test_completeness_beside_the_image_itself_is_undefined() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 3, np.uint8)
    found = completeness_gap(predict, None, image, shares(image, 1), CompletenessSettings(1, 3))
    assert math.isnan(found.value)
    assert "same score" in (found.note or "")
    with pytest.raises(OptionError, match=r"127\.5.*whole levels"):
        completeness_gap(predict, None, image, shares(image, 1), CompletenessSettings(1, 127.5))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 1, 1, 1], 0), ([0, 0, 0, 5], 3 / 4), ([0, 0, 1, -1], 1 / 2), ([1, 2, 3], 2 / 9)],
)
def test_gini_by_hand(values: list[float], expected: float) -> None:
    assert gini(np.array(values)) == pytest.approx(expected, abs=1e-15)


def test_sparseness_of_no_map_is_undefined_and_of_a_constant_one_a_noted_0() -> None:
    nothing = sparseness(predict, None, IMAGE, np.zeros((HEIGHT, WIDTH)), SparsenessSettings())
    assert math.isnan(nothing.value)
    assert nothing.note
    constant = sparseness(predict, None, IMAGE, np.full((HEIGHT, WIDTH), 0.1), SparsenessSettings())
    assert constant.value == 0
    assert constant.note == "the map is constant"


def test_max_sensitivity_of_a_map_that_is_its_image() -> None:
    """Φ(x) = x: the change is that of the noise, which is uniform in ± radius · range."""

    def explain(images: np.ndarray, class_index: int) -> np.ndarray:
        assert class_index == 2
        return images[..., 0]

    settings = SensitivitySettings(2, draws=200, radius=0.1)
    found = max_sensitivity(predict, explain, IMAGE, IMAGE[..., 0], settings)
    reach = 0.1 * np.ptp(IMAGE)
    norm = np.linalg.norm(IMAGE[..., 0])
    # ‖uniform noise‖ over n values is reach · √(n/3) in the mean; its largest is no more than reach · √n.
    assert reach * math.sqrt(PIXELS / 3) / norm < found.value < reach * math.sqrt(PIXELS) / norm
    assert found.explanations == 200
    still = max_sensitivity(
        predict, lambda i, c: np.ones((len(i), HEIGHT, WIDTH)), IMAGE, np.ones((HEIGHT, WIDTH)), settings
    )
    assert still.value == 0


def test_max_sensitivity_of_a_zero_map_is_undefined() -> None:
    found = max_sensitivity(
        predict,
        lambda i, c: np.zeros((len(i), HEIGHT, WIDTH)),
        IMAGE,
        np.zeros((HEIGHT, WIDTH)),
        SensitivitySettings(),
    )
    assert math.isnan(found.value)
    assert "0 everywhere" in (found.note or "")


def test_noise_on_uint8_images_stays_in_their_range() -> None:
    from saliency_client.evaluation.max_sensitivity import near

    image = np.array([[[0], [255], [100]]], np.uint8)
    drawn = near(image, SensitivitySettings(draws=500, radius=0.02))
    assert drawn.dtype == np.uint8
    assert (drawn[:, 0, 0] <= 5).all()
    assert (drawn[:, 0, 1] >= 250).all()
    assert set(np.unique(drawn[:, 0, 2])) == set(range(95, 106))


@pytest.mark.parametrize("similarity", ["spearman", "ssim"])
def test_random_logit_of_maps_that_ignore_the_class_is_1(similarity: str) -> None:
    image = np.random.default_rng(0).random((12, 12, 3))
    weights = np.random.default_rng(1).normal(size=(3, 432))
    ask = lambda images: Predictions(images.reshape(len(images), -1) @ weights.T, None)  # noqa: E731
    settings = RandomLogitSettings(similarity=similarity)  # type: ignore[arg-type]
    edges = random_logit(ask, sobel, image, sobel(image[None])[0], settings)
    assert edges.value == pytest.approx(1, abs=1e-12)
    assert edges.settings["other_class"] != edges.class_index
    chance = random_logit(ask, random_map, image, random_map(image[None], edges.class_index)[0], settings)
    assert abs(chance.value) < 4 / 12


def test_another_class_is_any_of_the_others() -> None:
    assert {other_class(1, 3, seed) for seed in range(50)} == {0, 2}


def test_one_class_has_no_other() -> None:
    one = lambda images: Predictions(np.zeros((len(images), 1)), np.ones((len(images), 1)))  # noqa: E731
    with pytest.raises(UndefinedMeasure, match="no other one"):
        random_logit(one, sobel, IMAGE, shares(IMAGE, 0), RandomLogitSettings())
    with pytest.raises(UndefinedMeasure, match="one class, whose probability is 1"):
        deletion(one, None, IMAGE, shares(IMAGE, 0), CurveSettings())


def test_a_model_without_probabilities_says_so() -> None:
    for measure, settings in (
        (deletion, CurveSettings()),
        (insertion, CurveSettings()),
        (road.road, road.RoadSettings()),
    ):
        with pytest.raises(UndefinedMeasure, match="no probabilities") as raised:
            measure(score_only, None, IMAGE, shares(IMAGE, 0), settings)
        assert "quantity=score" in (raised.value.hint or "")
    no_scores = lambda images: Predictions(None, predict(images).probabilities)  # noqa: E731
    with pytest.raises(UndefinedMeasure, match="no scores"):
        completeness_gap(no_scores, None, IMAGE, shares(IMAGE, 0), CompletenessSettings())


@pytest.mark.parametrize("name", MEASURES)
def test_a_map_that_is_not_the_images_is_refused(name: str) -> None:
    measure = MEASURES[name]
    settings = measure.settings(**dict(measure.defaults))
    with pytest.raises(OptionError, match=r"the map is \[2, 2\]"):
        measure.function(predict, sobel, IMAGE, np.zeros((2, 2)), settings)
    bad = np.full((HEIGHT, WIDTH), np.nan)
    with pytest.raises(OptionError, match="not finite"):
        measure.function(predict, sobel, IMAGE, bad, settings)


@pytest.mark.parametrize("removed_share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_road_imputes_is_the_solution_of_the_dense_system(removed_share: float, channels: int) -> None:
    generator = np.random.default_rng(3)
    image = generator.random((9, 8, channels))
    removed = generator.random((9, 8)) < removed_share
    removed[0, 0] = True
    removed[4, 4] = False
    expected = image.copy()
    at = [tuple(place) for place in np.argwhere(removed)]
    system, right = np.zeros((len(at), len(at))), np.zeros((len(at), channels))
    for row, (y, x) in enumerate(at):
        around = [
            ((y + dy, x + dx), (1 / 6, 1 / 12)[abs(dy) + abs(dx) - 1])
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy or dx) and 0 <= y + dy < 9 and 0 <= x + dx < 8
        ]
        total = sum(weight for _, weight in around)
        system[row, row] = 1
        for place, weight in around:
            if removed[place]:
                system[row, at.index(place)] -= weight / total
            else:
                right[row] += weight / total * image[place]
    for place, values in zip(at, np.linalg.solve(system, right), strict=True):
        expected[place] = values
    assert road.imputed(image, removed) == pytest.approx(expected, abs=1e-12)


def test_road_is_the_mean_over_percentages_without_the_whole_image() -> None:
    def predict(images: np.ndarray) -> Predictions:
        return Predictions(np.array([[9.0], [1.0], [2.0], [6.0]])[: len(images)], None)

    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    found = road.road(
        predict, None, image, image[..., 0], road.RoadSettings(percentages=(20, 40, 80), quantity="score")
    )
    assert found.value == pytest.approx((1 + 2 + 6) / 3)
    assert found.curve == ((0, 9), (0.2, 1), (0.4, 2), (0.8, 6))


def test_road_of_one_color_changes_nothing_without_noise() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    settings = road.RoadSettings(1, noise=0, quantity="score")
    found = road.road(predict, None, image, shares(image, 1), settings)
    assert found.value == pytest.approx(scores(image[None])[0, 1], rel=1e-12)
    assert [x for x, _ in found.curve] == pytest.approx(np.arange(10) / 10)


def test_road_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(road.RoadUnavailable) as raised:
        road.road(predict, None, IMAGE, shares(IMAGE, 0), road.RoadSettings())
    assert "saliency-serving[evaluation]" in (raised.value.hint or "")


def test_the_blur_is_rises() -> None:
    """`gkern` of RISE's evaluation.py, and its conv2d with zeros beyond the edges."""
    from scipy.ndimage import gaussian_filter
    from scipy.signal import correlate2d

    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = gaussian_filter(point, 5)
    assert np.outer(perturbation.blur_kernel(), perturbation.blur_kernel()) == pytest.approx(
        kernel, abs=1e-15
    )
    image = np.random.default_rng(2).normal(size=(20, 17, 2)).astype(np.float64)
    expected = np.stack([correlate2d(image[..., c], kernel, "same") for c in range(2)], axis=-1)
    assert perturbation.substrate(image, "blur") == pytest.approx(expected, abs=1e-12)
    flat = np.full((20, 17, 3), (10, 200, 30), np.uint8)
    assert (perturbation.substrate(flat, "blur") == flat).all()


@pytest.mark.parametrize("steps", [1, 3, 14, 42])
def test_rises_published_loop_gives_the_same_curves(steps: int) -> None:
    """`CausalMetric.single_run` of RISE, with its step in pixels."""
    map_ = shares(IMAGE, 1)
    step = PIXELS // steps
    ranked = np.flip(np.argsort(map_.reshape(-1), axis=-1), axis=-1)
    for measure, start, finish in (
        (deletion, IMAGE, perturbation.substrate(IMAGE, "blur")),
        (insertion, perturbation.substrate(IMAGE, "blur"), IMAGE),
    ):
        now, heights = start.copy().reshape(PIXELS, 3), []
        for i in range(PIXELS // step + 1):
            heights.append(predict(now.reshape(1, *IMAGE.shape)).probabilities[0, 1])
            coordinates = ranked[step * i : step * (i + 1)]
            now[coordinates] = finish.reshape(PIXELS, 3)[coordinates]
        area = (np.sum(heights) - heights[0] / 2 - heights[-1] / 2) / (len(heights) - 1)
        found = measure(predict, None, IMAGE, map_, CurveSettings(1, "blur", steps))
        assert found.value == pytest.approx(area, abs=1e-12)


def test_the_edge_detector_finds_a_step_alone() -> None:
    images = np.zeros((1, 5, 6, 3))
    images[:, :, 3:] = 9
    found = sobel(images)[0]
    assert (found[:, 2:4] == 36).all()
    assert found.sum() == 36 * 10


def test_settings_are_part_of_a_result() -> None:
    found = deletion(predict, None, IMAGE, shares(IMAGE, 0), CurveSettings(steps=7, substrate="mean", seed=3))
    assert found.to_json()["settings"] == {
        "class_index": found.class_index,
        "substrate": "mean",
        "steps": 7,
        "quantity": "probability",
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CurveSettings(steps=0), "steps is 0; it must be a whole number, 1 or above"),
        (lambda: CurveSettings(substrate="white"), "substrate is 'white'; it is one of black, mean, blur"),  # type: ignore[arg-type]
        (lambda: road.RoadSettings(percentages=(50, 100)), "each must be above 0 and below 100"),
        (lambda: SensitivitySettings(radius=0), "radius is 0; it must be finite and above 0"),
        (lambda: FaithfulnessSettings(runs=2), "runs is 2"),
        (lambda: RandomLogitSettings(similarity="cosine"), "similarity is 'cosine'"),  # type: ignore[arg-type]
    ],
)
def test_a_setting_out_of_range_names_its_bound(make: object, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make()  # type: ignore[operator]
