"""Sparseness (Chalasani et al. 2020, arXiv 1810.06583, §2.2): the Gini index of a map's absolute values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saliency_client.evaluation.measure import (
    Array,
    Explain,
    Predict,
    Result,
    checked_map,
    class_of,
    is_constant,
    result,
)

NAME = "sparseness"


@dataclass(frozen=True)
class SparsenessSettings:
    """What sparseness depends on: the class whose map it is; None is the one that is predicted."""

    class_index: int | None = None


def gini(values: Array) -> float:
    """The Gini index of |values|: Σₖ (2k − n − 1) |v|₍ₖ₎ / (n Σ |v|), sorted up, k from 1; NaN of zeros."""
    sizes = np.sort(np.abs(np.asarray(values, np.float64)).ravel())
    total = sizes.sum()
    weights = 2.0 * np.arange(1, sizes.size + 1) - sizes.size - 1
    return float(weights @ sizes / (sizes.size * total)) if total > 0 else float("nan")


def sparseness(
    predict: Predict, explain: Explain | None, image: Array, values: Array, settings: SparsenessSettings
) -> Result:
    """How few pixels hold most of a map: the Gini index of |map|.

    It is 0 of a constant map and 1 − 1/n where one of n pixels has all.

    Pitfall: sparse is not right; a map of one random pixel is as sparse as can be. So neither end is better.
    Quantus adds 10⁻⁷ to every value first, which this does not.

    Args:
        predict: asked for the class of the image, where none is given.
        explain: not used.
        image: [H, W, C] or [H, W], as the model takes it.
        values: [H, W], the map.
        settings: what the value depends on.

    Returns:
        The index; NaN with a note where the map is 0 everywhere; 0 with a note where it is constant.

    Raises:
        OptionError: the map does not fit.
    """
    saliency = checked_map(image, values)
    asks = settings.class_index is None
    class_index = class_of(predict(image[None]), None) if asks else int(settings.class_index or 0)
    note = "the map is constant" if is_constant(saliency) else None
    if not saliency.any():
        note = "the map is 0 everywhere: there is nothing to share out"
    value = 0.0 if is_constant(saliency) and saliency.any() else gini(saliency)
    return result(NAME, value, class_index, settings, predictions=int(asks), note=note)
