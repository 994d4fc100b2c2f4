"""Maps and photos as pictures for a page: what a level means, and where the map lies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from saliency_client import maps, render
from saliency_client.images import load_image
from saliency_client.web.map_picture import color_tables, map_picture, photo_pictures


def levels(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "L"
    return np.asarray(picture).astype(int)


def test_levels_are_the_scale_of_explain() -> None:
    values = np.random.default_rng(0).gamma(1.0, size=(40, 30)).astype(np.float32)
    picture = map_picture(values, clip=90)
    np.testing.assert_allclose(levels(picture.png) / 255, maps.normalize(values, clip=90), atol=0.5 / 255)
    assert picture.low == values.min()
    assert picture.high == pytest.approx(np.percentile(values, 90))


def test_of_a_map_with_signs_the_middle_is_exactly_zero() -> None:
    values = np.array([[-8.0, -2.0, 0.0], [1.0, 2.0, 4.0]], np.float32)
    picture = map_picture(values, signed=True, clip=100)
    assert levels(picture.png).tolist() == [[1, 96, 128], [144, 160, 192]]
    assert (picture.low, picture.high) == (0, 8)


@pytest.mark.parametrize("signed", [False, True])
def test_a_constant_map_shows_nothing(signed: bool) -> None:
    picture = map_picture(np.full((3, 4), 7.0 if not signed else 0.0), signed=signed)
    assert set(levels(picture.png).ravel()) == {128 if signed else 0}


@pytest.mark.parametrize("values", [np.zeros((2, 3, 3)), np.array([[np.nan]]), np.zeros((0, 3))])
def test_what_is_no_map_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="map"):
        map_picture(values)


@pytest.mark.parametrize(
    ("resize", "box"),
    [("crop", (150, 0, 750, 600)), ("stretch", (0, 0, 900, 600)), ("pad", (0, -150, 900, 750))],
)
def test_the_box_goes_with_the_photo(resize: str, box: tuple[float, ...]) -> None:
    """A photo of 1800 x 1200, shown with half of that."""
    photo = load_image(np.zeros((1200, 1800, 3), np.uint8), (64, 64), resize=resize)  # type: ignore[arg-type]
    pictures = photo_pictures(photo, side=900)
    assert (pictures.size, pictures.box) == ((900, 600), box)
    assert Image.open(io.BytesIO(pictures.view)).size == (900, 600)
    width, height = Image.open(io.BytesIO(pictures.thumb)).size
    seen = min(box[2], 900) - max(box[0], 0), min(box[3], 600) - max(box[1], 0)
    assert width / height == pytest.approx(seen[0] / seen[1], rel=0.02)
    assert max(width, height) <= 320


def test_a_photo_of_few_pixels_keeps_each_of_them() -> None:
    values = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    pictures = photo_pictures(load_image(values, (8, 8)))
    assert pictures.type == "png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(pictures.view))), values)


def test_the_first_colors_are_those_that_explain_draws_with() -> None:
    tables = color_tables()
    for kind, name in (("sequential", render.SEQUENTIAL), ("diverging", render.DIVERGING)):
        first = bytes.fromhex(next(iter(tables[kind].values())))
        assert np.frombuffer(first, np.uint8).reshape(256, 3).tolist() == render.color_table(name).tolist()
