"""ROAD (Rong et al. 2022, arXiv 2202.00449): deletion with pixels imputed from their neighbors."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np

from saliency_client._errors import OptionError, SaliencyError
from saliency_client.evaluation.curves import QUANTITIES, points
from saliency_client.evaluation.measure import (
    CONSTANT,
    Array,
    Explain,
    FloatArray,
    Predict,
    Quantity,
    Result,
    as_input,
    check_choice,
    check_positive,
    check_whole,
    checked_map,
    class_of,
    is_constant,
    quantity_of,
    result,
    value_range,
)
from saliency_client.evaluation.perturbation import order

NAME = "road"
NEIGHBOURS = tuple(
    ((row, column), 1 / 12 if row and column else 1 / 6)
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if row or column
)
"""Offset and weight of each neighbor: 1/6 of those at a side, 1/12 of those at a corner."""


class RoadUnavailable(SaliencyError, ImportError):
    """SciPy, which solves ROAD's sparse systems, is not installed.

    Example:
        >>> from saliency_client.evaluation.road import RoadUnavailable
        >>> issubclass(RoadUnavailable, ImportError)
        True
    """


@dataclass(frozen=True)
class RoadSettings:
    """What ROAD depends on.

    Attributes:
        class_index: the class; None is the one that is predicted for the image.
        percentages: of the pixels that are removed, each above 0 and below 100.
        noise: standard deviation of the noise on imputed pixels, as a share of the range of an
            image's values: 255 for uint8, that of the image's own values for float32.
        quantity: "probability", or the "score" (logit).
        seed: of the noise, and of the order of pixels that are equally salient.
    """

    class_index: int | None = None
    percentages: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    noise: float = 0.01
    quantity: Quantity = "probability"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.percentages or not all(0 < one < 100 for one in self.percentages):
            raise OptionError(f"percentages is {self.percentages}; each must be above 0 and below 100")
        check_positive("noise", self.noise, zero=True)
        check_choice("quantity", self.quantity, QUANTITIES)
        check_whole("seed", self.seed, 0)


def check_installed() -> None:
    """Raise RoadUnavailable, with the line that installs it, unless SciPy is there.

    Example:
        >>> from saliency_client.evaluation import road
        >>> road.check_installed()
    """
    try:
        importlib.import_module("scipy.sparse.linalg")
    except ImportError as error:
        raise RoadUnavailable(
            "ROAD needs SciPy, which is not installed",
            hint="pip install 'saliency-serving[evaluation]', or in a clone: pip install -e '.[evaluation]'",
        ) from error


def imputed(image: Array, removed: Array) -> FloatArray:
    """The image with its removed pixels solved for from their neighbors, float64.

    Each removed pixel is the weighted mean of its neighbors inside the image (1/6 at a side, 1/12 at a
    corner, made to sum to 1), removed ones included: a sparse linear system (eq. 8 of the paper).

    Args:
        image: [H, W, C] or [H, W].
        removed: [H, W] bool; one pixel at least is kept.

    Raises:
        RoadUnavailable: SciPy is not installed.
    """
    check_installed()
    # scipy has no types, and mypy knows it by nothing else than its name.
    sparse = importlib.import_module("scipy.sparse")
    linalg = importlib.import_module("scipy.sparse.linalg")
    pixels = np.asarray(image, np.float64).reshape(*removed.shape, -1).copy()
    height, width = removed.shape
    number = np.full((height, width), -1)
    rows, columns = np.nonzero(removed)
    if rows.size == removed.size:
        raise OptionError("all pixels are removed; one at least must be kept")
    number[rows, columns] = np.arange(rows.size)
    diagonal, known = np.zeros(rows.size), np.zeros((rows.size, pixels.shape[2]))
    at: list[Array] = []
    others: list[Array] = []
    weights: list[Array] = []
    for (down, right), weight in NEIGHBOURS:
        near_row, near_column = rows + down, columns + right
        inside = np.flatnonzero(
            (near_row >= 0) & (near_row < height) & (near_column >= 0) & (near_column < width)
        )
        near = number[near_row[inside], near_column[inside]]
        diagonal[inside] += weight
        kept = inside[near < 0]
        known[kept] += weight * pixels[near_row[kept], near_column[kept]]
        at.append(inside[near >= 0])
        others.append(near[near >= 0])
        weights.append(np.full(others[-1].size, -weight))
    each = np.arange(rows.size)
    system = sparse.csc_matrix(
        (
            np.concatenate([*weights, diagonal]),
            (np.concatenate([*at, each]), np.concatenate([*others, each])),
        ),
        shape=(rows.size, rows.size),
    )
    # Symmetric and positive definite: this ordering of columns is the fast one for such systems.
    factors = linalg.splu(
        system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    pixels[rows, columns] = factors.solve(known)
    return np.asarray(pixels.reshape(image.shape))


def road(
    predict: Predict, explain: Explain | None, image: Array, values: Array, settings: RoadSettings
) -> Result:
    """The mean class probability after the most salient p percent are imputed, over all p; lower is better.

    With x_p the image whose most salient p percent of pixels are replaced by what their neighbors give,
    plus noise: ROAD = mean over p of P(c | x_p). Imputed pixels are hard to tell from others, so that a drop
    is not due to a visible mask.

    Pitfalls: the paper reports accuracy over a data set, where this is the mean probability, as in
    pytorch-grad-cam. The paper's noise of 0.01 is in units of normalised images. What is imputed still shows
    what is large and smooth.

    Args:
        predict: [N, …] images to predictions.
        explain: not used.
        image: [H, W, C] or [H, W], as the model takes it.
        values: [H, W], the map.
        settings: what the value depends on.

    Returns:
        The mean, in units of the quantity, with the curve. A constant map gives that of a random order, and a
        note.

    Raises:
        RoadUnavailable: SciPy is not installed.
        UndefinedMeasure: the model has no such quantity, or one class alone, whose probability is always 1.
        OptionError: the map or a setting does not fit.
    """
    check_installed()
    saliency = checked_map(image, values)
    ranked = order(saliency, settings.seed)
    generator = np.random.default_rng(settings.seed)
    deviation = settings.noise * value_range(image)
    path = [image]
    for percentage in settings.percentages:
        removed = np.zeros(saliency.size, bool)
        removed[ranked[: int(saliency.size * percentage / 100)]] = True
        mask = removed.reshape(saliency.shape)
        if not removed.any():
            raise OptionError(
                f"percentages has {percentage:g}, which is less than one of {saliency.size} pixels"
            )
        filled = imputed(image, mask)
        filled[mask] += deviation * generator.standard_normal(filled[mask].shape)
        path.append(as_input(filled, image.dtype))
    answer = predict(np.stack(path))
    class_index = class_of(answer, settings.class_index)
    heights = quantity_of(answer, settings.quantity, class_index)
    return result(
        NAME,
        float(heights[1:].mean()),
        class_index,
        settings,
        predictions=len(path),
        curve=points(np.array([0.0, *settings.percentages]) / 100, heights),
        note=CONSTANT + ", and a random one is taken" if is_constant(saliency) else None,
    )
