"""What is said of methods, and its pictures and page, from records that are written by hand."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from saliency_client.evaluation import charts
from saliency_client.evaluation.ranking import pair_json, pairs, standing_json, standings
from saliency_client.evaluation.report import write_report

LOAD = {"predictions": 88, "explanations": 8, "seconds": 2.0, "requests": 12, "kept": 0}


def record(image: str, method: str, measure: str, value: float | None, **more: Any) -> dict[str, Any]:
    settings = {"class_index": None, "quantity": "probability", "percentages": [10.0, 20.0]}
    curve = [[0.0, 1.0], [1.0, 0.0 if value is None else 2 * value - 1]]
    made = {"model": "a <model>", "version": 3, "settings": settings}
    known = {"settings": settings, "curve": curve, "note": None, "made_with": made}
    return {"image": image, "method": method, "measure": measure, "value": value, **known, **more}


@pytest.fixture
def records() -> list[dict[str, Any]]:
    found = []
    for number in range(8):
        image = f"{number}<i>.png"
        found += [
            record(image, "good", "deletion", 0.1 + 0.01 * number),
            record(image, "chance", "deletion", 0.5 + 0.1 * (-1) ** number),
            record(image, "control:random", "deletion", 0.5),
            record(image, "good", "sparseness", 0.3),
            record(image, "control:random", "sparseness", 0.9),
        ]
    found.append(record("8.png", "good", "deletion", None, note="it has <none>"))
    return found


def test_the_best_stands_first_and_what_a_control_equals_is_named(records: list[dict[str, Any]]) -> None:
    found = [one for one in standings(records) if one.measure == "deletion"]
    assert found[0].method == "good"
    named = {one.method: one.no_better_than for one in found}
    assert named == {"good": (), "chance": ("control:random",), "control:random": ()}
    good = found[0].summary
    assert (good.mean, good.images, good.undefined) == (pytest.approx(0.135), 8, 1)


def test_a_measure_that_prefers_neither_end_has_no_control(records: list[dict[str, Any]]) -> None:
    found = [one for one in standings(records) if one.measure == "sparseness"]
    assert all(not one.against and not one.no_better_than for one in found)
    assert standing_json(found[0])["better"] is None


def test_every_two_methods_are_compared_on_the_images_of_both(records: list[dict[str, Any]]) -> None:
    found = {(one.measure, one.first, one.second): one.comparison for one in pairs(records)}
    assert set(found) == {
        ("deletion", "good", "chance"),
        ("deletion", "good", "control:random"),
        ("deletion", "chance", "control:random"),
        ("sparseness", "good", "control:random"),
    }
    one = found["deletion", "good", "control:random"]
    assert (one.images, one.wins, one.better) == (8, 8, True)
    assert one.difference == pytest.approx(0.135 - 0.5)
    assert pair_json(pairs(records)[0])["methods"] == ["good", "chance"]


class Elements(HTMLParser):
    """What a page is made of, and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.charts: list[dict[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "svg":
            self.charts.append(dict(attrs))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_itself_and_shows_names_as_text(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = write_report(tmp_path, records, standings(records), pairs(records), LOAD)
    assert [one.name for one in tmp_path.iterdir()] == [path.name] == ["index.html"]
    page = path.read_text()
    found = Elements()
    found.feed(page)
    assert not found.open
    assert not found.links
    assert "a &lt;model&gt;" in page
    assert "0&lt;i&gt;.png" in page
    assert "it has &lt;none&gt;" in page
    assert "not shown to be better than random" in page
    assert not re.search(r"<i>|<none>|\bnan\b", page)


def test_every_chart_says_in_words_what_is_seen(records: list[dict[str, Any]], tmp_path: Path) -> None:
    found = Elements()
    found.feed(write_report(tmp_path, records, standings(records), pairs(records), LOAD).read_text())
    words = [one["aria-label"] or "" for one in found.charts]
    assert [text.partition(",")[0] for text in words] == ["deletion", "deletion", "sparseness", "sparseness"]
    assert "mean over 8 images" in words[0]
    assert words[0].endswith("good 0.135, chance 0.5, random 0.5")
    assert all(one["role"] == "img" for one in found.charts)


def test_every_color_of_a_chart_is_in_the_style_for_light_and_for_dark(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    many = [record("0.png", f"method {number}", "deletion", 0.1) for number in range(10)]
    page = write_report(tmp_path, [*records, *many], standings([*records, *many]), [], LOAD).read_text()
    light, dark = page.split("@media (prefers-color-scheme: dark)")
    for name in set(re.findall(r"class='(?:curve |interval )?([ck]\d)'", page)):
        assert f"--{name}: #" in light
        assert f"--{name}: #" in dark
        assert f".{name} {{ --color: var(--{name}); }}" in dark


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.3, 0.9, [-0.5, -0.25, 0, 0.25, 0.5, 0.75, 1]),
        (0, 7e-5, [0, 2e-5, 4e-5, 6e-5, 8e-5]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-12000, 0, [-12500, -10000, -7500, -5000, -2500, 0]),
    ],
)
def test_ticks_are_round_and_hold_all_values(low: float, high: float, expected: list[float]) -> None:
    assert charts.nice_ticks(low, high) == pytest.approx(expected)


def test_a_mean_and_its_interval_are_drawn_where_the_scale_says() -> None:
    """Of a scale from 0 to 1 between 160 and 358: 0.2, 0.5 and 1 are at 199.6, 259 and 358."""
    rows = [charts.Row("one", "c0", 0.5, 0.2, 1.0), charts.Row("none", "c1", math.nan, math.nan, math.nan)]
    picture = charts.ranking("words", rows)
    assert "<polyline class='interval c0' points='199.6,21.0 358.0,21.0'/>" in picture
    assert re.findall("<circle[^>]*>", picture) == ["<circle class='c0' cx='259.0' cy='21.0' r='5'/>"]
    assert ">undefined<" in picture


def test_a_curve_is_drawn_where_the_scale_says() -> None:
    """Shares 0, 0.5 and 1 are at 44, 224 and 404; quantities 0 and 1 at 230 and 10."""
    picture = charts.curves("words", {"one": ("c0", [(0, 1), (0.5, 0.25), (1, 0)])}, across="removed")
    assert "<polyline class='curve c0' points='44.0,10.0 224.0,175.0 404.0,230.0'/>" in picture
