"""Completeness (Sundararajan, Taly, Yan 2017, arXiv 1703.01365, prop. 1): do shares sum to the score?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from saliency_client._errors import OptionError
from saliency_client.evaluation.measure import (
    Array,
    Explain,
    Predict,
    Result,
    checked_map,
    class_of,
    quantity_of,
    result,
)

NAME = "completeness_gap"


@dataclass(frozen=True)
class CompletenessSettings:
    """What the completeness gap depends on.

    Attributes:
        class_index: the class; None is the one that is predicted for the image.
        baseline: the level of the image that the shares are beside, in the images' own unit: that which the
            method was asked with.
    """

    class_index: int | None = None
    baseline: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.baseline):
            raise OptionError(f"baseline is {self.baseline}; it must be finite")


def completeness_gap(
    predict: Predict, explain: Explain | None, image: Array, values: Array, settings: CompletenessSettings
) -> Result:
    """How far a map's sum is from what the score has over that of the baseline; 0 is complete.

        | Σ φ − (S(x) − S(x′)) | / | S(x) − S(x′) |,  x′ the baseline

    Pitfall: it says something of methods alone that promise completeness, and of those whether they took
    enough steps, not whether the baseline is a sensible one.

    Args:
        predict: [N, …] images to predictions.
        explain: not used.
        image: [H, W, C] or [H, W], as the model takes it.
        values: [H, W], the attributions with their signs, summed over channels.
        settings: what the value depends on.

    Returns:
        The gap, 0 or above; NaN with a note where the image and the baseline have the same score.

    Raises:
        UndefinedMeasure: the model gives no scores.
        OptionError: the map does not fit, or the baseline is none that the model's images can have.
    """
    attributions = checked_map(image, values)
    baseline = np.full_like(image, settings.baseline if image.dtype != np.uint8 else 0)
    if image.dtype == np.uint8:
        if settings.baseline not in range(256):
            raise OptionError(
                f"baseline is {settings.baseline:g}; an image of uint8 has whole levels from 0 to 255",
                hint="ask for the method with a baseline that is one, such as 0 or 128",
            )
        baseline[...] = int(settings.baseline)
    answer = predict(np.stack([image, baseline]))
    class_index = class_of(answer, settings.class_index)
    score, beside = quantity_of(answer, "score", class_index)
    difference = float(score - beside)
    if difference == 0:
        note = "the image and the baseline have the same score: a gap has nothing to relate to"
        return result(NAME, float("nan"), class_index, settings, predictions=2, note=note)
    gap = abs(float(attributions.sum()) - difference) / abs(difference)
    return result(NAME, gap, class_index, settings, predictions=2)
