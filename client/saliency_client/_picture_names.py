"""What files of pictures and of arrays are named like."""

from __future__ import annotations

_PICTURES = (
    "jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff ppm pgm pbm pnm pfm jp2 j2k j2c jpc jpf jpx "
    "avif heic heif hif tga ico"
)
PICTURE_SUFFIXES = frozenset(f".{name}" for name in _PICTURES.split())
ARRAY_SUFFIX = ".npy"
