"""Faithfulness correlation (Bhatt, Weller, Moura 2020, arXiv 2005.00631, definition 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saliency_client._errors import OptionError
from saliency_client.evaluation.curves import QUANTITIES
from saliency_client.evaluation.measure import (
    Array,
    Explain,
    Predict,
    Quantity,
    Result,
    check_choice,
    check_whole,
    checked_map,
    class_of,
    quantity_of,
    result,
)
from saliency_client.evaluation.perturbation import SUBSTRATES, Substrate, substrate

NAME = "faithfulness_correlation"


@dataclass(frozen=True)
class FaithfulnessSettings:
    """What faithfulness correlation depends on.

    Attributes:
        class_index: the class; None is the one that is predicted for the image.
        substrate: what stands in place of a removed pixel: "black", "mean" or "blur".
        runs: how many subsets are drawn, 3 or more; 100 is Quantus' default.
        subset_size: how many pixels are removed together; 224 is Quantus' default.
        quantity: the "score" (logit), or "probability".
        seed: of the subsets.
    """

    class_index: int | None = None
    substrate: Substrate = "black"
    runs: int = 100
    subset_size: int = 224
    quantity: Quantity = "score"
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("runs", self.runs, 3)
        check_whole("subset_size", self.subset_size, 1)
        check_whole("seed", self.seed, 0)
        check_choice("substrate", self.substrate, SUBSTRATES)
        check_choice("quantity", self.quantity, QUANTITIES)


def subsets(num_pixels: int, settings: FaithfulnessSettings) -> Array:
    """[runs, subset_size] int: the pixels that are removed together, each once in a subset.

    Raises:
        OptionError: a subset is to hold all pixels, or more.
    """
    if settings.subset_size >= num_pixels:
        raise OptionError(
            f"subset_size is {settings.subset_size}; the images have {num_pixels} pixels, so it must be 1 to "
            f"{num_pixels - 1}"
        )
    generator = np.random.default_rng(settings.seed)
    drawn = [generator.choice(num_pixels, settings.subset_size, replace=False) for _ in range(settings.runs)]
    return np.stack(drawn)


def faithfulness_correlation(
    predict: Predict, explain: Explain | None, image: Array, values: Array, settings: FaithfulnessSettings
) -> Result:
    """Pearson's correlation of what a map gives to random subsets and what the score loses with them.

    With φ the map, x the image and x_S̄ the image whose pixels S are replaced by the substrate:

        corr_S( Σ_{i ∈ S} φᵢ , f(x) − f(x_S̄) )

    −1..1, higher is better; 1 for gradient × input of a linear model, over black.

    Pitfalls: it depends on the size of the subsets and on the substrate, so compare within one setting alone.
    Quantus' "black" is the smallest value of the image itself, and this one's is 0: an image without a 0 has
    another correlation there, unless Quantus is asked with perturb_baseline=0.0.
    Small subsets of a large image hardly change a score: the correlation is then of rounding, and its value
    for one image is noisy. The map has its signs: a map of absolute values correlates less, as a loss can be
    negative.

    Args:
        predict: [N, …] images to predictions.
        explain: not used.
        image: [H, W, C] or [H, W], as the model takes it.
        values: [H, W], the map with its signs, summed over channels.
        settings: what the value depends on.

    Returns:
        The correlation; NaN with a note where all subsets have the same sum, as in a constant map, or the
        score never changes.

    Raises:
        UndefinedMeasure: the model has no such quantity.
        OptionError: the map or a setting does not fit.
    """
    attributions = checked_map(image, values)
    drawn = subsets(attributions.size, settings)
    empty = substrate(image, settings.substrate)
    flat = image.reshape(attributions.size, -1)
    images = np.repeat(flat[None], settings.runs + 1, axis=0)
    other = empty.reshape(attributions.size, -1)
    for row, subset in enumerate(drawn, 1):
        images[row, subset] = other[subset]
    answer = predict(images.reshape(-1, *image.shape))
    class_index = class_of(answer, settings.class_index)
    heights = quantity_of(answer, settings.quantity, class_index)
    sums, losses = attributions.ravel()[drawn].sum(axis=1), heights[0] - heights[1:]
    note = None
    # Sums of equal values differ by rounding.
    if np.ptp(sums) <= 1e-12 * np.abs(sums).max():
        note = "the map gives the same sum to every subset: there is nothing to correlate"
    elif np.ptp(losses) == 0:
        note = f"the {settings.quantity} changes by the same amount with every subset"
    value = float("nan") if note else float(np.corrcoef(sums, losses)[0, 1])
    return result(NAME, value, class_index, settings, predictions=len(images), note=note)
