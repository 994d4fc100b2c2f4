"""Explanations and their photo to a file's bytes, in any style and format."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from saliency_client import maps, regions, render
from saliency_client._contract import REGION_ENTRIES, SIGNED_MAPS
from saliency_client.cli import marks
from saliency_client.cli.errors import CommandError
from saliency_client.cli.looks import Look
from saliency_client.cli.show import number_texts

if TYPE_CHECKING:
    from PIL import Image

    from saliency_client import Explanation
    from saliency_client.images import Box, Photo

_JPEG_QUALITY = 92
_NEAREST = 0  # Pillow's, without its import
# Of float32, through a network; a caption shows fewer digits.
_ROUNDING = 1e-3
# Pixels of the long side: below the first, a picture is too small to see and is drawn up to the second.
_SMALL_SIDE, _SEEN_SIDE = 50, 256
# As small as with zlib's own 6 for these pictures, in half the time.
_PNG_LEVEL = 4
# Photos hold no repetitions but runs: looking for those alone takes half of that time, for 3 % more bytes.
_PHOTO_STYLES = frozenset({"overlay", "masked", "outlines"})
_RUNS_ALONE = {"compress_level": 1, "compress_type": 3}


@dataclass(frozen=True)
class Answer:
    """What one method says of one image, to be drawn.

    Attributes:
        explanation: B = 1.
        signed_map: the output that holds the method's map with its signs.
        facts: written into files as text, and into captions.
        segments: cuts the image into segments, bool [N, H, W]; asked for where regions are drawn.
    """

    explanation: Explanation
    signed_map: str | None
    facts: Mapping[str, Any]
    segments: Callable[[], regions.BoolArray]

    @property
    def method(self) -> str:
        """The method's name."""
        return self.explanation.method

    @cached_property
    def ranked(self) -> regions.Regions:
        """The segments, ranked by the method's shares of the score; by `saliency`, if it gives no shares."""
        shares = self.signed_map == SIGNED_MAPS[1]
        try:
            return regions.xrai(self.signs if shares else self._only("saliency"), self.segments())
        except ValueError as error:
            raise CommandError(
                f"regions cannot be ranked: {error}",
                hint="--format npz without --regions keeps the raw values",
            ) from error

    @property
    def signs(self) -> maps.FloatArray:
        """The map with signs, [H, W, C]; of images without channels, C is 1."""
        own = self._only(self.signed_map)
        return own[..., np.newaxis] if own.ndim == 2 else own

    def values(self, look: Look) -> maps.FloatArray:
        """The map [H, W] that is drawn."""
        if look.regions:
            return np.asarray(self.ranked.saliency, np.float32)
        # A map without signs is all of the positive.
        if look.polarity is None or (look.polarity == "positive" and self.signed_map is None):
            return self._only("saliency")
        return maps.polarized(maps.signed(self.signs), look.polarity)

    def arrays(self, *, with_regions: bool) -> dict[str, Any]:
        """All outputs, without their batch axis; text as NumPy's own, which needs no pickle."""
        arrays = {
            name: np.asarray(values[0], np.str_) if values.dtype == object else values[0]
            for name, values in self.explanation.outputs.items()
        }
        if with_regions:
            found = self.ranked.saliency, self.ranked.ranks
            arrays |= dict(zip(REGION_ENTRIES, found, strict=True))
        return arrays

    def _only(self, output: str | None) -> maps.FloatArray:
        values = None if output is None else self.explanation.outputs.get(output)
        if values is None:
            raise CommandError(
                f"signature explain_{self.method} has no output {output!r}",
                hint="export the model again with saliency-exporter",
            )
        return np.asarray(values[0], np.float32)


def encode(
    answers: Sequence[Answer],
    photo: Photo,
    look: Look,
    format: str,
    made_with: Mapping[str, Any],
    software: str,
) -> bytes:
    """The bytes of one file.

    Args:
        answers: of one method, or of several, about the same image.
        photo: that image.
        look: how it is drawn.
        format: "png", "jpg", "npy" or "npz".
        made_with: the options beside the facts; written into files as well.
        software: who made the picture; written into it.

    Raises:
        CommandError: the map holds NaN or infinity.
    """
    stream = io.BytesIO()
    facts = {**common_facts(answers), **made_with}
    if format == "npz":
        np.savez(stream, box=np.asarray(photo.box), **_arrays(answers, look))
        with zipfile.ZipFile(stream, "a") as archive:
            archive.comment = marks.comment(software, facts)
    elif format == "npy":
        np.save(stream, answers[0].values(look), allow_pickle=False)
    else:
        _save(draw(answers, photo, look), look.style, stream, format, facts, software)
    return stream.getvalue()


def draw(answers: Sequence[Answer], photo: Photo, look: Look) -> Image.Image:
    """The picture of one image: of one method at the photo's size, of several side by side.

    A photo that is too small to see is enlarged by a whole factor.

    Raises:
        CommandError: the map holds NaN or infinity.
    """
    first, *others = answers
    try:
        if not others and look.style != "panel":
            return _picture(first, *_large_enough(photo), look)
        title, subtitle = caption(common_facts(answers))
        if not others and not look.regions:
            options: dict[str, Any] = {"clip": look.clip, "colormap": look.colormap}
            return render.panel(
                photo.picture, first.signs, photo.box, title=title, subtitle=subtitle, **options
            )
        small, box = render.seen_part(photo.picture, photo.box)
        if others:
            tiles = {answer.method: _picture(answer, small, box, look) for answer in answers}
        else:
            tiles = _region_tiles(first, small, box, look)
        return render.sheet({"original": small, **tiles}, title=title, subtitle=subtitle)
    except ValueError as error:
        raise CommandError(
            f"no picture can be drawn: {error}", hint="--format npz keeps the raw values"
        ) from error


