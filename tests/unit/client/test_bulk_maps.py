"""How maps are stored in rows."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from saliency_client import InputError, OptionError
from saliency_client.bulk import read_map, store_map

FINITE = st.floats(-(2.0**120), 2.0**120, width=32)


@settings(deadline=None)
@given(arrays(np.float32, (3, 4), elements=FINITE))
def test_float16_gives_each_value_back_to_11_bits_of_it_or_25_of_the_largest(values):
    content, scale = store_map(values, "float16")

    largest = np.abs(values.astype(np.float64)).max()
    allowed = np.maximum(np.abs(values.astype(np.float64)) * 2.0**-11, largest * 2.0**-24)
    error = np.abs(read_map(content, scale, values.shape, "float16").astype(np.float64) - values)

    assert len(content) == 2 * values.size
    # What is smaller than float32's normal numbers loses its own bits.
    assert (error <= allowed + 2.0**-149).all()


@settings(deadline=None)
@given(arrays(np.float32, (3, 4), elements=st.floats(0, 2.0**120, width=32)))
@pytest.mark.parametrize("map_format", ["uint8", "png"])
def test_uint8_and_png_give_each_value_back_to_half_a_step_of_255(map_format, values):
    content, scale = store_map(values, map_format)

    error = np.abs(read_map(content, scale, values.shape, map_format).astype(np.float64) - values)

    assert (error <= values.max() / 255 * 0.501 + 2.0**-148).all()


def test_a_float16_map_is_numpys_little_endian_half_times_a_power_of_two():
    values = np.array([[0.0, -3.0], [96000.0, 1.0]], np.float32)

    content, scale = store_map(values, "float16")

    assert scale == 65536.0  # the power of two at or below 96000, which half precision cannot hold
    stored = np.frombuffer(content, "<f2").astype(np.float32).reshape(2, 2)
    np.testing.assert_array_equal(stored * np.float32(scale), values)


def test_the_largest_value_of_a_uint8_map_is_255_and_zero_is_0():
    content, scale = store_map(np.array([[0.0, 51.0, 1.0]], np.float32), "uint8")

    assert list(content) == [0, 255, 5]
    assert scale == pytest.approx(0.2, rel=1e-6)


def test_a_png_is_a_gray_picture_that_any_program_opens():
    content, _ = store_map(np.array([[0.0, 2.55], [1.0, 2.55]], np.float32), "png")

    picture = Image.open(io.BytesIO(content))

    assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (2, 2))
    np.testing.assert_array_equal(np.asarray(picture), [[0, 255], [100, 255]])


@pytest.mark.parametrize("map_format", ["float16", "uint8", "png"])
def test_a_map_of_zeros_stays_one(map_format):
    zeros = np.zeros((2, 3), np.float32)

    content, scale = store_map(zeros, map_format)

    np.testing.assert_array_equal(read_map(content, scale, (2, 3), map_format), zeros)


@pytest.mark.parametrize("values", [np.array([[-1.0, 1.0]]), np.ones((1, 2, 3))])
@pytest.mark.parametrize("map_format", ["uint8", "png"])
def test_signs_and_channels_are_refused_where_they_would_be_lost(map_format, values):
    with pytest.raises(OptionError, match="signs or channels does not fit") as caught:
        store_map(values.astype(np.float32), map_format)

    assert "float16" in caught.value.hint


def test_channels_and_signs_are_kept_in_float16():
    values = np.arange(-6, 6, dtype=np.float32).reshape(2, 2, 3)

    np.testing.assert_array_equal(read_map(*store_map(values, "float16"), (2, 2, 3), "float16"), values)


def test_a_row_without_a_map_and_bytes_of_another_format_are_refused_in_words():
    with pytest.raises(InputError, match="the row has no map") as caught:
        read_map(None, 1.0, (2, 3), "float16")
    assert "column error" in caught.value.hint
    with pytest.raises(InputError, match=r"6 bytes are no float16 map of \[2, 3\]"):
        read_map(bytes(6), 1.0, (2, 3), "float16")


def test_an_unknown_format_is_refused_by_its_name():
    with pytest.raises(OptionError, match="map_format is 'jpg'; it must be one of 'float16', 'uint8', 'png'"):
        read_map(b"", 1.0, (0, 0), "jpg")
