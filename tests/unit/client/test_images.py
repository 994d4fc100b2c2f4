"""Files become the model input that a person would expect, or a clear error."""

from __future__ import annotations

import io
import os
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saliency_client._picture_room import ROOM
from saliency_client.images import ImageError, array_picture, input_box, load_array, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encoded(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def picture_of(array: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (height, width, channels), np.uint8)


def test_a_picture_of_the_models_size_comes_through_unchanged() -> None:
    pixels = noise(6, 4)
    photo = load_image(encoded(picture_of(pixels)), (6, 4))
    assert photo.array.dtype == np.uint8
    np.testing.assert_array_equal(photo.array, pixels)
    assert photo.picture.size == (4, 6)
    assert photo.box == (0, 0, 4, 6)


def test_crop_keeps_the_center_and_nothing_of_the_margins() -> None:
    pixels = np.full((40, 100, 3), RED, np.uint8)
    pixels[:, 30:70] = BLUE
    photo = load_image(encoded(picture_of(pixels)), (20, 20))
    np.testing.assert_array_equal(photo.array, np.full((20, 20, 3), BLUE, np.uint8))
    assert photo.box == (30, 0, 70, 40)
    assert photo.picture.size == (100, 40)


def test_crop_follows_the_aspect_of_the_model_input() -> None:
    assert load_image(encoded(picture_of(noise(100, 100))), (10, 20)).box == (0, 25, 100, 75)


def test_stretch_shows_the_whole_picture() -> None:
    pixels = np.full((40, 100, 3), RED, np.uint8)
    pixels[:, 50:] = BLUE
    photo = load_image(encoded(picture_of(pixels)), (20, 20), resize="stretch")
    assert photo.box == (0, 0, 100, 40)
    np.testing.assert_array_equal(photo.array[:, :8], np.full((20, 8, 3), RED))
    np.testing.assert_array_equal(photo.array[:, 12:], np.full((20, 8, 3), BLUE))


def test_pad_adds_equal_gray_bars_and_keeps_the_aspect() -> None:
    photo = load_image(encoded(picture_of(np.full((40, 80, 3), RED))), (20, 20), resize="pad")
    assert photo.box == (0, -20, 80, 60)
    np.testing.assert_array_equal(photo.array[:3], np.full((3, 20, 3), 127))
    np.testing.assert_array_equal(photo.array[-3:], np.full((3, 20, 3), 127))
    np.testing.assert_array_equal(photo.array[8:12], np.full((4, 20, 3), RED))


def padded_as_a_whole(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture with gray bars, made at its own size and then resized by Pillow, as a person would."""
    left, top, right, bottom = input_box(pixels.shape[1::-1], size, "pad")
    canvas = Image.new("RGB", (right - left, bottom - top), (127, 127, 127))
    canvas.paste(picture_of(pixels), (-left, -top))
    return np.asarray(canvas.resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("shape", [(31, 90), (90, 31), (200, 7), (5, 8), (64, 64), (1, 300), (300, 1)])
@pytest.mark.parametrize("size", [(24, 24), (17, 40), (90, 24)])
def test_padding_after_scaling_is_padding_before_it(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = noise(*shape) // 2 + 64  # nothing overshoots
    photo = load_image(encoded(picture_of(pixels)), size, resize="pad")
    # Pillow rounds to 8 bits between the two directions, and takes them in the other order here.
    assert np.abs(photo.array.astype(int) - padded_as_a_whole(pixels, size)).max() <= 2


def test_padding_never_makes_the_square_of_the_long_side() -> None:
    long = encoded(Image.new("L", (60_000, 1), 255))
    tracemalloc.start()
    load_image(long, (32, 32), resize="pad")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_padded_model_input_with_alpha_is_opaque_in_the_bars() -> None:
    photo = load_image(encoded(picture_of(noise(8, 32))), (16, 16), channels=4, resize="pad")
    assert photo.array.shape == (16, 16, 4)
    np.testing.assert_array_equal(photo.array[0], np.full((16, 4), (127, 127, 127, 255)))


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("shape", [(3000, 1), (1, 3000), (1, 1)])
def test_a_picture_one_pixel_wide_is_read(shape: tuple[int, int], resize: str) -> None:
    photo = load_image(encoded(picture_of(np.full((*shape, 3), RED))), (32, 32), resize=resize)
    assert photo.array.shape == (32, 32, 3)
    assert photo.picture.size == shape[::-1]
    assert (photo.array[16, 16, 0] >= photo.array[16, 16, 1]).all()


@pytest.mark.parametrize("resize", ["fit", "Crop", "", None])
def test_a_mistyped_resize_is_refused_with_those_that_there_are(resize: object) -> None:
    for call in (
        lambda: load_image(encoded(picture_of(noise(4, 4))), (4, 4), resize=resize),
        lambda: input_box((4, 4), (4, 4), resize),
    ):
        with pytest.raises(ValueError, match="'crop', 'stretch', 'pad'"):
            call()


@pytest.mark.parametrize("size", [224, (224,), (0, 4), (4.5, 4), ("4", "4"), (4, 4, 3), None])
def test_a_mistyped_size_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match=r"\(height, width\)"):
        load_image(encoded(picture_of(noise(4, 4))), size)


def smooth_picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(5).integers(0, 256, (50, 75, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("format", "shift"), [("JPEG", 0), ("JPEG2000", 1.5)])
def test_a_draft_is_smaller_and_gives_nearly_the_same_model_input(format: str, shift: float) -> None:
    """A quarter by wavelets has every fourth pixel, not the middle of four (ISO/IEC 15444-1, annex F)."""
    picture = smooth_picture(1200, 800)
    data = encoded(picture, format, **({"quality": 95} if format == "JPEG" else {}))
    whole, draft = (load_image(data, (32, 32), draft=draft) for draft in (False, True))
    assert whole.picture.size == (1200, 800)
    assert draft.picture.size == (300, 200)  # a quarter; an eighth would be less than four times the input
    assert draft.box == input_box((300, 200), (32, 32), "crop")
    moved = picture.transform(
        picture.size, Image.Transform.AFFINE, (1, 0, -shift, 0, 1, -shift), Image.Resampling.BICUBIC
    )
    expected = load_image(moved, (32, 32)).array if shift else whole.array
    difference = np.abs(expected.astype(int) - draft.array)[1:, 1:]
    assert difference.mean() < 1.5
    assert difference.max() <= 12


def test_what_has_no_smaller_picture_in_it_is_read_whole_as_a_draft() -> None:
    png = load_image(encoded(picture_of(noise(200, 200))), (8, 8), draft=True)
    assert png.picture.size == (200, 200)
    picture = smooth_picture(401, 320)
    halved = load_image(encoded(picture, "JPEG2000"), (8, 8), draft=True)
    assert halved.picture.size == (201, 160)  # Pillow fails at a quarter, 100.25 pixels wide
    whole = load_image(encoded(picture, "JPEG2000", num_resolutions=1), (8, 8), draft=True)
    assert np.array_equal(np.asarray(whole.picture), np.asarray(picture))


@pytest.mark.timeout(20)
def test_what_is_read_whole_after_all_does_not_wait_for_its_own_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ROOM, "bound", 100)
    data = encoded(smooth_picture(320, 320), "JPEG2000", num_resolutions=1)
    assert load_image(data, (8, 8), draft=True).picture.size == (320, 320)


def cubic_weights(source: int, target: int) -> np.ndarray:
    """Keys' cubic convolution (1981), a = -1/2, widened by the reduction factor; [target, source]."""
    scale = source / target
    support = max(scale, 1.0)
    centers = (np.arange(target) + 0.5) * scale - 0.5
    t = np.abs((np.arange(source)[None] - centers[:, None]) / support)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def test_resizing_is_bicubic_with_the_support_widened_by_the_reduction() -> None:
    pixels = noise(60, 90)
    rows, columns = cubic_weights(60, 24), cubic_weights(60, 24)
    expected = np.einsum("yi,ijc,xj->yxc", rows, pixels[:, 15:75].astype(float), columns)
    actual = load_image(encoded(picture_of(pixels)), (24, 24)).array
    assert np.abs(actual - expected.clip(0, 255)).max() <= 1.01


# What a viewer does for each value of the Orientation tag (Exif 2.32, table 6).
UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_honored(orientation: int) -> None:
    stored = noise(5, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = UPRIGHT[orientation](stored)
    photo = load_image(encoded(picture_of(stored), exif=exif), upright.shape[:2])
    np.testing.assert_array_equal(photo.array, upright)
    np.testing.assert_array_equal(np.asarray(photo.picture), upright)


def test_damaged_exif_does_not_refuse_the_picture() -> None:
    pixels = noise(4, 4)
    photo = load_image(encoded(picture_of(pixels), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), (4, 4))
    np.testing.assert_array_equal(photo.array, pixels)


def test_transparency_shows_white_below() -> None:
    pixels = np.array([[(255, 0, 0, 255), (255, 0, 0, 0), (255, 0, 0, 128)]], np.uint8)
    photo = load_image(encoded(picture_of(pixels)), (1, 3))
    # 255 * (1 - 128/255) = 127
    np.testing.assert_array_equal(photo.array[0], [RED, WHITE, (255, 127, 127)])


def test_gray_with_alpha_shows_white_below() -> None:
    picture = Image.merge("LA", [Image.new("L", (2, 1), 0), picture_of(np.array([[255, 0]]))])
    np.testing.assert_array_equal(load_image(encoded(picture), (1, 2)).array[0], [(0, 0, 0), WHITE])


@pytest.mark.parametrize(
    ("mode", "color", "transparent"), [("RGB", (9, 8, 7), (9, 8, 7)), ("L", 9, 9)], ids=["RGB", "gray"]
)
def test_a_color_declared_transparent_is_white(mode: str, color: object, transparent: object) -> None:
    data = encoded(Image.new(mode, (1, 1), color), transparency=transparent)
    np.testing.assert_array_equal(load_image(data, (1, 1)).array[0, 0], WHITE)


def test_a_palette_gives_its_colors_and_its_transparency() -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.putdata([0, 1, 2])
    np.testing.assert_array_equal(load_image(encoded(picture), (1, 3)).array[0], [RED, GREEN, BLUE])
    with_alpha = load_image(encoded(picture, transparency=1), (1, 3))
    np.testing.assert_array_equal(with_alpha.array[0], [RED, WHITE, BLUE])


def test_gray_becomes_three_equal_channels() -> None:
    gray = noise(3, 3, 1)
    photo = load_image(encoded(picture_of(gray[..., 0])), (3, 3))
    np.testing.assert_array_equal(photo.array, np.repeat(gray, 3, axis=-1))


def test_black_and_white_becomes_0_and_255() -> None:
    picture = picture_of(np.array([[0, 255]])).convert("1")
    np.testing.assert_array_equal(load_image(encoded(picture), (1, 2)).array[0], [(0, 0, 0), WHITE])


def test_a_gray_model_gets_the_luma_of_the_colors() -> None:
    pixels = np.array([[RED, GREEN, BLUE, WHITE]], np.uint8)
    photo = load_image(encoded(picture_of(pixels)), (1, 4), channels=1)
    assert photo.array.shape == (1, 4, 1)
    # Rec. 601: 0.299 R + 0.587 G + 0.114 B
    np.testing.assert_array_equal(photo.array[0, :, 0], [76, 150, 29, 255])
    np.testing.assert_array_equal(np.asarray(photo.picture), pixels)


def test_a_four_channel_model_gets_the_alpha() -> None:
    pixels = np.array([[(10, 20, 30, 40)]], np.uint8)
    np.testing.assert_array_equal(load_image(encoded(picture_of(pixels)), (1, 1), channels=4).array, pixels)
    opaque = load_image(encoded(picture_of(pixels[..., :3])), (1, 1), channels=4)
    np.testing.assert_array_equal(opaque.array[0, 0], (10, 20, 30, 255))


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """Encode uint16 [H, W] or [H, W, 3] as PNG by the standard's own words (ISO/IEC 15948)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    color_type = 2 if pixels.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_16_bit_gray_keeps_its_whole_range() -> None:
    gray = np.array([[0, 257 * 64, 257 * 128, 65535]], np.uint16)
    photo = load_image(png_of_16_bits(gray), (1, 4))
    np.testing.assert_array_equal(photo.array[0, :, 0], [0, 64, 128, 255])


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_gray_tiff_of_either_byte_order_keeps_its_whole_range(dtype: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.array([[0, 257 * 64, 65535]], np.uint16), byteorder=dtype[0])
    np.testing.assert_array_equal(load_image(stream.getvalue(), (1, 3)).array[0, :, 0], [0, 64, 255])


def test_16_bit_color_keeps_its_whole_range() -> None:
    pixels = np.array([[(0, 257 * 100, 65535), (65535, 257 * 7, 257 * 200)]], np.uint16)
    np.testing.assert_array_equal(load_image(png_of_16_bits(pixels), (1, 2)).array, pixels // 257)


def test_real_gray_values_of_0_to_1_span_black_to_white() -> None:
    picture = Image.fromarray(np.array([[0, 0.2, 1]], np.float32))
    np.testing.assert_array_equal(load_image(encoded(picture, "TIFF"), (1, 3)).array[0, :, 0], [0, 51, 255])


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_gives_the_colors_that_its_inks_print(format: str) -> None:
    inks = {(0, 0, 0, 0): WHITE, (0, 255, 255, 0): RED, (255, 0, 255, 0): GREEN, (0, 0, 0, 255): (0, 0, 0)}
    for ink, color in inks.items():
        photo = load_image(encoded(Image.new("CMYK", (8, 8), ink), format), (8, 8))
        assert np.abs(photo.array.astype(int) - color).max() <= 2, ink


def swapped_primaries_profile() -> bytes:
    """An ICC profile (ISO 15076-1) of sRGB's primaries with red and green exchanged, gamma 2.2."""

    def s15(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + s15(*values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"swapped"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" * 79
    description += b"\0" * (-len(description) % 4)
    red, green, blue = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)
    tags = {
        b"desc": description,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.82491),
        b"rXYZ": xyz(*green),
        b"gXYZ": xyz(*red),
        b"bXYZ": xyz(*blue),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(value))
        body += value
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"test", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28 + s15(0.9642, 1.0, 0.82491)
    return head + b"\0" * (128 - len(head)) + table + body


def test_an_embedded_color_profile_is_applied() -> None:
    data = encoded(Image.new("RGB", (1, 1), RED), icc_profile=swapped_primaries_profile())
    for photo in (load_image(data, (1, 1)), load_image(data, (1, 1), channels=4)):
        assert np.abs(photo.array[0, 0, :3].astype(int) - GREEN).max() <= 3


def test_a_damaged_color_profile_is_ignored() -> None:
    data = encoded(Image.new("RGB", (1, 1), RED), icc_profile=b"not a profile")
    np.testing.assert_array_equal(load_image(data, (1, 1)).array[0, 0], RED)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame_and_says_so(format: str) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    options = {"lossless": True} if format == "WEBP" else {}
    photo = load_image(encoded(first, format, save_all=True, append_images=[second], **options), (8, 8))
    np.testing.assert_array_equal(photo.array[0, 0], RED)
    assert photo.notes == ("first frame of an animation",)


def test_a_file_of_several_pages_gives_its_first_and_says_so() -> None:
    pages = encoded(
        Image.new("RGB", (2, 2), RED), "TIFF", save_all=True, append_images=[Image.new("RGB", (2, 2), BLUE)]
    )
    photo = load_image(pages, (2, 2))
    np.testing.assert_array_equal(photo.array[0, 0], RED)
    assert photo.notes == ("first page of several",)


def test_a_plain_picture_and_a_cameras_multi_picture_have_no_notes() -> None:
    assert load_image(encoded(picture_of(noise(2, 2))), (2, 2)).notes == ()
    multi = encoded(Image.new("RGB", (8, 8)), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert load_image(multi, (2, 2)).notes == ()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_image_is_a_clear_error(format: str, tmp_path: Path) -> None:
    data = encoded(picture_of(noise(64, 64)), format)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="cut") as caught:
        load_image(path, (8, 8))
    assert caught.value.hint


@pytest.mark.parametrize("length", [1, 10, 30, 60])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_an_image_cut_in_its_header_is_an_image_error(format: str, length: int) -> None:
    with pytest.raises(ImageError):
        load_image(encoded(picture_of(noise(64, 64)), format)[:length], (8, 8))


def test_what_is_not_an_image_is_said_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("milk, eggs")
    with pytest.raises(ImageError, match=r"notes\.jpg is not an image"):
        load_image(path, (8, 8))


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "void.png"
    path.touch()
    with pytest.raises(ImageError, match=r"void\.png is empty"):
        load_image(path, (8, 8))


def test_a_missing_file_and_a_folder_are_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
        load_image(tmp_path / "gone.jpg", (8, 8))
    with pytest.raises(ImageError, match="is a folder, not an image"):
        load_image(tmp_path, (8, 8))
    with pytest.raises(ImageError, match="cannot be read"):
        load_image("nul\0byte.jpg", (8, 8))


def test_too_many_pixels_are_refused_before_decoding_and_the_bound_can_be_raised() -> None:
    data = encoded(Image.new("L", (300, 200)))
    with pytest.raises(ImageError, match=r"300 x 200 is 60000 pixels, and the bound is 59999") as caught:
        load_image(data, (8, 8), max_pixels=59_999)
    assert "max_pixels" in str(caught.value.hint)
    assert load_image(data, (8, 8), max_pixels=60_000).array.shape == (8, 8, 3)


def test_a_decompression_bomb_is_refused_by_default() -> None:
    header = encoded(Image.new("L", (1, 1)))
    huge = struct.pack(">II", 60_000, 60_000)
    body = b"IHDR" + huge + header[24:29]
    bomb = header[:12] + body + struct.pack(">I", zlib.crc32(body)) + header[33:]
    with pytest.raises(ImageError, match="too large"):
        load_image(bomb, (8, 8))


def test_a_pipe_can_be_read() -> None:
    pixels = noise(4, 4)
    reader, writer = os.pipe()
    with open(writer, "wb") as sink:
        sink.write(encoded(picture_of(pixels)))
    with open(reader, "rb") as pipe:
        np.testing.assert_array_equal(load_image(pipe, (4, 4)).array, pixels)


def test_what_is_no_image_on_a_pipe_is_said_so() -> None:
    reader, writer = os.pipe()
    with open(writer, "wb") as sink:
        sink.write(b"milk, eggs")
    with open(reader, "rb") as pipe, pytest.raises(ImageError, match="is not an image"):
        load_image(pipe, (4, 4))


def test_a_callers_stream_stays_open() -> None:
    stream = io.BytesIO(encoded(picture_of(noise(4, 4))))
    load_image(stream, (4, 4))
    assert not stream.closed


def test_a_model_of_two_channels_is_sent_to_npy_files() -> None:
    with pytest.raises(ImageError, match="2 channels") as caught:
        load_image(encoded(picture_of(noise(4, 4))), (4, 4), channels=2)
    assert ".npy" in str(caught.value.hint)


sizes = st.integers(1, 400)


@given(width=sizes, height=sizes, model_width=sizes, model_height=sizes)
def test_the_crop_is_inside_centered_and_of_the_models_aspect(
    width: int, height: int, model_width: int, model_height: int
) -> None:
    left, top, right, bottom = input_box((width, height), (model_height, model_width), "crop")
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    assert (right - left == width) or (bottom - top == height)
    # Whole pixels: each side is within half a pixel of the exact aspect (and is never 0).
    box_width, box_height = right - left, bottom - top
    slack = 0.5 * max(1, model_height / model_width, model_width / model_height) + 1
    assert abs(box_width - box_height * model_width / model_height) <= slack or 1 in (box_width, box_height)


@given(width=sizes, height=sizes, model_width=sizes, model_height=sizes)
def test_the_padded_box_holds_the_whole_picture(
    width: int, height: int, model_width: int, model_height: int
) -> None:
    left, top, right, bottom = input_box((width, height), (model_height, model_width), "pad")
    assert left <= 0 < width <= right
    assert top <= 0 < height <= bottom
    assert left == 0 == right - width or top == 0 == bottom - height


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def test_an_array_file_is_the_model_input_as_it_is() -> None:
    array = np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)
    photo = load_array(saved(array), (4, 5, 3), "float32")
    np.testing.assert_array_equal(photo.array, array)
    assert photo.array.dtype == np.float32
    np.testing.assert_array_equal(load_array(saved(array[None]), (4, 5, 3), "float32").array, array)


def test_an_array_is_shown_between_its_extremes() -> None:
    picture = array_picture(np.array([[[-1.0], [0.0], [1.0]]], np.float32))
    np.testing.assert_array_equal(np.asarray(picture)[0, :, 0], [0, 128, 255])
    assert np.asarray(array_picture(np.zeros((2, 2, 3), np.float32))).max() == 0
    assert array_picture(np.zeros((2, 3, 5), np.uint8)).size == (3, 2)


def test_arrays_that_do_not_fit_are_clear_errors() -> None:
    with pytest.raises(ImageError, match=r"shape \[2, 2, 3\], and the model takes \[4, 5, 3\]"):
        load_array(saved(np.zeros((2, 2, 3))), (4, 5, 3), "float32")
    with pytest.raises(ImageError, match="holds float64, and the model takes uint8"):
        load_array(saved(np.zeros((2, 2, 3))), (2, 2, 3), "uint8")
    with pytest.raises(ImageError, match="NaN"):
        load_array(saved(np.full((1, 1, 1), np.nan)), (1, 1, 1), "float32")
    with pytest.raises(ImageError, match="do not fit in float32"):
        load_array(saved(np.full((1, 1, 1), 1e300)), (1, 1, 1), "float32")
    with pytest.raises(ImageError, match="not a NumPy array file"):
        load_array(b"PK nothing", (1, 1, 1), "float32")
    with pytest.raises(ImageError, match="not a NumPy array file"):
        load_array(saved(np.array([{}], dtype=object)), (1, 1, 1), "float32")  # never unpickled


@pytest.mark.parametrize("shape", [(), (7,), (2, 4, 5, 3)], ids=str)
def test_examples_that_are_no_pictures_are_refused_with_what_reads_them(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ImageError, match=re.escape(f"examples of shape {list(shape)}, and no pictures")
    ) as error:
        load_array(saved(np.zeros(shape)), shape, "float32")
    assert "numpy.load" in str(error.value.hint)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (32, 32, 1099511627776)}\n",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807,)}\n",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (32, 32, 3\n",
    ],
)
def test_an_array_file_with_a_header_that_lies_is_a_clear_error(tmp_path, header):
    path = tmp_path / "input.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ImageError, match=r"input\.npy is not a NumPy array file"):
        load_array(path, (32, 32, 3), "uint8")


