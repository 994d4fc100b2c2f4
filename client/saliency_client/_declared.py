"""What picture files say of their samples beyond what Pillow passes on."""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from PIL import Image

from saliency_client._levels import Declared

UPPER_BITS_ONLY = "RGB;16"
"""Stands for the raw mode of color of more than 8 bits whose lower bits Pillow does not give."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD = 4096

# Tags of TIFF 6.0, and of GDAL.
_SUBFILE, _COMPRESSION = 254, 259
_BITS, _PHOTOMETRIC, _DESCRIPTION, _BANDS, _PLANAR = 258, 262, 270, 277, 284
_MIN_SAMPLE, _MAX_SAMPLE, _EXTRA, _FORMAT, _SMIN, _SMAX = 280, 281, 338, 339, 340, 341
_GDAL_NODATA = 42113
_SEPARATE, _YCBCR = 2, 6
# libtiff gives samples in the machine's byte order, and Pillow unpacks some of them in the file's.
_SWAPPED = {"F;32BF": "F;32F", "I;16BS": "I;16S", "I;32BS": "I;32S", "I;32B": "I;32"}


@dataclass(frozen=True)
class Png:
    """Of a PNG file: bits of a sample, and how many of them are significant (sBIT)."""

    depth: int
    significant: int | None


def raw_mode(picture: Image.Image) -> str:
    """Pillow's name for the samples in the file; empty where it is not known, as of a picture in memory."""
    tiles = getattr(picture, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0][3]
    if arguments == ("RGB", 65535):  # Pillow's decoders of these bring them to 8 bits
        return "RGB;16B" if tiles[0][0] == "ppm" else UPPER_BITS_ONLY
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def with_raw_mode(picture: Any, raw: str) -> None:
    """Have the samples of a picture that is not decoded yet unpacked in another way."""
    tiles = []
    for tile in picture.tile:
        codec, box, offset, arguments = tile
        if codec == "ppm":
            codec, arguments = "raw", (raw, 0, 1)
        else:
            arguments = (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
        tiles.append(getattr(type(tile), "_make", tuple)((codec, box, offset, arguments)))
    picture.tile = tiles


def is_reduced(picture: Image.Image) -> bool:
    """Whether a TIFF file says that its first page is a small copy of another, as cameras' raw files do."""
    tags = _tags(picture)
    return bool(tags) and tags.get(_SUBFILE, 0) == 1


def mend_tiff(picture: Image.Image) -> None:
    """Correct Pillow's idea of the byte order of a compressed TIFF file's samples, before it is decoded."""
    raw = raw_mode(picture)
    compressed = bool(_tags(picture)) and picture.tile[0][0] == "libtiff"  # type: ignore[attr-defined]
    if compressed and sys.byteorder == "little" and raw in _SWAPPED:
        with_raw_mode(picture, _SWAPPED[raw])


def is_misread(picture: Image.Image) -> bool:
    """Whether Pillow unpacks the samples of a TIFF file wrongly.

    Of bands that are stored apart it takes the letters of the raw mode for those of the bands, which is right
    for RGB of 8 bits alone. YCbCr that is not compressed it takes for whole colors, whatever is declared.
    """
    tags = _tags(picture)
    if tags and tags.get(_PHOTOMETRIC) == _YCBCR and tags.get(_COMPRESSION, 1) == 1:
        return True
    if not tags or tags.get(_PLANAR) != _SEPARATE:
        return False
    bits = tags.get(_BITS, (1,))
    return tags.get(_BANDS, 1) == 1 or max(bits) > 8 or raw_mode(picture) not in ("R", "RGB")


def read_png(stream: BinaryIO) -> Png | None:
    """The facts of a PNG file, from its chunks before the pixels (ISO/IEC 15948)."""
    stream.seek(0)
    if stream.read(8) != _PNG_SIGNATURE:
        return None
    depth, significant = 8, None
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            break
        if kind == b"IHDR":
            depth = stream.read(length)[8]
        elif kind == b"sBIT" and length <= 4:
            significant = max(stream.read(length), default=None)
        else:
            stream.seek(length, 1)
        stream.seek(4, 1)
    return Png(depth, significant)


def jpeg2000_bits(stream: BinaryIO) -> tuple[int, ...]:
    """Bits of each component of a JPEG 2000 file (ISO/IEC 15444-1, A.5.1); empty if it is none."""
    stream.seek(0)
    head = stream.read(_HEAD * 16)
    at = head.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(head) < at + 42:
        return ()
    count = int.from_bytes(head[at + 40 : at + 42], "big")
    return tuple((depth & 0x7F) + 1 for depth in head[at + 42 : at + 42 + 3 * count : 3])


def gray_samples(picture: Image.Image, raw: str, stream: BinaryIO | None) -> Declared:
    """What is declared of the samples of a gray picture of modes I, F, I;16…, or L."""
    declared = _of_file(picture, raw, stream)
    tags = _tags(picture)
    if not tags:
        return declared
    return tiff_samples(tags, declared, inverted_already=raw.split(";")[-1].endswith("I"))


def tiff_samples(tags: Any, declared: Declared, *, inverted_already: bool = False) -> Declared:
    """What the tags of a TIFF file add to what is known of its samples."""
    inverted = tags.get(_PHOTOMETRIC) == 0 and not inverted_already
    black_to_white, source = _tiff_range(tags, declared)
    missing = _number(tags.get(_GDAL_NODATA))
    return Declared(declared.bits, declared.kind, black_to_white, source, inverted, missing)


def alpha_of_tiff(tags: Any, bands: int) -> Literal["none", "straight", "premultiplied", "unknown"]:
    """What the last of a TIFF file's bands is, of two or four."""
    if bands not in (2, 4):
        return "none"
    extra = tags.get(_EXTRA, (0,))
    kind = extra[0] if isinstance(extra, tuple) else extra
    known: dict[int, Literal["straight", "premultiplied"]] = {1: "premultiplied", 2: "straight"}
    return known.get(kind, "unknown")


def is_signed_bytes(picture: Image.Image) -> bool:
    """Whether 8 bits that Pillow takes for unsigned are not."""
    tags = _tags(picture)
    return bool(tags) and picture.mode == "L" and _sample_format(tags) == (2,)


def notes_of_bands(picture: Image.Image) -> list[str]:
    """What is not shown of a TIFF file's bands, or is not sure."""
    tags = _tags(picture)
    if not tags:
        return []
    unused = tags.get(_BANDS, 1) - len([band for band in picture.getbands() if band != "X"])
    if unused > 0:
        return [f"{unused} more {'band is' if unused == 1 else 'bands are'} not shown"]
    if picture.mode == "RGBA" and _EXTRA not in tags and tags.get(_BANDS) == 4:
        return ["its fourth band is taken as transparency; the file does not say what it is"]
    return []


def _of_file(picture: Image.Image, raw: str, stream: BinaryIO | None) -> Declared:
    if picture.mode == "F":
        return Declared(32, "f")
    if picture.mode == "L":
        return Declared(8, "i" if is_signed_bytes(picture) else "u")
    if picture.format == "PPM":
        # Pillow scales by the file's largest value, unless that is of 16 bits.
        tiles: Any = getattr(picture, "tile", None)
        largest = tiles[0][3][1] if tiles and len(tiles[0][3]) == 2 else 65535
        return Declared(16, "u", None if largest == 65535 else (0, 65535))
    if picture.format == "JPEG2000" and stream is not None:
        # Pillow shifts the bits up to 16.
        bits = max(jpeg2000_bits(stream), default=16)
        return Declared(16, "u", None if bits >= 16 else (0, 65535))
    if picture.mode != "I" or picture.format == "PNG":
        return Declared(12 if raw == "I;12" else 16, "u")
    if raw in ("I;16S", "I;16BS", "I;16NS"):
        return Declared(16, "i")
    tags = _tags(picture)
    return Declared(32, "u" if tags and _sample_format(tags) == (1,) else "i")


def _tiff_range(tags: Any, declared: Declared) -> tuple[tuple[float, float] | None, str]:
    """Black and white that a TIFF file gives, and by what; no words where nothing can be cut off by them."""
    text = tags.get(_DESCRIPTION)
    text = text if isinstance(text, str) else ""
    if text.startswith("ImageJ="):
        ends = [re.search(rf"^{end}=([-+.\deE]+)\s*$", text, re.M) for end in ("min", "max")]
        low, high = (_number(found and found[1]) for found in ends)
        if low is not None and high is not None and low < high:
            return (low, high), "the range that ImageJ wrote"
    significant = re.search(r'SignificantBits="(\d+)"', text)
    if significant and 0 < int(significant[1]) <= declared.bits:
        return (0, 2 ** int(significant[1]) - 1), ""
    low, high = (_number(tags.get(tag)) for tag in (_SMIN, _SMAX))
    if high is None:
        low, high = (_number(tags.get(tag)) for tag in (_MIN_SAMPLE, _MAX_SAMPLE))
    low = low or 0
    default = declared.kind != "f" and high == 2**declared.bits - 1
    if high is None or high <= low or default:
        return declared.range, declared.source
    return (low, high), "as the file says"


def _sample_format(tags: Any) -> tuple[int, ...]:
    formats = tags.get(_FORMAT, (1,))
    formats = formats if isinstance(formats, tuple) else (formats,)
    return (formats[0],) if len(set(formats)) == 1 else tuple(formats)


def _number(value: Any) -> float | None:
    """A tag's first value as a number."""
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("ascii", "ignore")
    if isinstance(value, str):
        value = value.strip("\0 ")
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if number - number == 0 else None


def _tags(picture: Image.Image) -> Any:
    """The tags of a TIFF file; None for any other."""
    return getattr(picture, "tag_v2", None) if picture.format == "TIFF" else None
