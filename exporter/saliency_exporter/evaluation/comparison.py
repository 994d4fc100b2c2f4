"""How much the maps of two versions of a model differ, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from saliency_client.evaluation.similarity import in_units_of_largest, spearman, ssim
from saliency_exporter.errors import ExportError
from saliency_exporter.methods.declarations import CLASS_INDEX
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.version.manifest import Manifest, MethodEntry

Map = npt.NDArray[np.float64]

TOP = 0.1
"""The share of pixels, those with the largest values, whose overlap is taken; random maps share as much."""

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class Prediction:
    """What a version says of an image: the class with the highest score.

    Attributes:
        class_index: that class.
        label: its name; None where there are none.
        probability: 0..1; None where the scores are the model's output itself, which need be none.
    """

    class_index: int
    label: str | None
    probability: float | None


@dataclass(frozen=True)
class Difference:
    """Of one image's maps by one method.

    Attributes:
        spearman: rank correlation; None where a map has no order.
        ssim: structural similarity, each map in units of its largest value; None where a map is the same
            everywhere, or smaller than SSIM's window.
        top_overlap: the share of the largest tenth of the pixels of the one map that is in that of the other;
            None where a map is the same everywhere.
        moved: by ninth of the picture, how much more of the map's sum is there in the second version, −1..1;
            empty where a map is no picture, or is zero.
    """

    spearman: float | None
    ssim: float | None
    top_overlap: float | None
    moved: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageComparison:
    """One image in both versions.

    Attributes:
        image: its name.
        predictions: of the first and the second version.
        changed: whether the predicted class is another one; None where it is not known which class of the
            second version is the first one's.
        explained: names of the classes that maps were made for, in both versions.
        methods: by name.
    """

    image: str
    predictions: tuple[Prediction, Prediction]
    changed: bool | None
    explained: tuple[str, str]
    methods: dict[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """Two versions on some images.

    Attributes:
        versions: their directories.
        images: each one.
        notes: what could not be compared, and what has to be known of the numbers; a sentence each.
    """

    versions: tuple[str, str]
    images: tuple[ImageComparison, ...]
    notes: tuple[str, ...]

    @property
    def methods(self) -> list[str]:
        """Names of the methods that both have."""
        return list(self.images[0].methods)

    def mean(self, method: str, measure: str) -> float:
        """Over the images where it is defined; NaN if there is none."""
        values = [getattr(one.methods[method], measure) for one in self.images]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else math.nan

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return values


@dataclass(frozen=True)
class Answers:
    """Of one version: predictions and saliency of each image, and the classes that were explained."""

    predictions: list[Prediction]
    explained: list[int]
    maps: dict[str, npt.NDArray[np.float32]]


def difference(first: npt.ArrayLike, second: npt.ArrayLike) -> Difference:
    """Of two maps; the smaller one is enlarged bilinearly where they are pictures of two sizes.

    Args:
        first: saliency, [H, W] or of other axes.
        second: saliency of the same image by another version.

    Raises:
        ValueError: the shapes differ, and they are no pictures.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape and a.ndim == b.ndim == 2:
        height, width = max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1])
        a, b = _enlarged(a, height, width), _enlarged(b, height, width)
    return Difference(
        spearman=_known(spearman(a, b)),
        ssim=_known(ssim(in_units_of_largest(a), in_units_of_largest(b))),
        top_overlap=_known(top_overlap(a, b)),
        moved=moved(a, b),
    )


def top_overlap(a: Map, b: Map, share: float = TOP) -> float:
    """|A ∩ B| / k of the k largest values of two maps of one shape; of random ones it is `share` in the mean.

    Of equal values the first ones count. NaN where a map is the same everywhere.
    """
    if a.min() == a.max() or b.min() == b.max():
        return math.nan
    k = max(1, round(share * a.size))
    largest = [set(np.argsort(-one.ravel(), kind="stable")[:k].tolist()) for one in (a, b)]
    return len(largest[0] & largest[1]) / k


def moved(a: Map, b: Map) -> dict[str, float]:
    """Where the second map has more or less of its sum than the first: by ninth of the picture, −1..1.

    Empty where the maps are no pictures of three by three pixels at least, or one has no positive sum.
    """
    if a.ndim != 2 or min(a.shape) < 3 or not (a.sum() > 0 and b.sum() > 0):
        return {}
    change = b / b.sum() - a / a.sum()
    return {
        f"{row} {column}": float(part.sum())
        for row, band in zip(_ROWS, np.array_split(change, 3, axis=0), strict=True)
        for column, part in zip(_COLUMNS, np.array_split(band, 3, axis=1), strict=True)
    }


