"""Samples of more than 8 bits: neither black nor inverted, and a note where their range was guessed."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from saliency_client._levels import Scale
from saliency_client.images import ImageError, load_image

# A bright block on a dark ground: 229.5 and 38.25 of 255.
SCENE = np.full((16, 16), 0.15)
SCENE[2:6, 4:10] = 0.9


def tiff(samples: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, metadata=None, **options)
    return stream.getvalue()


def read(data: object, tolerance: float = 1.0) -> tuple[str, ...]:
    """Assert that a file shows the scene; gives the notes."""
    photo = load_image(data, SCENE.shape)
    off = np.abs(photo.array.astype(float) - 255 * SCENE[..., None]).max()
    assert off <= tolerance, (off, photo.notes)
    return photo.notes


def whole(bits: int) -> np.ndarray:
    return np.rint(SCENE * (2**bits - 1))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bits_with_white_as_zero_are_not_inverted(order: str, compression: str | None) -> None:
    samples = np.rint((1 - SCENE) * 65535).astype(np.uint16)
    data = tiff(samples, photometric="miniswhite", byteorder=order, compression=compression)
    assert read(data) == ()


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 13, 14])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_fewer_bits_stored_in_16_are_scaled_by_those_that_they_use_and_a_note_says_so(
    bits: int, white_is_zero: bool
) -> None:
    samples = whole(bits) if not white_is_zero else 2**bits - 1 - whole(bits)
    data = tiff(samples.astype(np.uint16), photometric="miniswhite" if white_is_zero else "minisblack")
    (note,) = read(data, tolerance=2)
    assert str(2**bits - 1) in note
    assert ("0 is taken as white" in note) == white_is_zero


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<u4", ">u4", "<i2", ">i2"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_whole_numbers_of_more_bits_than_they_use_are_neither_black_nor_silent(
    dtype: str, compression: str | None
) -> None:
    data = tiff(whole(8).astype(dtype[1:]), byteorder=dtype[0], compression=compression)
    (note,) = read(data)
    assert "255 is taken as white" in note.replace("0 is taken as black and ", "") or "255 as white" in note


def test_signed_values_span_from_the_smallest_to_the_largest() -> None:
    samples = np.rint(-1000 + 4000 * SCENE).astype(np.int16)
    photo = load_image(tiff(samples), SCENE.shape)
    expected = (samples - samples.min()) / (samples.max() - samples.min()) * 255
    assert np.abs(photo.array[..., 0] - expected).max() <= 1
    assert "-400 is taken as black and 2600 as white" in photo.notes[0]


def test_signed_bytes_are_not_taken_for_unsigned() -> None:
    photo = load_image(tiff(np.rint(-100 + 200 * SCENE).astype(np.int8)), SCENE.shape)
    assert photo.array[3, 5, 0] == 255
    assert photo.array[0, 0, 0] == 0
    assert photo.notes


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_real_values_that_overshoot_1_are_scaled_by_their_largest_and_a_note_says_so(dtype: str) -> None:
    over = SCENE.copy()
    over[0, 0] = 1.004
    photo = load_image(tiff(over.astype(dtype)), SCENE.shape)
    assert np.abs(photo.array[..., 0] - over / 1.004 * 255).max() <= 1
    assert "to 1.00" in photo.notes[0]
    assert read(tiff(SCENE.astype(dtype))) == ()


def test_real_values_of_0_to_255_are_read_as_such_with_a_note() -> None:
    assert read(tiff((SCENE * 255).astype(np.float32))) != ()


def test_values_without_a_known_range_span_from_the_smallest_to_the_largest_with_a_note() -> None:
    picture = Image.fromarray(np.array([[-3.0, 900.0]], np.float32))
    photo = load_image(picture, (1, 2))
    np.testing.assert_array_equal(photo.array[0, :, 0], [0, 255])
    assert "from -3 to 900" in photo.notes[0]


def test_pixels_without_a_value_are_black_and_counted() -> None:
    holes = SCENE.astype(np.float32)
    holes[0, :3] = np.nan
    photo = load_image(tiff(holes), SCENE.shape)
    assert photo.notes == ("3 pixels have no value and are black",)
    np.testing.assert_array_equal(photo.array[0, :3], 0)
    assert photo.array[3, 5, 0] in (229, 230)
    holes[0, :3] = -9999
    photo = load_image(tiff(holes, extratags=[(42113, "s", 0, "-9999", True)]), SCENE.shape)
    assert photo.notes == ("3 pixels have no value (-9999) and are black",)
    assert photo.array[3, 5, 0] in (229, 230)


def test_a_file_of_nothing_but_nan_is_refused() -> None:
    with pytest.raises(ImageError, match="no finite value"):
        load_image(tiff(np.full((4, 4), np.nan, np.float32)), (4, 4))


@pytest.mark.parametrize(
    "declared",
    [
        {"extratags": [(281, "H", 1, 4095, True)]},
        {"extratags": [(340, "H", 1, 0, True), (341, "H", 1, 4095, True)]},
        {"description": '<?xml version="1.0"?><OME><Pixels SignificantBits="12" Type="uint16"/></OME>'},
        {"description": "ImageJ=1.54f\nmin=0.0\nmax=4095.0\n"},
    ],
    ids=["MaxSampleValue", "SMaxSampleValue", "OME", "ImageJ"],
)
def test_a_range_that_a_tiff_file_declares_is_followed(declared: dict) -> None:
    notes = read(tiff(whole(12).astype(np.uint16), **declared))
    assert "taken as" not in " ".join(notes)


def test_a_declared_maximum_that_only_repeats_the_largest_value_declares_no_white() -> None:
    samples = whole(12).astype(np.uint16)
    notes = read(tiff(samples, extratags=[(281, "H", 1, int(samples.max()), True)]))
    assert "4095 as white" in notes[0]


def png(samples: np.ndarray, *chunks: tuple[bytes, bytes], color_type: int = 0) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_significant_bits_of_a_png_are_read_as_the_standard_says() -> None:
    # ISO/IEC 15948, 13.12: samples are scaled up to the whole depth, by a shift or by repeating the bits.
    twelve = whole(12).astype(np.uint16)
    assert read(png(twelve << 4, (b"sBIT", b"\x0c"))) == ()
    assert read(png((twelve << 4) | (twelve >> 8), (b"sBIT", b"\x0c"))) == ()
    dark = load_image(png(twelve // 16 << 4, (b"sBIT", b"\x0c")), SCENE.shape)
    assert dark.array.max() < 20
    assert dark.notes == ()


def test_significant_bits_of_a_png_whose_writer_forgot_to_scale_are_followed_with_a_note() -> None:
    (note,) = read(png(whole(12).astype(np.uint16), (b"sBIT", b"\x0c")))
    assert "significant bits" in note


def test_a_transparent_gray_of_16_bits_is_transparent() -> None:
    samples = whole(16).astype(np.uint16)
    photo = load_image(png(samples, (b"tRNS", struct.pack(">H", int(samples[0, 0])))), SCENE.shape)
    assert photo.array[0, 0, 0] == 255
    assert photo.array[3, 5, 0] in (229, 230)
    data = png(samples, (b"tRNS", struct.pack(">H", int(samples[0, 0]))))
    with_alpha = load_image(data, (16, 16), channels=4)
    assert with_alpha.array[0, 0, 3] == 0
    assert with_alpha.array[3, 5, 3] == 255


def test_a_transparent_color_of_16_bits_is_told_by_all_of_its_bits() -> None:
    near, key = (300, 600, 900), (301, 600, 900)  # the same upper bytes
    samples = np.array([[near, key, (65535, 0, 0)]], np.uint16)
    photo = load_image(png(samples, (b"tRNS", struct.pack(">HHH", *key)), color_type=2), (1, 3))
    np.testing.assert_array_equal(photo.array[0], [(1, 2, 4), (255, 255, 255), (255, 0, 0)])


@pytest.mark.parametrize(("color_type", "bands"), [(2, 3), (4, 2), (6, 4)])
def test_12_bits_in_16_of_color_and_of_gray_with_alpha_are_not_black(color_type: int, bands: int) -> None:
    samples = np.repeat(whole(12)[..., None], bands, -1)
    if bands in (2, 4):
        samples[..., -1] = 65535
    (note,) = read(png(samples.astype(np.uint16), color_type=color_type))
    assert "4095 as white" in note


def test_largest_values_of_pgm_and_ppm_are_followed() -> None:
    for kind, channels in ((b"P5", 1), (b"P6", 3)):
        samples = np.repeat(whole(12)[..., None], channels, -1).astype(">u2").tobytes()
        assert read(b"%s 16 16 4095\n%s" % (kind, samples)) == ()
        (note,) = read(b"%s 16 16 65535\n%s" % (kind, samples))
        assert "4095 as white" in note


def test_pillow_images_and_arrays_of_many_bits_are_scaled_alike() -> None:
    for source in (whole(12).astype(np.uint16), Image.fromarray(whole(12).astype(np.uint16))):
        (note,) = read(source)
        assert "4095 as white" in note
    assert read(whole(16).astype(np.uint16)) == ()
    assert read(np.repeat(SCENE[..., None], 3, -1)) == ()
    assert read(SCENE > 0.5, tolerance=40) == ()


@pytest.mark.parametrize(
    ("samples", "options", "said"),
    [
        (np.zeros((8, 8, 13), np.uint16), {}, "has 13 bands of 16-bit whole numbers"),
        (np.zeros((8, 8, 5), np.float32), {}, "has 5 bands of 32-bit real numbers"),
        (np.zeros((8, 8), np.complex64), {}, "has 1 band of 64-bit complex numbers"),
    ],
)
def test_bands_that_are_no_picture_are_said_by_number_and_kind(samples, options, said) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        load_image(tiff(samples, photometric="minisblack", planarconfig="contig", **options), (8, 8))
    assert "1, 3 or 4 bands" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", ["u2", "u4", "i2", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("layout", [{}, {"compression": "zlib"}, {"rowsperstrip": 5}, {"tile": (16, 16)}])
def test_color_and_alpha_of_any_numbers_are_read_from_any_layout(dtype, order, planar, layout) -> None:
    kind = np.dtype(dtype)
    white = 1 if kind.kind == "f" else np.iinfo(kind).max
    for bands, options in ((3, {"photometric": "rgb"}), (2, {"photometric": "minisblack"})):
        samples = np.repeat(SCENE[..., None] * white, bands, -1)
        if bands == 2:
            samples[..., 1] = white
            options = {**options, "extrasamples": ["unassalpha"]}
        samples = samples.astype(kind)
        stored = np.moveaxis(samples, -1, 0) if planar == "separate" else samples
        data = tiff(stored, byteorder=order, planarconfig=planar, **options, **layout)
        assert bool(read(data, tolerance=2)) == (kind.kind == "i")


def differences(samples: np.ndarray) -> np.ndarray:
    """TIFF 6.0, section 14: each sample less its left neighbor, by wrapping."""
    left = np.concatenate([np.zeros_like(samples[:, :1]), samples[:, :-1]], axis=1)
    return samples - left


def float_differences(samples: np.ndarray) -> np.ndarray:
    """Adobe Photoshop TIFF Technical Note 3: the bytes of a row by significance, then their differences."""
    height, width, bands = samples.shape
    parts = samples.astype(">f4").view(np.uint8).reshape(height, width * bands, 4)
    rows = np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(height, width * 4, bands)
    return differences(rows).reshape(height, width, bands * 4).view(np.float32)


@pytest.mark.parametrize("dtype", ["u4", "f4"])
def test_differences_between_neighbors_are_undone(dtype: str) -> None:
    samples = np.repeat(SCENE[..., None] * (1 if dtype == "f4" else 2**32 - 1), 3, -1).astype(dtype)
    stored, predictor = (float_differences(samples), 3) if dtype == "f4" else (differences(samples), 2)
    data = bytearray(tiff(stored, photometric="rgb", compression="zlib", byteorder="<"))
    # tifffile writes none without another package: the tag takes the place of one that says nothing.
    at = data.index(struct.pack("<HHIH", 284, 3, 1, 1))
    data[at : at + 10] = struct.pack("<HHIH", 317, 3, 1, predictor)
    assert read(bytes(data), tolerance=2) == ()


def test_a_band_that_is_not_shown_is_told() -> None:
    samples = np.repeat(np.rint(SCENE * 255)[..., None], 4, -1).astype(np.uint8)
    notes = read(tiff(samples, photometric="rgb", extrasamples=["unspecified"]))
    assert notes == ("1 more band is not shown",)


def test_premultiplied_alpha_of_real_numbers_is_undone() -> None:
    alpha = np.full((16, 16, 1), 0.5)
    samples = np.concatenate([np.repeat(SCENE[..., None], 3, -1) * alpha, alpha], -1).astype(np.float32)
    data = tiff(samples, photometric="rgb", extrasamples=["assocalpha"])
    photo = load_image(data, SCENE.shape, channels=4)
    assert np.abs(photo.array[..., 0] - 255 * SCENE).max() <= 2 or photo.notes
    assert np.abs(photo.array[..., 3] - 127.5).max() <= 1


@pytest.mark.filterwarnings("error")
def test_the_ends_of_float64_are_black_and_white() -> None:
    most = float(np.finfo(np.float64).max)

    assert Scale(-most, most).bytes(np.array([-most, 0.0, most])).tolist() == [0, 128, 255]
