"""What every measure is made of: what it asks, what it answers, and what is undefined."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from saliency_client._errors import OptionError, SaliencyError

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
Quantity = Literal["probability", "score"]


class UndefinedMeasure(SaliencyError):
    """A measure has no meaning for this model or method, such as one of probabilities that do not exist.

    What is undefined for one image alone, as for a constant map, is a NaN with a note instead.

    Example:
        >>> from saliency_client.evaluation.measure import UndefinedMeasure
        >>> issubclass(UndefinedMeasure, SaliencyError)
        True
    """


@dataclass(frozen=True)
class Predictions:
    """What a model says of N images.

    Attributes:
        scores: [N, classes], unnormalised (logits); None where the model does not give them.
        probabilities: [N, classes], 0..1; None where the model does not give them.
    """

    scores: FloatArray | None
    probabilities: FloatArray | None

    def of(self, quantity: Quantity) -> FloatArray:
        """[N, classes] of one of the two.

        Raises:
            UndefinedMeasure: the model does not give it.
        """
        values = self.probabilities if quantity == "probability" else self.scores
        if values is None:
            other: Quantity = "score" if quantity == "probability" else "probability"
            plural = "probabilities" if quantity == "probability" else "scores (logits)"
            raise UndefinedMeasure(
                f"the model gives no {plural}, which this measure reads",
                hint=f"measure with quantity={other}",
            )
        return values


Predict = Callable[[Array], Predictions]
"""Images [N, H, W, C] or [N, H, W] of the model's dtype, to what the model says of them."""


class Explain(Protocol):
    """Images [N, …] of the model's dtype and the class to explain, to maps [N, H, W]."""

    def __call__(self, images: Array, class_index: int) -> Array:
        """The maps."""


@dataclass(frozen=True)
class Result:
    """What a measure says of one map.

    Attributes:
        measure: its name.
        value: the number; NaN where it is undefined, and `note` says why.
        class_index: the class that was explained and measured.
        settings: everything that the value depends on beside model, image and map.
        predictions: images that the model predicted for it.
        explanations: images that were explained for it, beside the map itself.
        curve: (share of the pixels, quantity), where the measure is the area under a curve.
        note: what to know of the value, such as that the map is constant.
    """

    measure: str
    value: float
    class_index: int
    settings: dict[str, Any]
    predictions: int = 0
    explanations: int = 0
    curve: tuple[tuple[float, float], ...] = ()
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON's own types; NaN becomes None."""
        fields = dataclasses.asdict(self)
        fields["value"] = self.value if math.isfinite(self.value) else None
        fields["curve"] = [list(point) for point in self.curve]
        return fields


CONSTANT = "the map is constant: its pixels have no order"


def result(
    measure: str, value: float, class_index: int, settings: Any, *, note: str | None = None, **more: Any
) -> Result:
    """A result with its settings as a dictionary that names the class that was measured."""
    known = {**dataclasses.asdict(settings), "class_index": class_index}
    assert note or math.isfinite(value), f"{measure} is {value} and does not say why"
    return Result(measure, float(value), class_index, known, note=note, **more)


def checked_map(image: Array, values: Array) -> FloatArray:
    """A map as float64, [H, W].

    Raises:
        OptionError: it is not as large as the image, or has values that are not finite.
    """
    checked = np.asarray(values, np.float64)
    if checked.ndim != 2 or checked.shape != image.shape[:2]:
        raise OptionError(
            f"the map is {list(checked.shape)}; an image {list(image.shape)} has a map "
            f"{list(image.shape[:2])}"
        )
    if not np.isfinite(checked).all():
        raise OptionError("the map has values that are not finite")
    return checked


def is_constant(values: FloatArray) -> bool:
    """Whether no pixel differs from another."""
    return bool(np.ptp(values) == 0)


def value_range(image: Array) -> float:
    """The range of the values that an image can have: 255 for uint8; that of its own values for others."""
    return 255.0 if image.dtype == np.uint8 else float(np.ptp(np.asarray(image, np.float64)))


def as_input(values: FloatArray, dtype: npt.DTypeLike) -> Array:
    """Values as the model takes them: of uint8, rounded and bounded to 0..255."""
    if np.dtype(dtype) == np.uint8:
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return values.astype(dtype)


def class_of(predictions: Predictions, class_index: int | None, *, clean: int = 0) -> int:
    """The class that is measured: the given one, else the one predicted for the image.

    Args:
        predictions: of several images.
        class_index: the given one, or None.
        clean: which of them is the image itself.

    Raises:
        OptionError: the model has fewer classes.
    """
    values = predictions.scores if predictions.scores is not None else predictions.probabilities
    if values is None:
        raise UndefinedMeasure("the model gives neither scores nor probabilities of classes")
    if class_index is None:
        return int(values[clean].argmax())
    if not 0 <= class_index < values.shape[1]:
        raise OptionError(f"class_index is {class_index}; the model has classes 0 to {values.shape[1] - 1}")
    return class_index


def quantity_of(predictions: Predictions, quantity: Quantity, class_index: int) -> FloatArray:
    """[N]: the probability or score of a class.

    Raises:
        UndefinedMeasure: the model does not give it, or it is the softmax of one class, which is always 1.
    """
    values = predictions.of(quantity)
    if quantity == "probability" and values.shape[1] == 1 and (values == 1).all():
        raise UndefinedMeasure(
            "the model has one class, whose probability is 1 for every image",
            hint="measure with quantity=score",
        )
    return values[:, class_index]


def check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raise OptionError unless a setting is a whole number in [low, high]."""
    bound = f"{low} or above" if high is None else f"{low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high and value > high):
        raise OptionError(f"{name} is {value!r}; it must be a whole number, {bound}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise OptionError unless a setting is one of its choices."""
    if value not in choices:
        raise OptionError(f"{name} is {value!r}; it is one of {', '.join(choices)}")


def check_positive(name: str, value: float, *, zero: bool = False) -> None:
    """Raise OptionError unless a setting is a finite number above 0, or at least 0."""
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise OptionError(f"{name} is {value!r}; it must be finite and {'at least' if zero else 'above'} 0")