def test_a_format_that_is_a_program_is_not_run(tmp_path):
    # Pillow gives EPS to Ghostscript; nothing here may.
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n")
    with pytest.raises(ImageError, match=r"photo\.jpg is a document, which is not read"):
        load_image(path, (32, 32))


def test_a_picture_larger_than_its_icon_says_is_refused_by_the_bound(tmp_path):
    inner = io.BytesIO()
    Image.new("RGB", (400, 300)).save(inner, "PNG")
    entry = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner.getvalue()), 22)
    path = tmp_path / "small.ico"
    path.write_bytes(entry + inner.getvalue())
    with pytest.raises(ImageError, match="too large"):
        load_image(path, (32, 32), max_pixels=400 * 300 - 1)
    assert load_image(path, (32, 32), max_pixels=400 * 300).picture.size == (400, 300)


def tiff_of(samples: np.ndarray, **options: object) -> bytes:
    data = io.BytesIO()
    tifffile.imwrite(data, samples, metadata=None, **options)
    return data.getvalue()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_a_big_tiff_is_read_in_both_byte_orders(order: str, big: bool) -> None:
    pixels = noise(6, 8)
    data = tiff_of(pixels.astype(np.uint16) * 257, bigtiff=big, byteorder=order, photometric="rgb")
    assert np.array_equal(load_image(data, (6, 8)).array, pixels)


