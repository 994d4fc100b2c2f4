"""The samples of TIFF files of kinds that Pillow does not read, or gets wrong (TIFF 6.0 and later notes)."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _BANDS, _ROWS_PER_STRIP, _STRIP_SIZES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES, _FORMAT = 322, 323, 324, 325, 339
_DEFLATE = (8, 32946)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE = 2
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3
_KINDS = {1: "u", 2: "i", 3: "f"}
# TIFF 6.0, and Technical Note 2 of DNG.
_COLORS = {
    3: "a palette",
    4: "a mask",
    5: "inks",
    6: "YCbCr",
    8: "CIELAB",
    9: "CIELAB",
    10: "CIELAB",
    32803: "a raw sensor",
    34892: "a raw sensor",
}
_NAMES = {1: "whole", 2: "signed whole", 3: "real", 5: "complex", 6: "complex"}


class Unread(Exception):
    """A kind of file that is not read here; the text says what it holds, as the rest of a sentence."""


@dataclass(frozen=True)
class TiffFile:
    """The first page of a TIFF file, its samples not read yet.

    Attributes:
        tags: Pillow's directory.
        size: (width, height).
        bands: samples of a pixel.
        dtype: of a sample, in the file's byte order.
    """

    stream: BinaryIO
    tags: Any
    size: tuple[int, int]
    bands: int
    dtype: np.dtype[Any]

    def samples(self) -> npt.NDArray[Any]:
        """All of them, [H, W, bands]."""
        width, height = self.size
        separate = self.tags.get(_PLANAR) == _SEPARATE and self.bands > 1
        wide, high, offsets, sizes = self._chunks()
        depth = 1 if separate else self.bands
        across, down = math.ceil(width / wide), math.ceil(height / high)
        whole = np.zeros((height, width, self.bands), self.dtype.newbyteorder("="))
        for index in range(across * down * (self.bands if separate else 1)):
            band, place = divmod(index, across * down)
            row, column = place // across * high, place % across * wide
            # The last strip has only the rows that are left; tiles are whole.
            rows = high if _TILE_OFFSETS in self.tags else min(high, height - row)
            part = self._chunk(offsets[index], sizes[index], (rows, wide, depth))
            target = whole[row : row + high, column : column + wide, band : band + depth]
            target[...] = part[: target.shape[0], : target.shape[1]]
        return whole

    def _chunks(self) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """Width and height of a strip or tile, and where each is and how long."""
        if _TILE_OFFSETS in self.tags:
            names = _TILE_OFFSETS, _TILE_SIZES
            wide, high = int(self.tags[_TILE_WIDTH]), int(self.tags[_TILE_HEIGHT])
        else:
            names = _STRIP_OFFSETS, _STRIP_SIZES
            wide, high = self.size[0], min(int(self.tags.get(_ROWS_PER_STRIP, self.size[1])), self.size[1])
        offsets, sizes = (_all(self.tags[name]) for name in names)
        return wide, high, offsets, sizes

    def _chunk(self, offset: int, size: int, shape: tuple[int, int, int]) -> npt.NDArray[Any]:
        count = math.prod(shape) * self.dtype.itemsize
        self.stream.seek(offset)
        content = self.stream.read(size)
        if self.tags.get(_COMPRESSION, 1) in _DEFLATE:
            content = zlib.decompressobj().decompress(content, count)
        if len(content) < count:
            raise OSError(f"{len(content)} bytes where {count} belong")
        predictor = self.tags.get(_PREDICTOR, 1)
        if predictor == _FLOAT_DIFFERENCES:
            # Adobe Photoshop TIFF Technical Note 3: bytes by significance, then their differences.
            rows, wide, depth = shape
            packed = np.frombuffer(content, np.uint8, count).reshape(rows, wide * self.dtype.itemsize, depth)
            planes = np.cumsum(packed, axis=1, dtype=np.uint8).reshape(
                rows, self.dtype.itemsize, wide * depth
            )
            content = np.ascontiguousarray(planes.swapaxes(1, 2)).tobytes()
            return np.frombuffer(content, self.dtype.newbyteorder(">")).reshape(shape)
        part: npt.NDArray[Any] = np.frombuffer(content, self.dtype, math.prod(shape)).reshape(shape)
        if predictor == _DIFFERENCES:
            part = np.cumsum(part, axis=1, dtype=self.dtype.newbyteorder("="))
        return part


def open_tiff(stream: BinaryIO) -> TiffFile | None:
    """The first page of a TIFF file; None if the file is none, or its directory is damaged.

    Raises:
        Unread: it is of a kind that is not read here either.
    """
    from PIL import TiffImagePlugin

    stream.seek(0)
    head = stream.read(16)
    if not head.startswith(HEADS):
        return None
    try:
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(head if head.startswith(b"II+") else head[:8])
        if head.startswith(b"MM\0+"):  # Pillow looks for BigTIFF's number in the other byte order
            tags._bigtiff, tags.next = True, int.from_bytes(head[8:16], "big")
        stream.seek(tags.next)
        tags.load(stream)
        size = int(tags[_WIDTH]), int(tags[_HEIGHT])
        bands, bits = int(tags.get(_BANDS, 1)), max(_all(tags.get(_BITS, 1)))
        formats = set(_all(tags.get(_FORMAT, 1)))
    # Pillow meets a damaged directory with many errors.
    except Exception:
        return None
    numbers = _NAMES.get(min(formats), "unknown")
    held = f"has {bands} {'band' if bands == 1 else 'bands'} of {bits}-bit {numbers} numbers"
    photometric, compression = tags.get(_PHOTOMETRIC, 1), tags.get(_COMPRESSION, 1)
    if photometric in _COLORS:
        held += f" of {_COLORS[photometric]}"
    known = (
        len(formats) == 1
        and min(formats) in _KINDS
        and len(set(_all(tags.get(_BITS, 1)))) == 1
        and bits in ((16, 32, 64) if min(formats) == 3 else (8, 16, 32, 64))
    )
    least = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(photometric, bands + 1)
    if not known or not least <= bands <= least + 1:
        raise Unread(held)
    if compression != 1 and compression not in _DEFLATE:
        raise Unread(f"{held}, compressed by method {compression} of TIFF")
    if tags.get(_PREDICTOR, 1) not in (1, _DIFFERENCES, _FLOAT_DIFFERENCES):
        raise Unread(f"{held}, with an unknown predictor")
    order = ">" if head.startswith(b"MM") else "<"
    return TiffFile(stream, tags, size, bands, np.dtype(f"{order}{_KINDS[min(formats)]}{bits // 8}"))


def _all(value: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in value) if isinstance(value, tuple) else (int(value),)
