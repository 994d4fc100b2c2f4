"""Random logit (Sixt, Granz, Landgraf 2020, arXiv 1912.09818, §4): does the map of another class differ?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from saliency_client.evaluation.measure import (
    CONSTANT,
    Array,
    Explain,
    Predict,
    Result,
    UndefinedMeasure,
    check_choice,
    check_whole,
    checked_map,
    class_of,
    is_constant,
    result,
)
from saliency_client.evaluation.similarity import spearman, ssim

NAME = "random_logit"
Similarity = Literal["spearman", "ssim"]


@dataclass(frozen=True)
class RandomLogitSettings:
    """What random logit depends on.

    Attributes:
        class_index: the class; None is the one that is predicted for the image.
        similarity: "spearman", the correlation of ranks, or "ssim", with each map stretched to 0..1.
        seed: of the other class.
    """

    class_index: int | None = None
    similarity: Similarity = "spearman"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("similarity", self.similarity, ("spearman", "ssim"))
        check_whole("seed", self.seed, 0)


def other_class(class_index: int, classes: int, seed: int) -> int:
    """One of the other classes, each with the same chance."""
    drawn = int(np.random.default_rng(seed).integers(classes - 1))
    return drawn + (drawn >= class_index)


def random_logit(
    predict: Predict, explain: Explain | None, image: Array, values: Array, settings: RandomLogitSettings
) -> Result:
    """How alike the maps of a class and of a random other one are, of absolute values; lower is better.

    1 means that the class does not matter to the map, as with guided backpropagation or an edge detector.

    Pitfalls: the two maps may be alike for a good reason, as with two breeds in one picture, or in a model of
    two classes, where what raises one lowers the other; so look at the mean over many images. SSIM and
    Spearman do not compare.

    Args:
        predict: asked for the number of classes, and for the class of the image where none is given.
        explain: images and a class to maps [N, H, W].
        image: [H, W, C] or [H, W], as the model takes it.
        values: [H, W], the map of the class.
        settings: what the value depends on.

    Returns:
        The similarity, −1..1, with the other class under `other_class` in its settings; NaN with a note where
        a map is constant.

    Raises:
        UndefinedMeasure: the model has one class alone, or there is no `explain`.
        OptionError: the map or a setting does not fit.
    """
    if explain is None:
        raise UndefinedMeasure("random logit explains another class, and there is no explain")
    saliency = np.abs(checked_map(image, values))
    answer = predict(image[None])
    class_index = class_of(answer, settings.class_index)
    known = answer.scores if answer.scores is not None else answer.probabilities
    assert known is not None
    if known.shape[1] < 2:
        raise UndefinedMeasure("the model has one class: there is no other one to explain")
    other = other_class(class_index, known.shape[1], settings.seed)
    second = np.abs(checked_map(image, np.asarray(explain(image[None], other))[0]))
    note = CONSTANT if is_constant(saliency) or is_constant(second) else None
    if note is None and settings.similarity == "ssim":
        value = ssim(_stretched(saliency), _stretched(second), data_range=1.0)
        note = "the map is smaller than SSIM's window" if np.isnan(value) else None
    else:
        value = float("nan") if note else spearman(saliency, second)
    found = result(NAME, value, class_index, settings, predictions=1, explanations=1, note=note)
    found.settings["other_class"] = other
    return found


def _stretched(values: Array) -> Array:
    return np.asarray((values - values.min()) / np.ptp(values))
