"""Maps to pictures, over the original photo and at its size. Every function is pure."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from saliency_client import maps
from saliency_client._numbers import is_whole
from saliency_client.images import Box, shown_picture
from saliency_client.maps import DEFAULT_CLIP, FloatArray

Picture = Image.Image | npt.NDArray[Any]
"""What a map is drawn over: a Pillow image of any mode, or an array [H, W, C], [1, H, W, C] or [H, W]."""

SEQUENTIAL = "bids:inferno"
DIVERGING = "colorbrewer:RdBu_r"
DEFAULT_OPACITY = 0.9

_INK = (34, 34, 34)
_FAINT_INK = (110, 110, 110)
_PAPER = (255, 255, 255)
_NO_DATA = (208, 208, 208)
_PALE_BLACK, _PALE_CONTRAST = 160, 0.3
_BAND_PIXELS = 2**15


def heatmap(
    picture: Picture,
    values: npt.ArrayLike,
    box: Box | None = None,
    *,
    colormap: str | None = None,
    clip: float = DEFAULT_CLIP,
    signed: bool = False,
) -> Image.Image:
    """The map in colors, at the picture's size; gray where the model saw nothing.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C]; only its size is used.
        values: [H, W], a raw map.
        box: the part of the picture that the map covers, as `Photo.box`; the whole picture if None.
        colormap: a name of the `cmap` catalog; "inferno", or a diverging one if `signed`.
        clip: percentile that is shown as the hottest color, in (0, 100].
        signed: the map has a sign; 0 is the middle of the color map.

    Returns:
        An RGB picture.

    Raises:
        ValueError: unknown color map, `clip` out of range, a map that is not [H, W] and finite, or an array
            that is no picture.
        TypeError: the picture is neither an image nor an array, such as a path.

    Example:
        >>> from saliency_client import render
        >>> from saliency_client.images import load_image
        >>> photo = load_image("cat.png", size=(224, 224))
        >>> explanation = client.explain(photo.array)
        >>> picture = render.heatmap(photo.picture, explanation.saliency[0], photo.box, colormap="viridis")
        >>> picture.size == photo.picture.size
        True
    """
    size = shown_picture(picture).size
    placed = _place(maps.normalize(_one_map(values), clip=clip, signed=signed), size, box)
    return _in_bands(size, lambda rows: _colored(placed.rows(rows), colormap, signed))


def overlay(
    picture: Picture,
    values: npt.ArrayLike,
    box: Box | None = None,
    *,
    colormap: str | None = None,
    opacity: float = DEFAULT_OPACITY,
    clip: float = DEFAULT_CLIP,
    signed: bool = False,
) -> Image.Image:
    """The map in colors over the photo, stronger where it is hotter; dim where the model saw nothing.

    The photo is shown in grays, so that every color is the map's.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C].
        values: [H, W], a raw map.
        box: as in `heatmap`.
        colormap: as in `heatmap`.
        opacity: of the hottest color, in [0, 1].
        clip: as in `heatmap`.
        signed: as in `heatmap`.

    Returns:
        An RGB picture of the photo's size.

    Raises:
        ValueError: as `heatmap`, or `opacity` out of range.
        TypeError: as `heatmap`.

    Example:
        >>> from saliency_client import maps, render
        >>> from saliency_client.images import load_image
        >>> photo = load_image("cat.png", size=(224, 224))
        >>> gradients = client.explain(photo.array, outputs="gradients").gradients[0]
        >>> render.overlay(photo.picture, maps.signed(gradients), photo.box, signed=True).save("signed.png")
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity:g}; it must be within [0, 1]")
    photo = shown_picture(picture)
    placed = _place(maps.normalize(_one_map(values), clip=clip, signed=signed), photo.size, box)

    def draw(rows: slice) -> npt.NDArray[np.uint8]:
        band, gray = placed.rows(rows), _rows_of(photo, rows, "L")[..., None]
        alpha = (opacity * np.abs(band.values))[..., None]
        blended = gray * (1 - alpha) + _colored(band, colormap, signed) * alpha
        return _bytes(np.where(band.seen[..., None], blended, _PALE_BLACK + _PALE_CONTRAST * gray))

    return _in_bands(photo.size, draw)


