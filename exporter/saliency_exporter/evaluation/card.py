"""The outcome of the randomisation test of a version: assets.extra/sanity.json, and sanity.png beside it.

Needs no TensorFlow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from saliency_client._files import Write, write_all
from saliency_exporter.errors import ExportError, NotWritten
from saliency_exporter.evaluation.curves import Panel, draw_panels

FORMAT: Final = 1
JSON, PICTURE = "sanity.json", "sanity.png"

THRESHOLD = math.sqrt(0.5)
"""The mean rank correlation at which half of the variance of a map's ranks is the trained map's.

On EfficientNet-Lite0 there is nothing near it: see the section on `sanity` in exporter/README.md."""

Verdict = Literal["passes", "fails", "unclear"]
Row = tuple[float | None, ...]
"""One value for each image; None where it is not defined, as the order of a map of one value is not."""


@dataclass(frozen=True)
class MethodOutcome:
    """What became of the maps of a method as weights became random.

    Attributes:
        spearman: for each depth, of each image: the rank correlation of its saliency with that of the
            trained model.
        ssim: likewise, the structural similarity, each map in units of its largest value.
        entropy: likewise, the entropy of the saliency in nats.
        trained_entropy: of each image, with all weights as they are.
        parameters: what the method was asked for with, where that is not its default.
        other_seed: of each image, the rank correlation of the trained model's saliency with itself by another
            seed of its draws; empty of a method that draws nothing.
    """

    spearman: tuple[Row, ...]
    ssim: tuple[Row, ...]
    entropy: tuple[Row, ...]
    trained_entropy: Row
    parameters: dict[str, int]
    other_seed: Row = ()


@dataclass(frozen=True)
class Card:
    """The outcome of a randomisation test.

    Attributes:
        images: names of the images.
        seed: of what was drawn.
        layers: whose weights were made random, from the top; one entry for each group.
        unchanged: those of them whose weights have one value each, which no order changes.
        depths: how many of the layers were random where maps were made.
        methods: by name.
        threshold: of the verdicts.
        seconds: that it took.
        format: of this file.
    """

    images: tuple[str, ...]
    seed: int
    layers: tuple[str, ...]
    unchanged: tuple[str, ...]
    depths: tuple[int, ...]
    methods: dict[str, MethodOutcome]
    seconds: float
    threshold: float = THRESHOLD
    format: Literal[1] = FORMAT

    def __post_init__(self) -> None:
        """Refuses a table of other sizes than the depths and images.

        Raises:
            ValueError: that.
        """
        for name, method in self.methods.items():
            for table in (method.spearman, method.ssim, method.entropy):
                if [len(row) for row in table] != [len(self.images)] * len(self.depths):
                    raise ValueError(f"{name} has no value for each of {len(self.depths)} depths and image")

    def upper_half(self) -> list[int]:
        """Positions of the depths where at most the upper half of the layers is random; one at least."""
        half = [index for index, depth in enumerate(self.depths) if 2 * depth <= len(self.layers)]
        return half or [0]

    def similarity(self, method: str) -> tuple[float, float]:
        """The mean rank correlation while the upper half of the layers becomes random; its standard error.

        The error is that over images; NaN for one image. Both are NaN where no map has an order.
        """
        rows = [self.methods[method].spearman[index] for index in self.upper_half()]
        table = np.array([[math.nan if v is None else v for v in row] for row in rows], np.float64)
        of_images = [float(np.mean(column)) for column in (c[~np.isnan(c)] for c in table.T) if column.size]
        if not of_images:
            return math.nan, math.nan
        error = np.std(of_images, ddof=1) / math.sqrt(len(of_images)) if len(of_images) > 1 else math.nan
        return float(np.mean(of_images)), float(error)

    def entropy_rise(self, method: str) -> float:
        """(H − H₀) / H₀, the mean over images: H of the map with all weights random, H₀ of the trained one.

        Source: eMPRT, Hedström et al. 2024, arXiv 2401.06465, section 4.2. NaN where no image has both, or
        every trained map has one value.
        """
        outcome = self.methods[method]
        pairs = zip(outcome.trained_entropy, outcome.entropy[-1], strict=True)
        rises = [(last - first) / first for first, last in pairs if first and last is not None]
        return float(np.mean(rises)) if rises else math.nan

    def verdict(self, method: str) -> Verdict:
        """Whether a method's maps depend on what the upper half of the layers has learned.

        Unclear where the mean is less than two standard errors from the threshold, where nothing is known of
        the mean or of its error, and where maps stay alike that are mostly noise.
        """
        mean, error = self.similarity(method)
        if not abs(mean - self.threshold) > 2 * error:
            return "unclear"
        if mean < self.threshold:
            return "passes"
        return "unclear" if self.is_noise(method) else "fails"

    def is_noise(self, method: str) -> bool:
        """Whether a method's maps of the trained model are less alike, by another seed, than the threshold.

        All maps of the test are of the same draws, so what they have of these is alike whatever was learned.
        """
        return _mean(self.methods[method].other_seed) < self.threshold

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with each method's verdict and the numbers that it is made of."""
        values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        for name, entry in values["methods"].items():
            numbers = (*self.similarity(name), self.entropy_rise(name))
            mean, error, rise = (None if math.isnan(value) else value for value in numbers)
            entry |= {"verdict": self.verdict(name), "similarity": mean, "standard_error": error}
            entry["entropy_rise"] = rise
        return {"format": values.pop("format"), **values}


