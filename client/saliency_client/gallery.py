"""Explanations to look at: photos and their maps as a page that works from disk, without a server.

    write_gallery("page", entries)

writes a folder whose `index.html` shows a grid of photos, and of each photo its maps side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saliency_client import maps
from saliency_client._contract import SIGNED_MAPS, STANDARD_ERROR
from saliency_client.web.gallery import PAGE, write
from saliency_client.web.map_picture import photo_pictures
from saliency_client.web.shown import Shown, ShownClass, ShownMap, is_right, shown_map

if TYPE_CHECKING:
    import os

    from saliency_client import Explanation
    from saliency_client.images import Photo


@dataclass(frozen=True)
class Entry:
    """One photo of a gallery.

    Attributes:
        photo: as `images.load_image` gives it; its name is shown.
        explanations: B = 1 each: of several methods, or classes, or both. The first is of the predicted
            class, if a truth is given. Those that hold a map with signs (`outputs="all"`) can be shown so.
        truth: the class that the photo is of, by its name or index, if that is known.
        numbers: further numbers of the maps, as of `saliency_client.evaluation`: by method, by name.

    Example:
        >>> from saliency_client.gallery import Entry
        >>> from saliency_client.images import load_image
        >>> photo = load_image("cat.png", size=(224, 224))
        >>> entry = Entry(photo, [client.explain(photo.array, outputs="all")], truth=0)
    """

    photo: Photo
    explanations: Sequence[Explanation]
    truth: str | int | None = None
    numbers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def write_gallery(
    path: str | os.PathLike[str],
    entries: Iterable[Entry],
    *,
    title: str = "Explanations",
    clip: float = maps.DEFAULT_CLIP,
    single_file: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a page that shows photos with their maps; it works from disk, and asks no network for anything.

    Entries are drawn and written as they come, one in memory at a time, so a generator may give any number.

    Args:
        path: the folder to make, or with `single_file` the HTML file; it appears whole, or not at all.
        entries: the photos, in the order of the page.
        title: of the page.
        clip: the percentile of a map that gets the hottest color, in (0, 100].
        single_file: one HTML that holds all pictures; for some dozens of photos.
        overwrite: replace a gallery that is there.

    Returns:
        The file to open.

    Raises:
        ValueError: there is no entry, an entry without explanations, a map that is not finite, or `clip` is
            out of range.
        FileExistsError: there is something at `path`.
        OSError: it cannot be written.

    Example:
        >>> from saliency_client.gallery import Entry, write_gallery
        >>> from saliency_client.images import load_image
        >>> def entries():
        ...     photo = load_image("cat.png", size=(224, 224))
        ...     yield Entry(photo, [client.explain(photo.array, method=name) for name in client.methods()])
        >>> write_gallery("page", entries()).name
        'index.html'
    """
    to = Path(path)
    models: dict[tuple[str, int | None], None] = {}

    def shown() -> Iterable[Shown]:
        for entry in entries:
            models.update({(one.model, one.version): None for one in entry.explanations})
            yield _shown(entry, clip)

    def about() -> Mapping[str, Any]:
        (name, _), *others = models
        named = all(name == other for other, _ in others)
        return {
            "models": [list(one) for one in models],
            "command": ["--model", name] if named else [],
            "left_out": ["--server", *([] if named else ["--model"]), "parameters of the methods"],
        }

    write(to, shown(), about, title=title, single_file=single_file, overwrite=overwrite)
    return to if single_file else to / PAGE


def _shown(entry: Entry, clip: float) -> Shown:
    by_class: dict[Any, list[Explanation]] = {}
    for one in entry.explanations:
        by_class.setdefault(_only(one, "class_index"), []).append(one)
    if not by_class:
        raise ValueError(f"{entry.photo.name} has no explanation")
    classes = tuple(_shown_class(found, entry, clip) for found in by_class.values())
    return Shown(
        entry.photo.name,
        entry.photo.name,
        photo_pictures(entry.photo),
        classes,
        None if entry.truth is None else str(entry.truth),
        is_right(entry.truth, classes[0]),
    )


def _shown_class(explanations: Sequence[Explanation], entry: Entry, clip: float) -> ShownClass:
    first = explanations[0]
    return ShownClass(
        _only(first, "class_index"),
        _only(first, "label") or None,
        _only(first, "probability"),
        _only(first, "score"),
        None,
        tuple(_of_explanation(one, entry.numbers.get(one.method, {}), clip) for one in explanations),
    )


def _of_explanation(one: Explanation, more: Mapping[str, float], clip: float) -> ShownMap:
    signed = next((one.outputs[name][0] for name in SIGNED_MAPS if name in one.outputs), None)
    if signed is not None and signed.ndim == 2:
        signed = signed[..., np.newaxis]
    numbers = {
        name: _only(one, name)
        for name, values in sorted(one.outputs.items())
        if values.ndim == 1
        and values.dtype.kind in "fiu"
        and name not in ("class_index", "probability", "score", STANDARD_ERROR)
    }
    return shown_map(one.method, one.saliency[0], signed, {**numbers, **more}, clip=clip, version=one.version)


def _only(one: Explanation, output: str) -> Any:
    """The one value of an output, as Python's own type; None where there is none, or it is NaN."""
    values = one.outputs.get(output)
    if values is None or len(values) == 0:
        return None
    value = values[0].item() if isinstance(values[0], np.generic) else values[0]
    return None if isinstance(value, float) and math.isnan(value) else value
