"""Embedded color profiles (ISO 15076-1) to sRGB, by LittleCMS."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsProfile, ImageCmsTransform

Curve = npt.NDArray[np.uint8]

# Profiles of sRGB differ in their last digits; converting from one to another would only add rounding.
_SRGB_LEVELS = 3
_SPACES = {"L": "GRAY", "RGB": "RGB ", "RGBA": "RGB ", "CMYK": "CMYK", "LAB": "Lab "}
_NAMES = {"GRAY": "gray", "RGB ": "RGB", "CMYK": "CMYK", "Lab ": "CIELAB"}


class ProfileUnused(Exception):
    """A profile cannot be followed; the text says why, for a note."""


def to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Colors to sRGB.

    Args:
        picture: RGB or RGBA, which is changed in place; CMYK or LAB.
        profile: what the file holds.

    Returns:
        RGB or RGBA.

    Raises:
        ProfileUnused: it is damaged, or describes another kind of color.
    """
    from PIL import ImageCms

    mode = picture.mode if picture.mode in ("RGB", "RGBA") else "RGB"
    transform = _transform(_opened(profile, picture.mode), picture.mode, mode)
    try:
        if mode == picture.mode:
            if not _changes_nothing(transform, mode):
                ImageCms.applyTransform(picture, transform, inPlace=True)
            return picture
        converted = ImageCms.applyTransform(picture, transform)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileUnused(f"its color profile cannot be followed ({error}) and is not used") from error
    assert converted is not None
    return converted


def gray_curve(profile: bytes) -> Curve:
    """The levels of sRGB, uint8 [65536], of gray values of 16 bits.

    Raises:
        ProfileUnused: it is damaged, or is not of gray.
    """
    from PIL import ImageCms

    opened = _opened(profile, "L")
    wide = np.arange(65536, dtype="<u2")
    ramps = (
        Image.frombytes("L", (256, 1), bytes(range(256))),
        Image.frombytes("I;16", (256, 256), wide.tobytes()),
    )
    try:
        few, all_of_them = (
            np.asarray(ImageCms.applyTransform(ramp, _transform(opened, ramp.mode, "RGB", exact=True)))[
                ..., 1
            ].reshape(-1)
            for ramp in ramps
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileUnused(f"its color profile cannot be followed ({error}) and is not used") from error
    if np.abs(all_of_them[::257].astype(int) - few).max() <= 2:
        return all_of_them
    # Older Pillow gives LittleCMS the wrong half of 16 bits.
    curve: Curve = np.rint(np.interp(wide / 257, np.arange(256), few)).astype(np.uint8)
    return curve


def lab_to_srgb(picture: Image.Image) -> Image.Image:
    """CIELAB, which needs no profile to say what it means (TIFF 6.0, section 23), to RGB."""
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None
    return converted


def _opened(profile: bytes, mode: str) -> ImageCmsProfile:
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = str(opened.profile.xcolor_space)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileUnused("its color profile is damaged and is not used") from error
    wanted = _SPACES[mode]
    if space != wanted:
        raise ProfileUnused(
            f"its color profile is of {_NAMES.get(space, space.strip())}, its pixels are "
            f"{_NAMES[wanted]}; the profile is not used"
        )
    return opened


def _transform(profile: ImageCmsProfile, mode: str, output: str, *, exact: bool = False) -> ImageCmsTransform:
    """To sRGB; `exact`: not by a table of a few points, which is many levels off near black."""
    from PIL import ImageCms

    flags = ImageCms.Flags.NOOPTIMIZE if exact else ImageCms.Flags.NONE
    try:
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, output, flags=flags)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileUnused(f"its color profile cannot be followed ({error}) and is not used") from error


def _changes_nothing(transform: ImageCmsTransform, mode: str) -> bool:
    """Whether no color moves by more than the differences between profiles of sRGB."""
    from PIL import ImageCms

    steps = np.linspace(0, 255, 18).astype(np.uint8)
    colors: npt.NDArray[Any] = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    shown = ImageCms.applyTransform(Image.fromarray(colors).convert(mode), transform)
    assert shown is not None
    moved = np.asarray(shown)[..., :3].astype(int) - colors
    return bool(np.abs(moved).max() <= _SRGB_LEVELS)
