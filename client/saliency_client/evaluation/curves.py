"""The quantity of a class along a path of images, and the area under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saliency_client._errors import OptionError
from saliency_client.evaluation.measure import (
    CONSTANT,
    Array,
    Predict,
    Quantity,
    Result,
    check_choice,
    check_whole,
    checked_map,
    class_of,
    is_constant,
    quantity_of,
    result,
)
from saliency_client.evaluation.perturbation import SUBSTRATES, Substrate, counts, order, replaced, substrate

QUANTITIES = ("probability", "score")


@dataclass(frozen=True)
class CurveSettings:
    """What a curve of removed or added pixels depends on.

    Attributes:
        class_index: the class; None is the one that is predicted for the image.
        substrate: what stands in place of a removed pixel: "black", "mean" or "blur".
        steps: into how many equal parts the pixels are cut; RISE takes 224 pixels at a time, which is 224 of
            an image of 224 × 224.
        quantity: "probability", or the "score" (logit).
        seed: of the order of pixels that are equally salient.
    """

    class_index: int | None = None
    substrate: Substrate = "black"
    steps: int = 10
    quantity: Quantity = "probability"
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1)
        check_whole("seed", self.seed, 0)
        check_choice("substrate", self.substrate, SUBSTRATES)
        check_choice("quantity", self.quantity, QUANTITIES)


def auc(values: npt.ArrayLike) -> float:
    """(Σ − first/2 − last/2)/(n − 1) of n values: the area under them by the trapezoidal rule, over 0..1.

    Raises:
        OptionError: there are fewer than 2.
    """
    heights = np.asarray(values, np.float64)
    if heights.size < 2:
        raise OptionError(f"an area is of 2 values or more, not of {heights.size}")
    return float((heights.sum() - heights[0] / 2 - heights[-1] / 2) / (heights.size - 1))


def area(
    measure: str, predict: Predict, image: Array, values: Array, settings: CurveSettings, *, adds: bool
) -> Result:
    """The area under the quantity while pixels are removed from the image, or added to the substrate."""
    saliency = checked_map(image, values)
    check_whole("steps", settings.steps, 1, saliency.size)
    empty = substrate(image, settings.substrate)
    numbers = counts(saliency.size, settings.steps)
    start, end = (empty, image) if adds else (image, empty)
    path = replaced(start, end, order(saliency, settings.seed), numbers)
    answer = predict(path)
    class_index = class_of(answer, settings.class_index, clean=-1 if adds else 0)
    heights = quantity_of(answer, settings.quantity, class_index)
    return result(
        measure,
        auc(heights),
        class_index,
        settings,
        predictions=len(path),
        curve=points(numbers / saliency.size, heights),
        note=CONSTANT + ", and a random one is taken" if is_constant(saliency) else None,
    )


def points(x: Array, y: Array) -> tuple[tuple[float, float], ...]:
    """A curve as pairs of Python's own numbers."""
    pairs: Sequence[tuple[float, float]] = list(zip(x.tolist(), y.tolist(), strict=True))
    return tuple(pairs)
