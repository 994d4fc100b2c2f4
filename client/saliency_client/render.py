"""Maps to pictures, over the original photo and at its size. Every function is pure."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
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
OUTLINED_FROM = 90.0
"""The percentile above which `outlines` draws a line around a map's values, unless told otherwise."""

_INK = (34, 34, 34)
_FAINT_INK = (110, 110, 110)
_PAPER = (255, 255, 255)
_NO_DATA = (208, 208, 208)
_PALE_BLACK, _PALE_CONTRAST = 160, 0.3
_BAND_PIXELS = 2**15
_MOST_COLUMNS = 5
# Near a half, but no value that many pixels have: rounding, which differs by bands, would decide about those.
_INSIDE = 0.497231
# Of a diverging color map, whose ends are nearly black.
_RAISES, _LOWERS = 216, 39


def heatmap(
    picture: Picture,
    values: npt.ArrayLike,
    box: Box | None = None,
    *,
    colormap: str | None = None,
    clip: float = DEFAULT_CLIP,
    clip_low: float = 0.0,
    signed: bool = False,
) -> Image.Image:
    """The map in colors, at the picture's size; gray where the model saw nothing.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C]; only its size is used.
        values: [H, W], a raw map.
        box: the part of the picture that the map covers, as `Photo.box`; the whole picture if None.
        colormap: a name of the `cmap` catalog; "inferno", or a diverging one if `signed`.
        clip: percentile that is shown as the hottest color, in (0, 100].
        clip_low: percentile up to which values are shown as the coldest color, in [0, clip).
        signed: the map has a sign; 0 is the middle of the color map.

    Returns:
        An RGB picture.

    Raises:
        ValueError: unknown color map, `clip` or `clip_low` out of range, a map that is not [H, W] and finite,
            or an array that is no picture.
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
    placed = _place(_normal(values, clip, clip_low, signed), size, box)
    return _in_bands(size, lambda rows: _colored(placed.rows(rows), colormap, signed))


def overlay(
    picture: Picture,
    values: npt.ArrayLike,
    box: Box | None = None,
    *,
    colormap: str | None = None,
    opacity: float = DEFAULT_OPACITY,
    clip: float = DEFAULT_CLIP,
    clip_low: float = 0.0,
    signed: bool = False,
    photo_colors: bool = False,
) -> Image.Image:
    """The map in colors over the photo, stronger where it is hotter; dim where the model saw nothing.

    The photo is shown in grays, so that every color is the map's, unless its colors are asked for.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C].
        values: [H, W], a raw map.
        box: as in `heatmap`.
        colormap: as in `heatmap`.
        opacity: of the hottest color, in [0, 1].
        clip: as in `heatmap`.
        clip_low: as in `heatmap`.
        signed: as in `heatmap`.
        photo_colors: show the photo in its colors.

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
    placed = _place(_normal(values, clip, clip_low, signed), photo.size, box)

    def draw(rows: slice) -> npt.NDArray[np.uint8]:
        band, gray = placed.rows(rows), _rows_of(photo, rows, "L")[..., None]
        alpha = (opacity * np.abs(band.values))[..., None]
        under = _rows_of(photo, rows, "RGB") if photo_colors else gray
        blended = under * (1 - alpha) + _colored(band, colormap, signed) * alpha
        return _bytes(np.where(band.seen[..., None], blended, _PALE_BLACK + _PALE_CONTRAST * gray))

    return _in_bands(photo.size, draw)


