"""What a gallery shows of a photo: pictures, numbers and text, ready to be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy.typing as npt

from saliency_client import maps
from saliency_client.web.map_picture import MapPicture, PhotoPictures, map_picture


@dataclass(frozen=True)
class ShownMap:
    """One method's map of one class.

    Attributes:
        method: its name.
        saliency: how much each place counts.
        signed: what raises and what lowers the score; None where the method has no signs.
        numbers: what is known of the map, by name.
        version: of the model that made it; None where that is not known.
    """

    method: str
    saliency: MapPicture
    signed: MapPicture | None
    numbers: Mapping[str, float]
    version: int | None = None


@dataclass(frozen=True)
class ShownClass:
    """One explained class of a photo; None where something is not known."""

    class_index: int | None
    label: str | None
    probability: float | None
    score: float | None
    rank: int | None
    maps: tuple[ShownMap, ...]


@dataclass(frozen=True)
class Shown:
    """One photo of a gallery.

    Attributes:
        name: for people; it may be any text.
        argument: what a command calls the photo.
        photo: its pictures.
        classes: those that were explained, at least one.
        truth: the class that it is of, as given.
        right: whether the model predicts that.
    """

    name: str
    argument: str
    photo: PhotoPictures
    classes: tuple[ShownClass, ...]
    truth: str | None = None
    right: bool | None = None


def shown_map(
    method: str,
    saliency: npt.ArrayLike,
    signed: npt.ArrayLike | None,
    numbers: Mapping[str, float | None],
    *,
    clip: float = maps.DEFAULT_CLIP,
    version: int | None = None,
) -> ShownMap:
    """A map's pictures, from its values.

    Args:
        method: its name.
        saliency: [H, W].
        signed: [H, W, C], the method's map with signs, or None.
        numbers: by name; those that are None are left out.
        clip: as for `map_picture`.
        version: of the model that made it.

    Raises:
        ValueError: as `map_picture`.
    """
    return ShownMap(
        method,
        map_picture(saliency, clip=clip),
        None if signed is None else map_picture(maps.signed(signed), signed=True, clip=clip),
        {name: value for name, value in numbers.items() if value is not None},
        version,
    )


def is_right(truth: str | int | None, predicted: ShownClass) -> bool | None:
    """Whether a prediction is what a photo is of; None where that is not known.

    Args:
        truth: the class: its index, or its name, or one of the synonyms that a name lists with commas.
        predicted: the class that the model finds most probable.
    """
    if truth is None or predicted.class_index is None:
        return None
    wanted = str(truth).strip().casefold()
    label = predicted.label or ""
    names = [name.strip().casefold() for name in (label, *label.split(",")) if name]
    # Of digits a name may be another class's index.
    by_index = wanted == str(predicted.class_index) and not label.strip().isdecimal()
    return by_index or wanted in names