def _large_enough(photo: Photo) -> tuple[Image.Image, Box]:
    """The photo, and its box, each pixel repeated where it has few."""
    side = max(photo.picture.size)
    if side >= _SMALL_SIDE:
        return photo.picture, photo.box
    factor = _SEEN_SIDE // side
    left, top, right, bottom = (factor * side for side in photo.box)
    width, height = photo.picture.size
    enlarged = photo.picture.resize((factor * width, factor * height), _NEAREST)
    return enlarged, (left, top, right, bottom)


def common_facts(answers: Sequence[Answer]) -> Mapping[str, Any]:
    """The facts of one method; of several, those that all have in common, beside their names."""
    first, *others = answers
    if not others:
        return first.facts
    same = {
        name: value
        for name, value in first.facts.items()
        if all(_is_same(value, answer.facts.get(name)) for answer in others)
    }
    return {**same, "method": ",".join(answer.method for answer in answers)}


def _is_same(one: Any, other: Any) -> bool:
    """Whether facts of two methods are one; scores of two programs for the same image differ by rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(one == other)


def caption(facts: Mapping[str, Any]) -> tuple[str, str]:
    """What a panel says above: the class and its probability; the method, the model and the score."""
    index, label, probability = facts.get("class_index"), facts.get("label"), facts.get("probability")
    name = f"{label} ({index})" if label else f"class {index}"
    title = name if probability is None else f"{name}, {100 * probability:.1f} %"
    version = f" version {facts['version']}" if facts.get("version") else ""
    methods = str(facts.get("method")).replace(",", ", ")
    parts = [f"{methods}, {facts.get('model')}{version}"]
    if facts.get("score") is not None:
        parts.append(f"score {facts['score']:.2f}")
    parts += number_texts(facts)
    return title, ", ".join(parts)


def _picture(answer: Answer, picture: Image.Image, box: Box, look: Look) -> Image.Image:
    """One map over a picture, in any style but a panel."""
    colored: dict[str, Any] = {"colormap": look.colormap}
    scale: dict[str, Any] = {"clip": look.clip, "clip_low": look.clip_low or 0.0}
    top = answer.ranked.top(_percent(look)) if look.regions else None
    if look.style == "outlines":
        if top is not None:
            return render.outlines(picture, top, box, **colored)
        clip_low = render.OUTLINED_FROM if look.clip_low is None else look.clip_low
        return render.outlines(
            picture, answer.values(look), box, clip_low=clip_low, signed=look.signed, **colored
        )
    if look.style == "masked":
        if top is not None:
            return render.masked(picture, top, box, clip=100)
        return render.masked(picture, answer.values(look), box, **scale)
    if look.style == "heatmap":
        drawn = render.heatmap(picture, answer.values(look), box, signed=look.signed, **scale, **colored)
    else:
        opacity = render.DEFAULT_OPACITY if look.opacity is None else look.opacity
        colored |= {"opacity": opacity, "photo_colors": look.photo_colors}
        drawn = render.overlay(picture, answer.values(look), box, signed=look.signed, **scale, **colored)
    return drawn if top is None else render.outlined(drawn, top, box)


def _region_tiles(answer: Answer, picture: Image.Image, box: Box, look: Look) -> dict[str, Image.Image]:
    """What a panel of regions shows beside the photo."""
    colored = replace(look, style="heatmap")
    return {
        "pixels": _picture(answer, picture, box, replace(colored, regions=False)),
        "regions": _picture(answer, picture, box, colored),
        f"best {_percent(look):g} %": _picture(answer, picture, box, replace(look, style="masked")),
    }


def _percent(look: Look) -> float:
    return regions.TOP_PERCENT if look.top is None else look.top


def _arrays(answers: Sequence[Answer], look: Look) -> dict[str, Any]:
    """All outputs by name; of several methods by `method/name`."""
    found = {answer.method: answer.arrays(with_regions=look.regions) for answer in answers}
    if len(answers) == 1:
        return found[answers[0].method]
    return {f"{method}/{name}": value for method, arrays in found.items() for name, value in arrays.items()}


def _save(
    picture: Image.Image,
    style: str,
    stream: io.BytesIO,
    format: str,
    facts: Mapping[str, Any],
    software: str,
) -> None:
    if format == "png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text(marks.SOFTWARE_KEY, software)
        info.add_text(marks.FACTS_KEY, marks.text(facts))
        compression = _RUNS_ALONE if style in _PHOTO_STYLES else {"compress_level": _PNG_LEVEL}
        picture.save(stream, "PNG", pnginfo=info, **compression)
    else:
        picture.save(stream, "JPEG", quality=_JPEG_QUALITY, comment=marks.comment(software, facts))