def masked(
    picture: Picture,
    values: npt.ArrayLike,
    box: Box | None = None,
    *,
    clip: float = DEFAULT_CLIP,
) -> Image.Image:
    """The photo times the normalized map: bright where the map is hot, black where it is not.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C].
        values: [H, W], a raw map.
        box: as in `heatmap`.
        clip: as in `heatmap`.

    Returns:
        An RGB picture of the photo's size.

    Raises:
        ValueError, TypeError: as `heatmap`.

    Example:
        >>> from PIL import Image
        >>> from saliency_client import render
        >>> white = Image.new("RGB", (2, 1), "white")
        >>> [render.masked(white, [[0.0, 7.0]]).getpixel((x, 0)) for x in (0, 1)]
        [(0, 0, 0), (255, 255, 255)]
    """
    photo = shown_picture(picture)
    placed = _place(maps.normalize(_one_map(values), clip=clip), photo.size, box)
    return _in_bands(
        photo.size, lambda rows: _bytes(_rows_of(photo, rows, "RGB") * placed.rows(rows).values[..., None])
    )


def panel(
    picture: Picture,
    gradients: npt.ArrayLike,
    box: Box | None = None,
    *,
    title: str = "",
    subtitle: str = "",
    colormap: str | None = None,
    clip: float = DEFAULT_CLIP,
) -> Image.Image:
    """The photo, its absolute, positive and negative gradients, and photo times map, side by side.

    The three maps share one scale, from 0 to the percentile of the absolute map, so that their colors
    can be compared. Shown is the part of the photo that the model saw, 256 to 448 pixels on its long side.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C].
        gradients: [H, W, C], the signed derivative of the score.
        box: as in `heatmap`.
        title: such as the class and its probability.
        subtitle: such as the method and the model.
        colormap: as in `heatmap`.
        clip: as in `heatmap`.

    Returns:
        An RGB picture.

    Raises:
        ValueError: as `heatmap`, or the gradient is not [H, W, C].
        TypeError: as `heatmap`.

    Example:
        >>> from saliency_client import render
        >>> from saliency_client.images import load_image
        >>> photo = load_image("cat.png", size=(224, 224))
        >>> explanation = client.explain(photo.array, outputs="gradients")
        >>> title = f"{explanation.label[0]}, {explanation.probability[0]:.0%}"
        >>> render.panel(photo.picture, explanation.gradients[0], photo.box, title=title).save("panel.png")
    """
    signal = np.asarray(gradients, np.float32)
    if signal.ndim != 3:
        raise ValueError(f"gradients are [H, W, C]; these have shape {list(signal.shape)}")
    views = {"absolute": maps.absolute, "positive": maps.positive, "negative": maps.negative}
    raw = {name: view(signal) for name, view in views.items()}
    _, high = maps.limits(raw["absolute"], clip=clip)
    photo = shown_picture(picture)
    small, box = _tile(photo, _checked_box(box, photo.size))
    placed = {
        name: _place(maps.rescale(values, 0, high), small.size, box).rows(slice(0, small.height))
        for name, values in raw.items()
    }
    pixels = np.asarray(small, np.float32)
    tiles = [
        ("original", small),
        *((name, Image.fromarray(_colored(view, colormap, signed=False))) for name, view in placed.items()),
        ("original x absolute", Image.fromarray(_bytes(pixels * placed["absolute"].values[..., None]))),
    ]
    bar = _ColorBar(_table(colormap or SEQUENTIAL), "0", f">= {float(high.item()):.2g}", first=1, last=3)
    return _sheet(tiles, title, subtitle, bar)


