"""Maps and photos as the pictures that a page shows: the browser gives maps colors and opacity."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from saliency_client import maps, render
from saliency_client.cli import marks
from saliency_client.cli.version import release
from saliency_client.images import Box, Photo

SEQUENTIAL = (render.SEQUENTIAL, "bids:viridis", "matlab:gray")
DIVERGING = (render.DIVERGING, "colorbrewer:PiYG_r", "colorbrewer:PuOr_r")
"""The color maps that a page offers; the first of each is what `explain` draws with."""

VIEW_SIDE, THUMB_SIDE = 1024, 320
"""Pixels of the long side, at most: of a photo that is looked at alone, and in a grid."""

_JPEG_QUALITY = 85
# Below this, JPEG's blocks would be seen, and PNG is small enough.
_PLAIN_SIDE = 128
_MOST = 127


@dataclass(frozen=True)
class MapPicture:
    """A map for a page.

    Attributes:
        png: gray, 8 bits, of the map's own size. Of a map without signs 0 is `low` and 255 is `high`; of one
            with signs 128 is 0, 255 is `high` and 1 is -`high`. Values beyond are cut, as by `explain`.
        low, high: in the map's own unit.
        signed: whether the map has signs.
    """

    png: bytes
    low: float
    high: float
    signed: bool


def map_picture(
    values: npt.ArrayLike, *, signed: bool = False, clip: float = maps.DEFAULT_CLIP, compress: bool = True
) -> MapPicture:
    """A map as a gray picture, from which a page makes any color.

    Args:
        values: [H, W], a raw map.
        signed: it has signs, and 0 has to stay 0.
        clip: the percentile that gets the hottest color, in (0, 100], as in `maps.normalize`.
        compress: make the file small, which takes longer than all else; not for one that goes nowhere.

    Raises:
        ValueError: the map is not [H, W] and finite, or `clip` is out of range.

    Example:
        >>> from saliency_client.web.map_picture import map_picture
        >>> picture = map_picture([[0.0, 1.0, 4.0]], clip=100)
        >>> picture.low, picture.high
        (0.0, 4.0)
    """
    one = np.asarray(values, np.float32)
    if one.ndim != 2:
        raise ValueError(f"a map is [H, W]; this one has shape {list(one.shape)}")
    low, high = maps.limits(one, clip=clip, signed=signed)
    scaled = maps.rescale(one, low, high)  # as `maps.normalize` does
    levels = np.rint(scaled * _MOST) + 128 if signed else np.rint(scaled * 255)
    png = _gray_png(levels.astype(np.uint8), compress=compress)
    return MapPicture(png, float(low.item()), float(high.item()), signed)


@dataclass(frozen=True)
class PhotoPictures:
    """A photo for a page.

    Attributes:
        view: the picture that is looked at alone, encoded.
        thumb: the part that the model saw, for a grid, encoded.
        type: of both files: "jpeg" or "png".
        size: (width, height) of `view`.
        box: (left, top, right, bottom) of the part of `view` that the map covers, in its pixels, not rounded.
    """

    view: bytes
    thumb: bytes
    type: Literal["jpeg", "png"]
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def photo_pictures(photo: Photo, *, side: int = VIEW_SIDE) -> PhotoPictures:
    """A photo at a size to be looked at, and small, as a file each.

    Args:
        photo: as `images.load_image` gives it.
        side: pixels of the long side of the larger picture, at most.

    Example:
        >>> from saliency_client.images import load_image
        >>> from saliency_client.web.map_picture import photo_pictures
        >>> pictures = photo_pictures(load_image("cat.png", size=(224, 224)), side=150)
        >>> pictures.size, pictures.box
        ((150, 125), (12.5, 0.0, 137.5, 125.0))
    """
    whole = photo.picture if photo.picture.mode == "RGB" else photo.picture.convert("RGB")
    view = _at_most(whole, side)
    across, down = view.width / whole.width, view.height / whole.height
    left, top, right, bottom = photo.box
    box = (left * across, top * down, right * across, bottom * down)
    # In a grid Lanczos' edges are not seen; it takes twice the time.
    thumb = _at_most(view.crop(_seen(box, view.size)), THUMB_SIDE, Image.Resampling.HAMMING)
    kind: Literal["jpeg", "png"] = "png" if max(view.size) <= _PLAIN_SIDE else "jpeg"
    return PhotoPictures(_photo(view, kind), _photo(thumb, kind), kind, view.size, box)


@cache
def color_tables() -> dict[str, dict[str, str]]:
    """The colors of the color maps that a page offers: 256 times rrggbb by short name."""
    return {
        kind: {name.partition(":")[2]: render.color_table(name).tobytes().hex() for name in names}
        for kind, names in (("sequential", SEQUENTIAL), ("diverging", DIVERGING))
    }


def _seen(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """The part of a picture that a box covers, at least a pixel of it."""
    left, top, right, bottom = (round(side) for side in box)
    left, top = min(max(left, 0), size[0] - 1), min(max(top, 0), size[1] - 1)
    return left, top, min(max(right, left + 1), size[0]), min(max(bottom, top + 1), size[1])


def _at_most(
    picture: Image.Image, side: int, filter: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """A picture whose long side has so many pixels, at most."""
    factor = side / max(picture.size)
    if factor >= 1:
        return picture
    width, height = (max(1, round(factor * one)) for one in picture.size)
    return picture.resize((width, height), filter, reducing_gap=2.0)


def _photo(picture: Image.Image, kind: str) -> bytes:
    return _encoded(picture, kind.upper())


@cache
def _software() -> str:
    return f"{marks.NAME} {release()}"


def _gray_png(levels: npt.NDArray[np.uint8], *, compress: bool) -> bytes:
    """Levels [H, W] as a gray PNG, in a third of Pillow's time, which tries five filters for each row."""
    height, width = levels.shape
    # A row is written as what it has more than the row above, and 2 says so.
    rows = np.full((height, width + 1), 2, np.uint8)
    rows[0, 1:] = levels[0]
    np.subtract(levels[1:], levels[:-1], out=rows[1:, 1:])
    # Runs are what maps have to be made small; looking for more takes longer, for the same size.
    packer = zlib.compressobj(-1 if compress else 0, strategy=zlib.Z_RLE)
    texts = {marks.SOFTWARE_KEY: _software(), marks.FACTS_KEY: marks.text({})}
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        *((b"tEXt", f"{key}\0{text}".encode("latin-1")) for key, text in texts.items()),
        (b"IDAT", packer.compress(rows.tobytes()) + packer.flush()),
        (b"IEND", b""),
    ]
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        checked = kind + content
        pieces += [struct.pack(">I", len(content)), checked, struct.pack(">I", zlib.crc32(checked))]
    return b"".join(pieces)


def _encoded(picture: Image.Image, kind: str) -> bytes:
    """A file's bytes. It says that this tool made it, so that no command takes it for a photo."""
    stream, software = io.BytesIO(), _software()
    if kind == "PNG":
        info = PngInfo()
        info.add_text(marks.SOFTWARE_KEY, software)
        info.add_text(marks.FACTS_KEY, marks.text({}))
        picture.save(stream, kind, pnginfo=info)
    else:
        picture.save(stream, kind, quality=_JPEG_QUALITY, comment=marks.comment(software, {}))
    return stream.getvalue()
