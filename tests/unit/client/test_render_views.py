"""Outlines, photo colors, lower percentiles and sheets of several maps show what they say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from test_render import hot_at, photo, pixels

from saliency_client import render
from saliency_client.images import input_box


def test_an_overlay_can_keep_the_photos_colors() -> None:
    original = photo(200, 200)
    drawn = pixels(render.overlay(original, hot_at(slice(4, 8), slice(10, 14)), photo_colors=True))
    np.testing.assert_array_equal(drawn[120:], pixels(original)[120:])


@pytest.mark.parametrize("draw", [render.overlay, render.heatmap, render.masked])
def test_below_the_lower_percentile_nothing_is_shown(draw: object) -> None:
    values = np.repeat(np.array([[1.0, 2.0, 3.0, 4.0]]), 4, axis=0)
    shown = np.repeat(np.array([[0.0, 0.0, 0.5, 1.0]]), 4, axis=0)
    original = photo(40, 40)
    np.testing.assert_array_equal(
        pixels(draw(original, values, clip=100, clip_low=100 / 3)), pixels(draw(original, shown, clip=100))
    )


def test_outlines_run_along_the_edge_of_an_area_and_leave_the_rest_of_the_photo() -> None:
    original, areas = photo(400, 400), np.zeros((40, 40), bool)
    areas[10:20, 10:30] = True
    drawn, before = pixels(render.outlines(original, areas, colormap="gray")), pixels(original)
    changed = (drawn != before).any(axis=-1)
    # A map's pixel is ten of the photo's: the edge is between rows 95 and 105, and so on.
    assert changed[90:110, 150:250].any(axis=0).all()
    assert changed[140:160, 90:110].any(axis=1).all()
    assert not changed[115:185, 115:285].any()
    assert not changed[:85].any()
    assert not changed[:, 315:].any()
    assert {(255, 255, 255), (0, 0, 0)} >= {tuple(one) for one in drawn[changed]}


def test_outlines_of_the_whole_photo_or_of_nothing_draw_no_line() -> None:
    original = photo(100, 100)
    for areas in (np.ones((9, 9), bool), np.zeros((9, 9), bool)):
        np.testing.assert_array_equal(pixels(render.outlines(original, areas)), pixels(original))


def test_outlines_go_back_to_the_part_that_the_model_saw() -> None:
    original, box = Image.new("RGB", (300, 200), (40, 40, 40)), input_box((300, 200), (20, 20), "crop")
    areas = np.zeros((20, 20), bool)
    areas[:, :10] = True
    drawn = pixels(render.outlines(original, areas, box, colormap="gray"))
    assert (drawn[100] == 255).all(axis=-1).nonzero()[0].tolist() == [149, 150]
    assert drawn[:, :50].min() > 120


def test_signed_outlines_have_a_color_for_each_sign() -> None:
    values = hot_at(slice(2, 8), slice(2, 8), 40) - hot_at(slice(20, 28), slice(20, 28), 40)
    green = Image.new("RGB", (400, 400), (0, 255, 0))
    drawn = pixels(render.outlines(green, values, clip_low=94, signed=True))
    reds, blues = (
        ((drawn[..., one] > 150) & (drawn[..., other] < 100) & (drawn[..., 1] < 160)).nonzero()
        for one, other in ((0, 2), (2, 0))
    )
    assert 15 <= reds[0].min() <= reds[0].max() <= 85
    assert 195 <= blues[0].min() <= blues[0].max() <= 285


def test_bands_do_not_show_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    areas = np.random.default_rng(0).random((12, 12)) < 0.5
    original = photo(500, 400)
    whole = pixels(render.outlined(original, areas))
    monkeypatch.setattr(render, "_BAND_PIXELS", 500)
    np.testing.assert_array_equal(pixels(render.outlined(original, areas)), whole)


def test_maps_stand_side_by_side_each_drawn_as_it_is_alone() -> None:
    original = photo(300, 200)
    box = input_box((300, 200), (20, 20), "crop")
    values = {f"map {number}": hot_at(slice(number), slice(number)) for number in range(1, 8)}
    drawn = pixels(render.side_by_side(original, values, box, draw=render.heatmap, title="a cat"))
    small, small_box = render.seen_part(original, box)
    found = 0
    for tile in (small, *(render.heatmap(small, one, small_box) for one in values.values())):
        wanted = pixels(tile)
        rows, columns = drawn.shape[0] - wanted.shape[0] + 1, drawn.shape[1] - wanted.shape[1] + 1
        corners = np.argwhere((drawn[:rows, :columns] == wanted[0, 0]).all(axis=-1))
        found += any(
            np.array_equal(drawn[y : y + wanted.shape[0], x : x + wanted.shape[1]], wanted)
            for y, x in corners
        )
    assert found == 8
    # Eight tiles in two rows of four.
    assert 4 * small.width < drawn.shape[1] < 5 * small.width
    assert 2 * small.height < drawn.shape[0] < 3 * small.height


def test_options_of_the_drawing_reach_every_map() -> None:
    values = {"one": np.eye(4), "two": 1 - np.eye(4)}
    first = render.side_by_side(photo(), values, draw=render.heatmap, colormap="viridis")
    assert (
        pixels(first).tolist() != pixels(render.side_by_side(photo(), values, draw=render.heatmap)).tolist()
    )
