"""Deletion (Petsiuk, Das, Saenko 2018, arXiv 1806.07421, §4.2): how a class fades with its best pixels."""

from __future__ import annotations

from saliency_client.evaluation.curves import CurveSettings, area
from saliency_client.evaluation.measure import Array, Explain, Predict, Result

NAME = "deletion"


def deletion(
    predict: Predict, explain: Explain | None, image: Array, values: Array, settings: CurveSettings
) -> Result:
    """The area under the class probability while the most salient pixels are removed; lower is better.

    With p(k) the probability after k of n equal parts of the pixels are replaced by the substrate, the most
    salient first:

        AUC = (Σₖ p(k) − p(0)/2 − p(n)/2) / n

    Pitfalls: an image without its pixels is none that the model knows, so that a part of a drop is due to the
    substrate, and another substrate ranks methods otherwise; values of two substrates or numbers of steps do
    not compare. RISE replaces by 0 of its normalised images, which is their mean: of uint8 images that is
    "mean". The area depends on how sure the model was of the image, so compare methods on the same images.

    Args:
        predict: [N, …] images to predictions.
        explain: not used.
        image: [H, W, C] or [H, W], as the model takes it.
        values: [H, W], the map; of maps with signs, large means that a pixel speaks for the class.
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
        >>> from saliency_client.evaluation.deletion import deletion
        >>> from saliency_client.evaluation.measure import Predictions
        >>> def predict(images):
        ...     return Predictions(images.sum(axis=(1, 2, 3))[:, None], None)
        >>> image = np.array([[[3.0], [1.0]]], np.float32)
        >>> deletion(predict, None, image, image[..., 0], CurveSettings(steps=2, quantity="score")).value
        1.5
    """
    return area(NAME, predict, image, values, settings, adds=False)