@pytest.mark.parametrize(
    ("samples", "options", "held"),
    [
        (
            np.zeros((4, 5, 3), np.uint16),
            {"photometric": "cielab"},
            "3 bands of 16-bit whole numbers of CIELAB",
        ),
        (
            np.zeros((4, 5), np.uint16),
            {"photometric": "palette", "colormap": np.zeros((3, 65536), np.uint16)},
            "1 band of 16-bit whole numbers of a palette",
        ),
        (np.zeros((4, 6, 3), np.uint8), {"photometric": "ycbcr"}, "3 bands of 8-bit whole numbers of YCbCr"),
    ],
)
def test_a_tiff_file_of_other_colors_is_refused_by_their_name(
    samples: np.ndarray, options: dict, held: str
) -> None:
    with pytest.raises(ImageError, match=held):
        load_image(tiff_of(samples, **options), (4, 5))


def test_the_small_copy_in_a_raw_file_of_a_camera_has_a_note() -> None:
    data = tiff_of(noise(6, 8), photometric="rgb", subfiletype=1)
    assert "a small copy" in load_image(data, (6, 8)).notes[0]
    assert load_image(tiff_of(noise(6, 8), photometric="rgb"), (6, 8)).notes == ()


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"8BPS\0\1", "a Photoshop file"),
        (b"\xff\x0a\x7a", "a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b"v/1\x01\2\0\0\0", "a picture of high dynamic range"),
        (b"\0" * 128 + b"DICM", "a file of scientific pictures"),
        (b"%PDF-1.7\n", "a document"),
        (b'<?xml version="1.0"?>\n<!-- made by -->\n<svg xmlns="">', "a drawing"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"\0\0\0\x18ftypcrx ", "a raw file of a camera"),
        (b"PK\x03\x04\x14\0", "an archive"),
    ],
)
def test_what_is_no_picture_here_is_called_what_it_is(start: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=f"the image is {kind}") as caught:
        load_image(start + bytes(100), (4, 4))
    assert caught.value.hint


@pytest.mark.skipif("AVIF" not in Image.SAVE, reason="this Pillow does not write AVIF")
def test_an_avif_picture_that_is_cut_off_is_not_called_unreadable() -> None:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "AVIF")
    content = stream.getvalue()
    with pytest.raises(ImageError, match="cannot be decoded: it is an AVIF picture, and not whole") as raised:
        load_image(content[: len(content) * 7 // 10], (8, 8))
    assert raised.value.hint == "the file is truncated or damaged; fetch it again"