def colormap_name(name: str) -> str:
    """The full name of a color map of the `cmap` catalog; "_r" at the end reverses it.

    Raises:
        ValueError: there is none of that name; the message lists near ones.

    Example:
        >>> from saliency_client import render
        >>> render.colormap_name("viridis_r")
        'bids:viridis_r'
    """
    from cmap import Catalog

    catalog = Catalog()
    forward = name.removesuffix("_r")
    try:
        return catalog.resolve(forward) + name[len(forward) :]
    except KeyError:
        import difflib

        near = difflib.get_close_matches(name.lower(), list(catalog.unique_keys()), n=3)
        listed = (
            f"near ones: {', '.join(near)}" if near else "some: inferno, viridis, magma, turbo, jet, RdBu_r"
        )
        raise ValueError(f"there is no color map {name!r}; {listed}") from None


@dataclass(frozen=True)
class _Band:
    """Rows of a map at a picture's size: float32 [h, w], and bool [h, w] where the model saw anything."""

    values: FloatArray
    seen: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Placed:
    """A normalized map over a picture; it is grown to the picture's size by bands, as they are drawn."""

    values: Image.Image
    size: tuple[int, int]
    box: Box

    def rows(self, rows: slice) -> _Band:
        """A band of it."""
        left, top, right, bottom = self.box
        shape = rows.stop - rows.start, self.size[0]
        values, seen = np.zeros(shape, np.float32), np.zeros(shape, bool)
        first, last = max(rows.start, top), min(rows.stop, bottom)
        start, stop = max(0, left), min(self.size[0], right)
        if first < last and start < stop:
            across, down = self.values.width / (right - left), self.values.height / (bottom - top)
            part = (
                (start - left) * across,
                (first - top) * down,
                min((stop - left) * across, self.values.width),
                min((last - top) * down, self.values.height),
            )
            grown = self.values.resize((stop - start, last - first), Image.Resampling.BILINEAR, box=part)
            where = slice(first - rows.start, last - rows.start), slice(start, stop)
            values[where], seen[where] = np.asarray(grown), True
        return _Band(values, seen)


def _one_map(values: npt.ArrayLike) -> FloatArray:
    one = np.asarray(values, np.float32)
    if one.ndim != 2:
        one_of = "; take one of the maps: saliency[i]" if one.ndim == 3 else ""
        raise ValueError(f"a map is [H, W]; this one has shape {list(one.shape)}{one_of}")
    return one


def _checked_box(box: Box | None, size: tuple[int, int]) -> Box:
    if box is None:
        return (0, 0, *size)
    whole = len(box) == 4 and all(is_whole(side) for side in box)
    if not whole or not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"a box is (left, top, right, bottom) in pixels, as Photo.box; this is {box!r}")
    return box


def _place(values: FloatArray, size: tuple[int, int], box: Box | None) -> _Placed:
    """Put a map back over the picture that its model input was cut from."""
    return _Placed(Image.fromarray(values), size, _checked_box(box, size))


def _rows_of(picture: Image.Image, rows: slice, mode: str) -> FloatArray:
    """A band of a picture, float32 [h, w] or [h, w, 3]."""
    band = picture.crop((0, rows.start, picture.width, rows.stop))
    return np.asarray(band.convert(mode), np.float32)


@lru_cache(maxsize=8)
def _table(colormap: str) -> npt.NDArray[np.uint8]:
    """The 256 colors of a map, uint8 [256, 3]."""
    from cmap import Colormap

    colors = np.asarray(Colormap(colormap_name(colormap)).lut(256), np.float64)[:, :3]
    return np.rint(colors * 255).astype(np.uint8)


def _colored(placed: _Band, colormap: str | None, signed: bool) -> npt.NDArray[np.uint8]:
    table = _table(colormap or (DIVERGING if signed else SEQUENTIAL))
    position = (placed.values + 1) / 2 if signed else placed.values
    colors = table[np.rint(position * 255).astype(np.uint8)]
    return np.where(placed.seen[..., None], colors, np.asarray(_NO_DATA, np.uint8))