def sentence(card: Card, method: str) -> str:
    """The verdict of a method in words."""
    mean, error = card.similarity(method)
    if math.isnan(mean):
        # Of a map of one value, all values are in one bin.
        weights = "random" if any(card.methods[method].trained_entropy) else "the trained"
        return f"unclear: with {weights} weights, its maps are the same everywhere"
    spread = "" if math.isnan(error) else f" ± {error:.2f}"
    why = {
        "passes": "its maps change with what the upper layers have learned",
        "fails": "its maps stay as they are when the upper layers are random",
        "unclear": "more images would tell" if math.isnan(error) or len(card.images) < 8 else "it is between",
    }[card.verdict(method)]
    if mean > card.threshold and card.is_noise(method):
        other = _mean(card.methods[method].other_seed)
        why = f"with another seed its maps are not alike either ({other:.2f}); more --samples would tell"
    return f"{card.verdict(method)}: {why} (rank correlation {mean:.2f}{spread})"


def write_card(folder: Path, card: Card) -> None:
    """Writes sanity.json and sanity.png to a folder that exists, both or none.

    Raises:
        NotWritten: they cannot be written.
    """
    text = json.dumps(card.to_json(), indent=2, ensure_ascii=False) + "\n"
    picture = picture_of(card)
    files: dict[Path, Write] = {
        # The one that is read comes last: where it is, the picture is.
        folder / PICTURE: partial(picture.save, format="png"),
        folder / JSON: lambda file: file.write(text.encode()),
    }
    try:
        write_all(files, overwrite=True)
    except OSError as error:
        raise NotWritten(
            f"{error.filename or folder} cannot be written: {error.strerror}",
            hint="nothing was written; -o FOLDER names another place",
        ) from error


def read_card(folder: Path) -> Card | None:
    """The card in a folder; None where there is none.

    Raises:
        ExportError: it is not what `sanity` writes.
    """
    path = folder / JSON
    try:
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), Card)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{path} is not as saliency-exporter sanity writes it: {error}",
            hint="saliency-exporter sanity VERSION_DIR writes it again",
        ) from error


def picture_of(card: Card) -> Any:
    """The curves of all methods, an RGB picture of Pillow's: similarity and entropy by depth."""
    share = [0.0, *(depth / len(card.layers) for depth in card.depths)]

    def line(first: float, table: Sequence[Row]) -> list[tuple[float, float]]:
        values = [first, *(_mean(row) for row in table)]
        return [(x, y) for x, y in zip(share, values, strict=True) if not math.isnan(y)]

    methods = card.methods.items()
    panels = [
        Panel("Spearman", (-1.0, 1.0), {name: line(1.0, m.spearman) for name, m in methods}, card.threshold),
        Panel("SSIM", (-1.0, 1.0), {name: line(1.0, m.ssim) for name, m in methods}),
        Panel(
            "entropy / nats",
            (0.0, math.log(100)),
            {name: line(_mean(m.trained_entropy), m.entropy) for name, m in methods},
        ),
    ]
    return draw_panels(panels, f"share of {len(card.layers)} layers with random weights, from the top")


def _mean(row: Row) -> float:
    known = [value for value in row if value is not None]
    return float(np.mean(known)) if known else math.nan