def masked(
    picture: Picture,
    values: npt.ArrayLike,
    box: Box | None = None,
    *,
    clip: float = DEFAULT_CLIP,
    clip_low: float = 0.0,
) -> Image.Image:
    """The photo times the normalized map: bright where the map is hot, black where it is not.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C].
        values: [H, W], a raw map.
        box: as in `heatmap`.
        clip: as in `heatmap`.
        clip_low: as in `heatmap`.

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
    placed = _place(_normal(values, clip, clip_low, signed=False), photo.size, box)
    return _in_bands(
        photo.size, lambda rows: _bytes(_rows_of(photo, rows, "RGB") * placed.rows(rows).values[..., None])
    )


def outlines(
    picture: Picture,
    values: npt.ArrayLike,
    box: Box | None = None,
    *,
    colormap: str | None = None,
    clip_low: float = OUTLINED_FROM,
    signed: bool = False,
) -> Image.Image:
    """The photo with lines around the areas where a map is hot; pale where the model saw nothing.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C].
        values: [H, W], a raw map, whose areas are those of `maps.areas`; or bool [H, W], the areas
            themselves, such as `Regions.top` gives.
        box: as in `heatmap`.
        colormap: as in `heatmap`; its hottest color is the line's.
        clip_low: the percentile above which the smoothed map is outlined, in [0, 100).
        signed: outline the positive and the negative part of the map, each in its color.

    Returns:
        An RGB picture of the photo's size.

    Raises:
        ValueError, TypeError: as `heatmap`.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from saliency_client import render
        >>> areas = np.zeros((100, 100), bool)
        >>> areas[30:60, 30:60] = True
        >>> drawn = render.outlines(Image.new("RGB", (100, 100)), areas, colormap="gray")
        >>> drawn.getpixel((30, 45)), drawn.getpixel((45, 45))
        ((255, 255, 255), (0, 0, 0))
    """
    photo, one = shown_picture(picture), np.asarray(values)
    table = color_table(colormap or (DIVERGING if signed else SEQUENTIAL))
    if one.dtype == bool:
        areas = one.astype(np.int8)
    else:
        areas = maps.areas(_one_map(one), clip_low=clip_low, signed=signed)
    colors = {1: table[_RAISES], -1: table[_LOWERS]} if signed else {1: table[-1]}
    drawn = overlay(photo, np.zeros((1, 1)), box, photo_colors=True)
    for sign, color in colors.items():
        drawn = outlined(drawn, areas == sign, box, color=color)
    return drawn


def outlined(
    picture: Picture,
    areas: npt.ArrayLike,
    box: Box | None = None,
    *,
    color: Sequence[int] | npt.NDArray[np.uint8] = _PAPER,
) -> Image.Image:
    """A picture with lines around areas; all else stays as it is.

    Args:
        picture: a photo, or what another function drew of it.
        areas: bool [H, W], as `Regions.top` gives them.
        box: as in `heatmap`.
        color: of the line, RGB 0..255. A thinner line beside it, black or white, keeps it visible.

    Returns:
        An RGB picture of the picture's size.

    Raises:
        ValueError, TypeError: as `heatmap`.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from saliency_client import render
        >>> render.outlined(Image.new("RGB", (64, 64)), np.eye(8, dtype=bool)).size
        (64, 64)
    """
    photo = shown_picture(picture)
    placed = _place(_one_map(np.asarray(areas, bool)), photo.size, box)
    reach = max(1, round(max(photo.size) / 500))
    beside = _PAPER if float(np.mean(color)) < 128 else (0, 0, 0)

    def draw(rows: slice) -> npt.NDArray[np.uint8]:
        # The line reaches into a band from the rows beside it.
        wide = slice(max(0, rows.start - 2 * reach), min(photo.height, rows.stop + 2 * reach))
        kept = slice(rows.start - wide.start, rows.stop - wide.start)
        band = placed.rows(wide)
        inside = band.values > _INSIDE
        line, halo = (
            (maps.near(inside, by) & maps.near(~inside & band.seen, by) & band.seen)[kept]
            for by in (reach, 2 * reach)
        )
        drawn = np.where(halo[..., None], np.asarray(beside), _rows_of(photo, rows, "RGB"))
        return _bytes(np.where(line[..., None], np.asarray(color), drawn))

    return _in_bands(photo.size, draw)


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
    bar = _ColorBar(color_table(colormap or SEQUENTIAL), "0", f">= {float(high.item()):.2g}", first=1, last=3)
    return _sheet(tiles, title, subtitle, bar)


def side_by_side(
    picture: Picture,
    values: Mapping[str, npt.ArrayLike],
    box: Box | None = None,
    *,
    draw: Callable[..., Image.Image] = overlay,
    title: str = "",
    subtitle: str = "",
    **options: Any,
) -> Image.Image:
    """The photo, and several maps of it beside it, such as those of several methods; each on its own scale.

    Shown is the part of the photo that the model saw, 256 to 448 pixels on its long side; five in a row.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C].
        values: maps [H, W] by the titles that they get.
        box: as in `heatmap`.
        draw: `overlay`, `heatmap`, `masked` or `outlines`.
        title: as in `panel`.
        subtitle: as in `panel`.
        **options: of `draw`.

    Returns:
        An RGB picture.

    Raises:
        ValueError, TypeError: as `draw`.

    Example:
        >>> from saliency_client import render
        >>> from saliency_client.images import load_image
        >>> photo = load_image("cat.png", size=(224, 224))
        >>> found = {name: client.explain(photo.array, method=name).saliency[0] for name in client.methods()}
        >>> render.side_by_side(photo.picture, found, photo.box, draw=render.heatmap).save("methods.png")
    """
    small, box = seen_part(picture, box)
    tiles = {name: draw(small, one, box, **options) for name, one in values.items()}
    return sheet({"original": small, **tiles}, title=title, subtitle=subtitle)


def seen_part(picture: Picture, box: Box | None = None) -> tuple[Image.Image, Box]:
    """The part of a photo that the model saw, 256 to 448 pixels on its long side, and the map's box in it.

    Args:
        picture: the original photo, a Pillow image or an array [H, W, C].
        box: as in `heatmap`.

    Example:
        >>> import numpy as np
        >>> from saliency_client import render
        >>> small, box = render.seen_part(np.zeros((200, 300, 3), np.uint8), (50, 0, 250, 200))
        >>> small.size, box
        ((256, 256), (0, 0, 256, 256))
    """
    photo = shown_picture(picture)
    return _tile(photo, _checked_box(box, photo.size))


def sheet(tiles: Mapping[str, Image.Image], *, title: str = "", subtitle: str = "") -> Image.Image:
    """Pictures of one size side by side below their titles, with a caption; five in a row.

    Example:
        >>> from PIL import Image
        >>> from saliency_client import render
        >>> tile = Image.new("RGB", (256, 256))
        >>> render.sheet({"one": tile, "two": tile}, title="two tiles").mode
        'RGB'
    """
    return _sheet(list(tiles.items()), title, subtitle, None)


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


def _normal(values: npt.ArrayLike, clip: float, clip_low: float, signed: bool) -> FloatArray:
    return maps.normalize(_one_map(values), clip=clip, clip_low=clip_low, signed=signed)


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
def color_table(colormap: str) -> npt.NDArray[np.uint8]:
    """The 256 colors of a color map of the `cmap` catalog, uint8 [256, 3], from the coldest to the hottest.

    Raises:
        ValueError: as `colormap_name`.
    """
    from cmap import Colormap

    colors = np.asarray(Colormap(colormap_name(colormap)).lut(256), np.float64)[:, :3]
    return np.rint(colors * 255).astype(np.uint8)


def _colored(placed: _Band, colormap: str | None, signed: bool) -> npt.NDArray[np.uint8]:
    table = color_table(colormap or (DIVERGING if signed else SEQUENTIAL))
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
    tiles: Sequence[tuple[str, Image.Image]], title: str, subtitle: str, bar: _ColorBar | None
) -> Image.Image:
    """Tiles in rows below their titles, a caption above and, of a single row, a scale below."""
    width, height = tiles[0][1].size
    text = _font(max(13, round(max(width, height) / 22)))
    large = _font(round(text.size * 1.5))
    line, gap, margin = round(text.size * 1.6), round(text.size * 0.9), round(text.size * 1.4)
    cell = max(width, *(math.ceil(text.getlength(name)) for name, _ in tiles))
    caption = (round(large.size * 1.5) if title else 0) + (line if subtitle else 0)
    caption += gap if caption else 0
    rows = math.ceil(len(tiles) / _MOST_COLUMNS)
    columns = math.ceil(len(tiles) / rows)
    total = 2 * margin + columns * cell + (columns - 1) * gap
    top, step = margin + caption + line, height + gap + line
    bottom = top + (rows - 1) * step + height
    sheet = Image.new("RGB", (total, bottom + (gap + line if bar else 0) + margin), _PAPER)
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
    lefts = [margin + index * (cell + gap) for index in range(columns)]
    for index, (name, tile) in enumerate(tiles):
        left, at = lefts[index % columns], top + (index // columns) * step
        draw.text((left, at - line), name, _INK, text)
        sheet.paste(tile, (left, at))
    if bar:
        _draw_bar(sheet, bar, lefts[bar.first], lefts[bar.last] + width, bottom + gap, text)
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
