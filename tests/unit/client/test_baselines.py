"""Explanations with several baselines are averaged so that what their outputs mean stays true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from saliency_client import Explanation, InputError, baselines

WEIGHTS = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)


def linear(images: np.ndarray, baseline: float, **changed: Any) -> Explanation:
    """Integrated gradients of a linear score, exact but for a percent that is added: w (x - x')."""
    given = images.astype(np.float32)
    shares = WEIGHTS * (given - baseline) * np.float32(1.01)
    outputs = {
        "attributions": shares,
        "saliency": np.abs(shares.sum(axis=-1)),
        "score": (given * WEIGHTS).sum(axis=(1, 2, 3)),
        "baseline_score": np.full(len(images), baseline * WEIGHTS.sum(), np.float32),
        "completeness_error": np.full(len(images), 0.01, np.float32),
        "class_index": np.arange(len(images), dtype=np.int32),
        "label": np.array([b"cat"] * len(images), object),
        "steps_used": np.full(len(images), 20, np.int32),
        **changed,
    }
    return Explanation(outputs, method="m", model="linear", version=3, offered=outputs)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3), np.uint8)


def test_the_average_of_black_and_white_is_complete_beside_the_mean_of_their_scores(
    images: np.ndarray,
) -> None:
    # What the two say of themselves is not what the average has to say.
    alone = np.full(2, 0.5, np.float32)
    both = [linear(images, 0, completeness_error=alone), linear(images, 255, completeness_error=alone)]
    one = baselines.average(both)
    shares = WEIGHTS * (images - 127.5) * 1.01
    np.testing.assert_allclose(one["attributions"], shares, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(one.saliency, np.abs(shares.sum(axis=-1)), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(one["baseline_score"], 127.5 * WEIGHTS.sum(), rtol=1e-5)
    np.testing.assert_allclose(one["completeness_error"], 0.01, rtol=1e-3)
    assert (one.version, one.method, one.model) == (3, "m", "linear")
    np.testing.assert_array_equal(one.class_index, [0, 1])
    assert one.class_index.dtype == np.int32
    assert one.label.tolist() == ["cat", "cat"]
    np.testing.assert_array_equal(one["steps_used"], 20)


def test_saliency_is_taken_of_the_average_and_is_not_the_average_of_two(images: np.ndarray) -> None:
    both = [linear(images, 0), linear(images, 255)]
    one = baselines.average(both)
    assert not np.allclose(one.saliency, (both[0].saliency + both[1].saliency) / 2, rtol=0.05)


def test_gradients_keep_the_largest_magnitude_and_maps_without_signs_are_averaged() -> None:
    draw = np.random.default_rng(2)
    gradients = draw.normal(size=(2, 1, 4, 5, 3)).astype(np.float32)
    of_gradients = [
        Explanation({"gradients": one, "saliency": np.abs(one).max(axis=-1)}, method="m", model="l")
        for one in gradients
    ]
    np.testing.assert_allclose(
        baselines.average(of_gradients).saliency, np.abs(gradients.mean(axis=0)).max(axis=-1), rtol=1e-6
    )
    cams = [Explanation({"saliency": np.abs(one[..., 0])}, method="m", model="l") for one in gradients]
    np.testing.assert_allclose(
        baselines.average(cams).saliency, np.abs(gradients[..., 0]).mean(axis=0), rtol=1e-6
    )


def test_images_without_channels_have_a_saliency_of_their_own_size() -> None:
    shares = np.random.default_rng(3).normal(size=(2, 1, 4, 5)).astype(np.float32)
    both = [
        Explanation({"attributions": one, "saliency": np.abs(one)}, method="m", model="l", channels=False)
        for one in shares
    ]
    np.testing.assert_allclose(baselines.average(both).saliency, np.abs(shares.mean(axis=0)), rtol=1e-6)


def test_one_explanation_is_its_own_average(images: np.ndarray) -> None:
    only = linear(images, 0)
    assert baselines.average([only]) is only


def test_what_is_not_of_the_same_has_no_average(images: np.ndarray) -> None:
    first = linear(images, 0)
    with pytest.raises(InputError, match="differ in class_index"):
        baselines.average([first, linear(images, 255, class_index=np.array([0, 3], np.int32))])
    with pytest.raises(InputError, match="different images"):
        baselines.average([first, linear(images[:1], 255)])
    other = linear(images, 255)
    other.version = 4
    with pytest.raises(InputError, match="by version 3 and 4 have no average"):
        baselines.average([first, other])
    lacking = [
        Explanation(
            {"saliency": np.full((1, 2, 2), value)},
            method="m",
            model="l",
            offered=["attributions", "saliency"],
        )
        for value in (1.0, 2.0)
    ]
    with pytest.raises(InputError, match="attributions, of which it is taken, did not come") as error:
        baselines.average(lacking)
    assert error.value.hint == "explain(…, outputs=['attributions'])"
    with pytest.raises(InputError, match="no explanation"):
        baselines.average([])


def test_gray_levels_have_names_and_are_kept_once_in_order() -> None:
    assert baselines.gray_levels(["white", 0, "black", "grey", "gray", 12.5]) == (255, 0, 127.5, 12.5)
    assert baselines.gray_levels("white") == baselines.gray_levels(255) == (255,)
    for wrong, message in (("pink", "none of black, white"), (float("nan"), "finite"), (None, "finite")):
        with pytest.raises(InputError, match=message):
            baselines.gray_levels([wrong])  # type: ignore[list-item]
    with pytest.raises(InputError, match="no baseline is given"):
        baselines.gray_levels([])