def _in_bands(size: tuple[int, int], draw: Callable[[slice], npt.NDArray[np.uint8]]) -> Image.Image:
    """Draw a picture by bands of rows: a large photo's floats would take a gigabyte at once."""
    width, height = size
    drawn = Image.new("RGB", size)
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        drawn.paste(Image.fromarray(draw(rows)), (0, top))
    return drawn


def _bytes(pixels: FloatArray) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def _tile(picture: Image.Image, box: Box | None) -> tuple[Image.Image, Box]:
    """What the model saw of the photo, at a size for a panel, and the map's box there."""
    width, height = picture.size
    left, top, right, bottom = box or (0, 0, width, height)
    seen = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    part = picture.crop(seen).convert("RGB")
    scale = min(max(1.0, 256 / max(part.size)), 448 / max(part.size))
    size = max(1, round(part.width * scale)), max(1, round(part.height * scale))
    filter = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    moved = (left - seen[0], top - seen[1], right - seen[0], bottom - seen[1])
    left, top, right, bottom = (round(side * scale) for side in moved)
    # Of a picture of 1 x 3000 pixels nothing would be left across.
    return part.resize(size, filter), (left, top, max(right, left + 1), max(bottom, top + 1))


@dataclass(frozen=True)
class _ColorBar:
    """A scale below the tiles `first` to `last`."""

    table: npt.NDArray[np.uint8]
    low: str
    high: str
    first: int
    last: int


def _sheet(
    tiles: Sequence[tuple[str, Image.Image]], title: str, subtitle: str, bar: _ColorBar
) -> Image.Image:
    """Tiles in a row below their titles, a caption above and a scale below."""
    width, height = tiles[0][1].size
    text = _font(max(13, round(max(width, height) / 22)))
    large = _font(round(text.size * 1.5))
    line, gap, margin = round(text.size * 1.6), round(text.size * 0.9), round(text.size * 1.4)
    cell = max(width, *(math.ceil(text.getlength(name)) for name, _ in tiles))
    caption = (round(large.size * 1.5) if title else 0) + (line if subtitle else 0)
    caption += gap if caption else 0
    total = 2 * margin + len(tiles) * cell + (len(tiles) - 1) * gap
    top = margin + caption + line
    sheet = Image.new("RGB", (total, top + height + gap + line + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin), _fitted(title, large, total - 2 * margin), _INK, large)
    if subtitle:
        draw.text(
            (margin, margin + caption - gap - line),
            _fitted(subtitle, text, total - 2 * margin),
            _FAINT_INK,
            text,
        )
    lefts = [margin + index * (cell + gap) for index in range(len(tiles))]
    for left, (name, tile) in zip(lefts, tiles, strict=True):
        draw.text((left, top - line), name, _INK, text)
        sheet.paste(tile, (left, top))
    _draw_bar(sheet, bar, lefts[bar.first], lefts[bar.last] + width, top + height + gap, text)
    return sheet


def _draw_bar(
    sheet: Image.Image, bar: _ColorBar, left: int, right: int, top: int, font: ImageFont.FreeTypeFont
) -> None:
    draw = ImageDraw.Draw(sheet)
    space = round(font.size * 0.6)
    start = left + math.ceil(font.getlength(bar.low)) + space
    end = right - math.ceil(font.getlength(bar.high)) - space
    height = round(font.size * 0.8)
    middle = top + round(font.size * 0.7)
    draw.text((left, middle), bar.low, _FAINT_INK, font, anchor="lm")
    draw.text((right, middle), bar.high, _FAINT_INK, font, anchor="rm")
    scale = Image.fromarray(bar.table[None]).resize((end - start, height), Image.Resampling.BILINEAR)
    sheet.paste(scale, (start, middle - height // 2))


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Text that the built-in font can draw, cut to a width; its glyphs are those of ASCII."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = " ".join("".join(character for character in plain if character.isprintable()).split())
    while plain and font.getlength(plain) > width:
        plain = plain.removesuffix("...")[:-1].rstrip() + "..."
    return plain
