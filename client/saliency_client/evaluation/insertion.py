"""Insertion (Petsiuk, Das, Saenko 2018, arXiv 1806.07421, §4.2): a class appears with its best pixels."""

from __future__ import annotations

from saliency_client.evaluation.curves import CurveSettings, area
from saliency_client.evaluation.measure import Array, Explain, Predict, Result

NAME = "insertion"


def insertion(
    predict: Predict, explain: Explain | None, image: Array, values: Array, settings: CurveSettings
) -> Result:
    """The area under the class probability while the most salient pixels are added; higher is better.

    As deletion, from the substrate to the image: with p(k) the probability after k of n equal parts of the
    image's pixels are put into the substrate, AUC = (Σₖ p(k) − p(0)/2 − p(n)/2) / n. RISE starts from the
    image blurred by a kernel of 11 pixels, σ 5.

    Pitfalls: those of deletion; and a blur leaves what the model knows by its coarse shape, so that the curve
    may start high. Look at it.

    Args:
        predict: [N, …] images to predictions.
        explain: not used.
        image: [H, W, C] or [H, W], as the model takes it.
        values: [H, W], the map.
        settings: what the value depends on.

    Returns:
        The area, in units of the quantity, with the curve. A constant map gives that of a random order, and a
        note.

    Raises:
        UndefinedMeasure: the model has no such quantity, or one class alone, whose probability is always 1.
        OptionError: the map or a setting does not fit.

    Example:
        >>> import numpy as np
        >>> from saliency_client.evaluation.curves import CurveSettings
        >>> from saliency_client.evaluation.insertion import insertion
        >>> from saliency_client.evaluation.measure import Predictions
        >>> def predict(images):
        ...     return Predictions(images.sum(axis=(1, 2, 3))[:, None], None)
        >>> image = np.array([[[3.0], [1.0]]], np.float32)
        >>> insertion(predict, None, image, image[..., 0], CurveSettings(steps=2, quantity="score")).value
        2.5
    """
    return area(NAME, predict, image, values, settings, adds=True)
