"""Max-sensitivity (Yeh et al. 2019, arXiv 1901.09392, definition 1): how much a map changes near an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saliency_client.evaluation.measure import (
    Array,
    Explain,
    Predict,
    Result,
    UndefinedMeasure,
    as_input,
    check_positive,
    check_whole,
    checked_map,
    class_of,
    result,
    value_range,
)

NAME = "max_sensitivity"


@dataclass(frozen=True)
class SensitivitySettings:
    """What max-sensitivity depends on.

    Attributes:
        class_index: the class; None is the one that is predicted for the image, and it stays the same for all
            draws.
        draws: how many images near it are explained; 10 is captum's default, 200 is Quantus'.
        radius: the largest change of a value, as a share of the range of an image's values: 255 for uint8,
            that of the image's own values for float32. 0.02 is captum's default, 0.2 is Quantus'.
        seed: of the draws.
    """

    class_index: int | None = None
    draws: int = 10
    radius: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("draws", self.draws, 1)
        check_whole("seed", self.seed, 0)
        check_positive("radius", self.radius)


def near(image: Array, settings: SensitivitySettings) -> Array:
    """[draws, …] of the image's dtype: the image plus noise that is uniform in ± radius · range."""
    generator = np.random.default_rng(settings.seed)
    reach = settings.radius * value_range(image)
    noise = generator.uniform(-reach, reach, (settings.draws, *image.shape))
    return as_input(np.asarray(image, np.float64) + noise, image.dtype)


def max_sensitivity(
    predict: Predict, explain: Explain | None, image: Array, values: Array, settings: SensitivitySettings
) -> Result:
    """The largest relative change of a map in a ball around the image; lower is better.

        max over draws of ‖Φ(x + δ) − Φ(x)‖₂ / ‖Φ(x)‖₂,  |δ| ≤ r in every value

    Pitfalls: defaults of libraries differ ten times in the radius and twenty times in the number of draws, so
    never compare across tools; more draws give a larger maximum. A map that does not depend on the image, as
    an edge detector nearly does not, is stable and tells nothing. Images of uint8 are rounded and bounded.

    Args:
        predict: asked for the class of the image, where none is given.
        explain: images and a class to maps [N, H, W].
        image: [H, W, C] or [H, W], as the model takes it.
        values: [H, W], the map of the image itself.
        settings: what the value depends on.

    Returns:
        The ratio, 0 or above; NaN with a note where the map is 0 everywhere.

    Raises:
        UndefinedMeasure: there is no `explain`.
        OptionError: the map or a setting does not fit.
    """
    if explain is None:
        raise UndefinedMeasure("max-sensitivity explains images near the given one, and there is no explain")
    saliency = checked_map(image, values)
    asks = settings.class_index is None
    class_index = class_of(predict(image[None]), None) if asks else int(settings.class_index or 0)
    norm = float(np.linalg.norm(saliency))
    if norm == 0:
        note = "the map is 0 everywhere: a change has nothing to relate to"
        return result(NAME, float("nan"), class_index, settings, predictions=int(asks), note=note)
    maps = np.asarray(explain(near(image, settings), class_index), np.float64)
    changes = np.linalg.norm((maps - saliency).reshape(settings.draws, -1), axis=1)
    return result(
        NAME,
        float(changes.max() / norm),
        class_index,
        settings,
        predictions=int(asks),
        explanations=settings.draws,
    )
