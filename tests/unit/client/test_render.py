"""Pictures show what the map says, where it says it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saliency_client import render
from saliency_client.images import input_box, load_image


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), np.int64)


def photo(width: int = 300, height: int = 200) -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return Image.fromarray(values).resize((width, height))


def hot_at(row: slice, column: slice, size: int = 20) -> np.ndarray:
    values = np.zeros((size, size), np.float32)
    values[row, column] = 3.0
    return values


def color_table(name: str) -> np.ndarray:
    ramp = np.arange(256, dtype=np.float32)[None]
    return pixels(render.heatmap(Image.new("RGB", (256, 1)), ramp, colormap=name, clip=100))[0]


def saturation(array: np.ndarray) -> np.ndarray:
    return array.max(axis=-1) - array.min(axis=-1)


@pytest.mark.parametrize("draw", [render.overlay, render.heatmap, render.masked])
def test_a_picture_has_the_size_of_the_photo(draw: object) -> None:
    for size in ((300, 200), (64, 999), (7, 5)):
        box = input_box(size, (20, 20), "crop")
        assert draw(photo().resize(size), hot_at(slice(5), slice(5)), box).size == size


def test_where_the_map_is_hot_the_overlay_has_the_hottest_color() -> None:
    hot = pixels(render.overlay(photo(200, 200), hot_at(slice(4, 8), slice(10, 14)), opacity=1))
    hottest = color_table("inferno")[-1]
    np.testing.assert_array_equal(hot[50:70, 110:130], np.broadcast_to(hottest, (20, 20, 3)))


def test_where_the_map_is_cold_the_overlay_shows_the_photo_in_grays() -> None:
    original = photo(200, 200)
    cold = pixels(render.overlay(original, hot_at(slice(4, 8), slice(10, 14))))[120:]
    np.testing.assert_array_equal(cold, pixels(original.convert("L"))[120:])


def test_opacity_mixes_the_color_with_the_photo() -> None:
    original, values = Image.new("RGB", (20, 20), (100, 100, 100)), hot_at(slice(8, 16), slice(8, 16))
    hottest = color_table("inferno")[-1]
    for opacity in (0.0, 0.25, 1.0):
        center = pixels(render.overlay(original, values, opacity=opacity))[12, 12]
        assert np.abs(center - (100 * (1 - opacity) + hottest * opacity)).max() <= 0.5


def test_a_map_goes_back_to_the_part_of_the_photo_that_it_was_computed_on() -> None:
    original = photo(300, 200)
    values = hot_at(slice(0, 10), slice(0, 10))
    table = color_table("inferno")
    drawn = pixels(render.heatmap(original, values, input_box((300, 200), (20, 20), "crop")))
    # The crop is columns 50..250: its upper left quarter is hot, the rest of it cold, no data beside it.
    np.testing.assert_array_equal(drawn[5:90, 55:140], np.broadcast_to(table[-1], (85, 85, 3)))
    np.testing.assert_array_equal(drawn[110:, 160:245], np.broadcast_to(table[0], (90, 85, 3)))
    for margin in (drawn[:, :50], drawn[:, 250:]):
        assert len(np.unique(margin.reshape(-1, 3), axis=0)) == 1
        assert (margin[0, 0] != table).any(axis=1).all()


def test_a_map_of_a_padded_photo_loses_only_the_padding() -> None:
    values = hot_at(slice(5, 15), slice(0, 10))
    drawn = pixels(render.heatmap(photo(200, 100), values, input_box((200, 100), (20, 20), "pad")))
    table = color_table("inferno")
    np.testing.assert_array_equal(drawn[5:-5, 5:90], np.broadcast_to(table[-1], (90, 85, 3)))
    np.testing.assert_array_equal(drawn[:, 110:], np.broadcast_to(table[0], (100, 90, 3)))
    tall = pixels(render.heatmap(photo(100, 200), values.T, input_box((100, 200), (20, 20), "pad")))
    np.testing.assert_array_equal(tall, drawn.transpose(1, 0, 2))


def test_an_overlay_is_paler_where_the_model_saw_nothing() -> None:
    original = Image.new("RGB", (300, 200), (40, 40, 40))
    drawn = pixels(render.overlay(original, np.zeros((20, 20)), input_box((300, 200), (20, 20), "crop")))
    assert drawn[:, 60:240].max() == 40
    assert min(drawn[:, :50].min(), drawn[:, 250:].min()) > 120


def test_masked_is_the_photo_times_the_map() -> None:
    values = np.array([[0, 1, 2]], np.float32).repeat(3, axis=0)
    original = Image.new("RGB", (3, 3), (200, 100, 40))
    drawn = pixels(render.masked(original, values, clip=100))
    np.testing.assert_array_equal(drawn[1], [(0, 0, 0), (100, 50, 20), (200, 100, 40)])


def test_masked_is_black_where_the_model_saw_nothing() -> None:
    box = input_box((300, 200), (20, 20), "crop")
    drawn = pixels(render.masked(photo(300, 200), np.eye(20), box))
    assert drawn[:, :50].max() == 0
    assert drawn[:, 250:].max() == 0
    assert drawn[:, 50:250].max() > 0


@pytest.mark.parametrize("value", [0.0, 7.0, -7.0])
def test_a_constant_map_gives_a_flat_picture(value: float) -> None:
    flat, original = np.full((20, 20), value), photo(100, 100)
    assert len(np.unique(pixels(render.heatmap(original, flat)).reshape(-1, 3), axis=0)) == 1
    np.testing.assert_array_equal(pixels(render.overlay(original, flat)), pixels(original.convert("L")))
    assert pixels(render.masked(original, flat)).max() == 0


@pytest.mark.parametrize("draw", [render.heatmap, render.overlay])
def test_a_signed_picture_is_symmetric_about_zero(draw: object) -> None:
    values = np.random.default_rng(5).normal(size=(20, 20))
    positive = draw(photo(40, 40), values, signed=True, colormap="RdBu_r")
    negative = draw(photo(40, 40), -values, signed=True, colormap="RdBu")
    assert np.abs(pixels(positive) - pixels(negative)).max() <= 2  # 256 colors have no exact middle


def test_a_signed_picture_is_red_for_more_blue_for_less_and_pale_at_zero() -> None:
    values = np.array([[-1.0, 0.0, 1.0]])
    less, zero, more = pixels(render.heatmap(Image.new("RGB", (3, 1)), values, signed=True, clip=100))[0]
    assert less[2] > less[0] + 60
    assert more[0] > more[2] + 60
    assert zero.min() >= 240


def test_a_weak_sign_stays_weak_next_to_a_strong_one() -> None:
    values = np.array([[-0.1, 0.0, 1.0]])
    less, _, more = pixels(render.heatmap(Image.new("RGB", (3, 1)), values, signed=True, clip=100))[0]
    assert saturation(less) < saturation(more) / 4


def test_the_default_colors_grow_evenly_lighter() -> None:
    linear = (color_table("inferno") / 255) ** 2.2
    lightness = np.cbrt(linear @ [0.2126, 0.7152, 0.0722])
    steps = np.diff(lightness[8:])
    assert (steps > 0).mean() > 0.98
    assert np.array_equal(color_table("inferno"), color_table(None))


def test_jet_runs_from_dark_blue_through_green_to_dark_red() -> None:
    table = color_table("jet")
    np.testing.assert_allclose(table[[0, 255]], [(0, 0, 128), (128, 0, 0)], atol=1)
    assert table[128, 1] == 255


def test_an_unknown_color_map_is_an_error_that_lists_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no color map 'infernal'; near ones: inferno"):
        render.heatmap(photo(), np.eye(4), colormap="infernal")


@pytest.mark.parametrize("draw", [render.overlay, render.heatmap, render.masked])
def test_a_large_photo_drawn_in_bands_is_the_same_picture(
    draw: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(5).normal(size=(20, 20))
    box = input_box((60, 41), (20, 20), "crop")
    whole = draw(photo().resize((60, 41)), values, box)
    for pixels_of_a_band in (1, 180, 60 * 41):
        monkeypatch.setattr(render, "_BAND_PIXELS", pixels_of_a_band)
        np.testing.assert_array_equal(pixels(draw(photo().resize((60, 41)), values, box)), pixels(whole))


def test_maps_that_cannot_be_drawn_are_errors() -> None:
    with pytest.raises(ValueError, match="NaN"):
        render.overlay(photo(), np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        render.overlay(photo(), np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match=r"opacity is 1\.5"):
        render.overlay(photo(), np.eye(4), opacity=1.5)
    with pytest.raises(ValueError, match=r"\[H, W, C\]"):
        render.panel(photo(), np.zeros((4, 4)))


DRAWN = {
    "overlay": lambda picture: render.overlay(picture, np.eye(4)),
    "heatmap": lambda picture: render.heatmap(picture, np.eye(4)),
    "masked": lambda picture: render.masked(picture, np.eye(4)),
    "panel": lambda picture: render.panel(picture, np.ones((4, 4, 3))),
}
RGB = np.random.default_rng(4).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_an_array_is_drawn_over_as_the_picture_that_it_holds(draw: object) -> None:
    expected = pixels(draw(Image.fromarray(RGB)))
    for array in (RGB, RGB[None]):
        np.testing.assert_array_equal(pixels(draw(array)), expected)
    gray = Image.fromarray(RGB[..., 0])
    for array in (RGB[..., 0], RGB[..., :1], RGB[None, ..., :1]):
        np.testing.assert_array_equal(pixels(draw(array)), pixels(draw(gray)))


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.moveaxis(RGB, -1, 0), "channels come first"),
        (np.repeat(RGB[None], 2, 0), "2 pictures"),
        (np.zeros(9, np.uint8), r"\[H, W\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[H, W\]"),
    ],
)
def test_an_array_that_is_no_picture_is_refused_before_drawing(draw, picture, said) -> None:
    with pytest.raises(ValueError, match=said):
        draw(picture)


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize("picture", ["cat.jpg", Path("cat.jpg"), None, [[1]], b"..."])
def test_a_path_or_anything_else_is_a_type_error_that_says_what_is_taken(draw, picture) -> None:
    with pytest.raises(TypeError, match="a Pillow image, an array") as caught:
        draw(picture)
    assert ("load_image(path" in str(caught.value)) == (picture in ("cat.jpg", Path("cat.jpg"), b"..."))


def test_a_pillow_image_of_many_bits_or_transparency_is_shown_not_clipped() -> None:
    deep = Image.fromarray((RGB[..., 0].astype(np.uint16)) * 257)
    eight = Image.fromarray(RGB[..., 0])
    clear = Image.fromarray(np.dstack([RGB, np.zeros((6, 9), np.uint8)]))
    white = Image.new("RGB", (9, 6), "white")
    for draw in DRAWN.values():
        np.testing.assert_array_equal(pixels(draw(deep)), pixels(draw(eight)))
        np.testing.assert_array_equal(pixels(draw(clear)), pixels(draw(white)))


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_a_picture_one_pixel_wide_is_drawn(size: tuple[int, int], resize: str) -> None:
    narrow, box = Image.new("RGB", size, (9, 9, 9)), input_box(size, (20, 20), resize)
    for draw in (render.overlay, render.heatmap, render.masked):
        assert draw(narrow, np.eye(20), box).size == size
    assert render.panel(narrow, np.ones((20, 20, 3)), box).width > 100


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (5, 0, 2, 5), (0, 0, 5)])
def test_a_box_that_holds_nothing_is_refused(box: object) -> None:
    with pytest.raises(ValueError, match="left, top, right, bottom"):
        render.overlay(photo(), np.eye(4), box)


def tiles_of(panel: Image.Image) -> list[np.ndarray]:
    """The tiles: the columns of the middle row that are not paper."""
    array = pixels(panel)
    row = array[array.shape[0] * 55 // 100]
    inked = np.concatenate([[False], (row != 255).any(axis=-1), [False]])
    edges = np.flatnonzero(np.diff(inked.astype(int))).reshape(-1, 2)
    tiles = []
    for left, right in edges:
        column = (array[:, (left + right) // 2] != 255).any(axis=-1)
        middle = array.shape[0] * 55 // 100
        top = middle - int(np.argmin(column[middle::-1])) + 1
        tiles.append(array[top : top + (right - left), left:right])
    return tiles


def split_gradients() -> np.ndarray:
    """Positive in the upper left, twice as strong and negative in the lower right."""
    gradients = np.zeros((20, 20, 3), np.float32)
    gradients[:10, :10, 0] = 1
    gradients[10:, 10:, 1] = -2
    return gradients


def test_a_panel_shows_the_photo_the_three_views_and_their_product() -> None:
    gray = Image.new("RGB", (300, 300), (120, 130, 140))
    tiles = tiles_of(render.panel(gray, split_gradients(), title="cat", clip=100))
    assert [tile.shape for tile in tiles] == [(300, 300, 3)] * 5
    original, absolute, positive, negative, product = tiles
    table = color_table("inferno")
    np.testing.assert_array_equal(original, pixels(gray))
    upper_left, lower_right, upper_right = np.s_[75, 75], np.s_[225, 225], np.s_[75, 225]
    # One scale for all: the weaker sign has the middle color, also where it is alone.
    for tile, hot, weak in ((absolute, 255, 128), (positive, 0, 128), (negative, 255, 0)):
        np.testing.assert_array_equal(tile[lower_right], table[hot])
        np.testing.assert_array_equal(tile[upper_left], table[weak])
        np.testing.assert_array_equal(tile[upper_right], table[0])
    np.testing.assert_array_equal(product[lower_right], (120, 130, 140))
    np.testing.assert_array_equal(product[upper_left], (60, 65, 70))
    np.testing.assert_array_equal(product[upper_right], (0, 0, 0))


def test_a_panel_shows_only_what_the_model_saw() -> None:
    wide = Image.new("RGB", (600, 300), (0, 255, 0))
    wide.paste((120, 130, 140), (150, 0, 450, 300))
    tiles = tiles_of(render.panel(wide, split_gradients(), input_box(wide.size, (20, 20), "crop"), clip=100))
    np.testing.assert_array_equal(tiles[0], np.broadcast_to((120, 130, 140), (300, 300, 3)))


@pytest.mark.parametrize("size", [(32, 32), (4000, 3000), (3000, 40), (40, 3000), (1, 1)])
def test_a_panel_is_readable_for_any_photo(size: tuple[int, int]) -> None:
    drawn = render.panel(photo().resize(size), split_gradients(), title="cat", subtitle="smooth")
    assert drawn.width <= 2800
    assert drawn.height <= 700
    assert max(drawn.size) >= 600


def dark(picture: Image.Image) -> np.ndarray:
    return pixels(picture).max(axis=-1) < 90


def test_a_panel_has_its_caption_in_the_margin_above() -> None:
    bare = render.panel(Image.new("RGB", (300, 300), "white"), np.zeros((20, 20, 3)))
    titled = render.panel(
        Image.new("RGB", (300, 300), "white"), np.zeros((20, 20, 3)), title="Egyptian cat (285), 38.5 %"
    )
    above = titled.height - bare.height
    assert above >= 20
    assert dark(titled)[:above].sum() > 300


@pytest.mark.parametrize("title", ["word " * 60, "W" * 200])
def test_a_long_caption_is_cut_and_stays_inside(title: str) -> None:
    drawn = dark(render.panel(Image.new("RGB", (300, 300), "white"), np.zeros((20, 20, 3)), title=title))
    assert drawn[:40].any()
    assert not drawn[:40, -15:].any()


def test_a_caption_in_any_script_leaves_no_boxes() -> None:
    def caption(title: str) -> np.ndarray:
        return pixels(render.panel(Image.new("RGB", (300, 300)), np.zeros((20, 20, 3)), title=title))

    np.testing.assert_array_equal(caption("Café 猫 (7)\x1b"), caption("Cafe (7)"))


def test_a_photo_is_not_drawn_over_as_if_the_model_saw_all_of_it() -> None:
    photo = load_image(np.zeros((8, 12, 3), np.uint8), (4, 4))
    with pytest.raises(TypeError, match="give its picture, and its box"):
        render.overlay(photo, np.ones((4, 4)))


@pytest.mark.parametrize("box", [(0.5, 0, 4, 4), (0, 0, 4), (4, 0, 0, 4), ("0", 0, 4, 4)])
def test_a_box_that_is_none_is_named(box: tuple) -> None:
    with pytest.raises(ValueError, match="a box is"):
        render.overlay(np.zeros((8, 8, 3), np.uint8), np.ones((4, 4)), box)