def common_methods(first: Manifest, second: Manifest, chosen: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods that two versions have, and notes on those that one lacks or has with other settings.

    Raises:
        ExportError: they have none in common, or one that was asked for is missing.
    """
    common = [name for name in first.methods if name in second.methods]
    for name in chosen:
        if name not in common:
            raise ExportError(
                f"the two versions do not both have the method {name!r}",
                hint=f"they have {', '.join(common) or 'none'} in common",
            )
    if not common:
        raise ExportError(
            f"the two versions have no method in common: {', '.join(first.methods)} and "
            f"{', '.join(second.methods)}",
            hint="export one of them again with the --methods of the other",
        )
    notes = [
        f"{name} is in {where} version alone"
        for where, own, other in (("the first", first, second), ("the second", second, first))
        for name in own.methods
        if not chosen and name not in other.methods
    ]
    return [name for name in common if not chosen or name in chosen], notes


def answers_of(
    version_dir: Path,
    manifest: Manifest,
    images: npt.NDArray[Any],
    methods: Mapping[str, Mapping[str, float]],
    classes: Callable[[list[Prediction]], list[int]],
) -> Answers:
    """Predictions and maps of one version.

    Args:
        version_dir: the version.
        manifest: of it.
        images: a batch, as it takes them.
        methods: by name, values of their parameters.
        classes: from the predictions to the class that each image is explained for.
    """
    servable = load_servable(version_dir)
    try:
        outputs = servable.predict(manifest.predictions, {manifest.input.name: images})
        probabilities = outputs.get("probabilities")
        scores = outputs["outputs"] if probabilities is None else probabilities
        predictions = [
            Prediction(
                best,
                manifest.labels[best] if manifest.labels else None,
                None if probabilities is None else float(probabilities[number, best]),
            )
            for number, row in enumerate(scores)
            for best in [int(row.argmax())]
        ]
        explained = classes(predictions)
        maps = {}
        for name, parameters in methods.items():
            dtypes = {entry.name: entry.dtype for entry in manifest.methods[name].parameters}
            inputs = {key: np.full(len(images), value, dtypes[key]) for key, value in parameters.items()}
            inputs |= {"images": images, CLASS_INDEX: np.array(explained, np.int32)}
            maps[name] = servable.predict(f"explain_{name}", inputs, ["saliency"])["saliency"]
    finally:
        servable.close()
    return Answers(predictions, explained, maps)


def shared_parameters(first: MethodEntry, second: MethodEntry) -> dict[str, float]:
    """What both versions are asked with: the first one's default, within the bounds of the second."""
    other = {parameter.name: parameter for parameter in second.parameters}
    values: dict[str, float] = {}
    for parameter in first.parameters:
        if parameter.name in other:
            bound = other[parameter.name]
            value = max(parameter.default, bound.low) if bound.low is not None else parameter.default
            values[parameter.name] = min(value, bound.high) if bound.high is not None else value
    return values


def same_class(index: int, first: Manifest, second: Manifest) -> int | None:
    """The class of the second version that a class of the first is: by its name, else by its number.

    None where the second has no such class, or it is not known which it is.
    """
    if first.labels is not None and second.labels is not None:
        name = first.labels[index]
        if first.labels == second.labels:
            return index
        return second.labels.index(name) if second.labels.count(name) == 1 else None
    return index if first.classes == second.classes else None


def classes_are_known(first: Manifest, second: Manifest) -> bool:
    """Whether it is known which classes of two versions are the same: by their names or their number."""
    return first.classes == second.classes or (first.labels is not None and second.labels is not None)


def constant_notes(images: Sequence[ImageComparison]) -> list[str]:
    """A sentence for each method of which some maps are the same everywhere, so that they have no order."""
    return [
        f"{method}: on {count} of {len(images)} images a map is the same everywhere, and is not compared"
        for method in images[0].methods
        if (count := sum(one.methods[method].spearman is None for one in images))
    ]


def compared(
    names: Sequence[str],
    manifests: tuple[Manifest, Manifest],
    answers: tuple[Answers, Answers],
) -> tuple[ImageComparison, ...]:
    """Every image, from the answers of both versions."""
    first, second = answers
    known = classes_are_known(*manifests)
    found = []
    for number, name in enumerate(names):
        before, after = first.predictions[number], second.predictions[number]
        found.append(
            ImageComparison(
                image=name,
                predictions=(before, after),
                changed=same_class(before.class_index, *manifests) != after.class_index if known else None,
                explained=(
                    class_name(manifests[0], first.explained[number]),
                    class_name(manifests[1], second.explained[number]),
                ),
                methods={
                    method: difference(first.maps[method][number], second.maps[method][number])
                    for method in first.maps
                },
            )
        )
    return tuple(found)


def class_name(manifest: Manifest, index: int) -> str:
    """The name of a class, or its number where there are none."""
    return manifest.labels[index] if manifest.labels else f"class {index}"


def _enlarged(values: Map, height: int, width: int) -> Map:
    if values.shape == (height, width):
        return values
    picture = Image.fromarray(values.astype(np.float32), mode="F")
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float64)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
