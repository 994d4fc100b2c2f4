"""Embedded profiles are converted to sRGB as their matrices and curves say (ISO 15076-1)."""

from __future__ import annotations

import io

import numpy as np
import PIL
import pytest
from generated_pictures import ADOBE, P3, SRGB, profile, shown_by
from PIL import Image, ImageCms

from saliency_client.images import load_image

COLORS = np.array([[(200, 60, 80), (60, 180, 90), (90, 90, 200), (128, 128, 128)]], np.uint8)
GRAYS = np.array([[40, 90, 160, 220]], np.uint8)


def read(picture: Image.Image, format: str = "PNG", **options: object):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return load_image(stream.getvalue(), picture.size[::-1], resize="stretch")


def off(photo, levels: np.ndarray) -> float:
    return float(np.abs(photo.array.astype(float) - levels).max())


@pytest.mark.parametrize("gamma", [None, 1.0, 1.8, 2.2])
@pytest.mark.parametrize("primaries", [SRGB, P3, ADOBE], ids=["srgb", "p3", "adobe"])
@pytest.mark.parametrize("name", ["a profile", "Linear sRGB"])
def test_rgb_alpha_and_palettes_follow_their_profile_whatever_its_name(gamma, primaries, name) -> None:
    icc, want = profile(name, gamma, primaries), shown_by(COLORS / 255, gamma, primaries)
    rgb = Image.fromarray(COLORS)
    assert off(read(rgb, icc_profile=icc), want) <= 3
    assert off(read(rgb.quantize(4), icc_profile=icc), want) <= 3
    half = Image.fromarray(np.dstack([COLORS, np.full((1, 4), 51, np.uint8)]))
    assert off(read(half, icc_profile=icc), 0.2 * want + 0.8 * 255) <= 2


@pytest.mark.parametrize("gamma", [None, 1.0, 1.8, 2.2])
def test_grays_of_any_depth_and_with_alpha_follow_their_profile(gamma) -> None:
    icc, want = profile("gray", gamma, None), np.repeat(shown_by(GRAYS[..., None] / 255, gamma, None), 3, -1)
    assert off(read(Image.fromarray(GRAYS), icc_profile=icc), want) <= 1
    assert off(read(Image.fromarray(GRAYS.astype(np.uint16) * 257), icc_profile=icc), want) <= 1
    half = Image.merge("LA", (Image.fromarray(GRAYS), Image.new("L", (4, 1), 51)))
    assert off(read(half, icc_profile=icc), 0.2 * want + 0.8 * 255) <= 2


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 11, reason="it passes 8 bits to LittleCMS")
def test_a_dark_linear_gray_of_16_bits_keeps_its_steps() -> None:
    samples = np.array([[20, 100, 300, 1000, 65535]], np.uint16)
    want = shown_by(samples[..., None] / 65535, 1.0, None)
    photo = read(Image.fromarray(samples), icc_profile=profile("gray", 1.0, None))
    assert off(photo, want) <= 1


def test_a_transparent_color_is_told_before_its_profile_is_applied() -> None:
    want = shown_by(COLORS / 255, None, P3)
    want[0, 2] = 255
    photo = read(Image.fromarray(COLORS), icc_profile=profile("P3", None, P3), transparency=(90, 90, 200))
    assert off(photo, want) <= 3
    assert photo.notes == ()


def test_profiles_of_srgb_leave_the_pixels_as_they_are() -> None:
    for icc in (
        profile("any name", None, SRGB),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ):
        np.testing.assert_array_equal(read(Image.fromarray(COLORS), icc_profile=icc).array, COLORS)


@pytest.mark.parametrize(
    ("picture", "icc", "said"),
    [
        (Image.fromarray(COLORS), b"not a profile", "damaged"),
        (Image.fromarray(COLORS), profile("gray", 1.0, None), "of gray, its pixels are RGB"),
        (Image.fromarray(GRAYS), profile("P3", None, P3), "of RGB, its pixels are gray"),
    ],
)
def test_a_profile_that_cannot_be_followed_is_not_used_and_a_note_says_why(picture, icc, said) -> None:
    photo = read(picture, icc_profile=icc)
    assert off(photo, np.asarray(picture.convert("RGB"))) == 0
    (note,) = photo.notes
    assert said in note


def test_cielab_without_a_profile_is_converted() -> None:
    # L* = 50, a* = b* = 0 is a gray of Y = 18.4 %, sRGB level 119 (CIE 15).
    lab = Image.frombytes("LAB", (1, 1), bytes([128, 0, 0]))
    assert off(read(lab, "TIFF"), np.full((1, 1, 3), 119)) <= 2
