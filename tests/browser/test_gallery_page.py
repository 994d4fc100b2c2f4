"""A gallery in Chromium: what people see of it, and what they can do with it."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saliency_client import Explanation, render
from saliency_client.gallery import Entry, write_gallery
from saliency_client.images import Photo, load_image
from saliency_client.web import gallery
from saliency_client.web.map_picture import photo_pictures
from saliency_client.web.shown import Shown, ShownClass, shown_map

SIZE = 56
HOSTILE = (
    '<img src=x onerror="window.hacked=1">.jpg',
    "</script><script>window.hacked=2</script>.jpg",
    'it\'s a "photo" & $(touch hacked) `id`.jpg',
    "\u202egpj.tac.jpg",
)
"""Names of photos, and of classes."""
PROBABILITIES = (0.91, 0.15, 0.62, 0.88, 0.35, 0.74)
TRUTHS = ("class 0", "class 7", "class 2", "class 3", "class 4", "class 9")
"""The second and the last are wrong."""


def photo_of(name: str) -> Photo:
    """Colors that change slowly, 400 x 300, of which the model sees the middle 300 x 300."""
    y, x = np.mgrid[0:300, 0:400]
    colors = np.stack([x * 255 / 400, y * 255 / 300, 255 - (x + y) * 255 / 700], -1)
    return replace(load_image(colors.astype(np.uint8), (SIZE, SIZE)), name=name)


def gradients(number: int, strength: float = 1.0) -> np.ndarray:
    """A hill that raises the score and one that lowers it, [1, H, W, 3]."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    up = np.exp(-((y - 30) ** 2 + (x - 16 - 3 * number) ** 2) / 150)
    down = np.exp(-((y - 14) ** 2 + (x - 42) ** 2) / 90)
    return np.repeat((strength * (up - 0.7 * down))[None, ..., None], 3, -1).astype(np.float32)


def explanation(
    number: int, method: str, *, strength: float = 1.0, label: str | None = None, **numbers: float
) -> Explanation:
    signs = gradients(number, strength)
    outputs: dict[str, Any] = {
        "saliency": np.abs(signs).max(-1),
        "gradients": signs,
        "class_index": np.array([number], np.int32),
        "label": np.array([label or f"class {number}, of many"], object),
        "probability": np.array([PROBABILITIES[number]], np.float32),
        "score": np.array([4.5], np.float32),
        **{name: np.array([value], np.float32) for name, value in numbers.items()},
    }
    return Explanation(outputs, method=method, model="net", version=3)


def entries(names: tuple[str, ...], labels: tuple[str, ...] | None = None) -> list[Entry]:
    return [
        Entry(
            photo_of(name),
            [
                explanation(number, "plain", label=labels and labels[number]),
                explanation(
                    number,
                    "mean",
                    strength=0.25,
                    label=labels and labels[number],
                    relative_error=0.1 * (number + 1) if number < 5 else np.inf,
                ),
            ],
            truth=TRUTHS[number],
        )
        for number, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = tuple(f"photo-{number}.jpg" for number in range(6))
    return write_gallery(tmp_path_factory.mktemp("gallery") / "page", entries(names), title="Six photos")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    return write_gallery(folder / "page", entries(HOSTILE, HOSTILE), title=HOSTILE[1], single_file=False)


def names(opened: Any) -> list[str]:
    return [text.strip() for text in opened.locator(".tile .file").all_text_contents()]


def pixels(locator: Any) -> np.ndarray:
    """What is on the screen, [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def settled(opened: Any) -> None:
    """Wait until the pictures in sight are there, and drawn."""
    opened.evaluate(
        """async () => {
          const frame = () => new Promise((done) => requestAnimationFrame(done));
          const there = (one) => !one.checkVisibility() || (one.complete && one.naturalWidth > 0);
          while (![...document.querySelectorAll(".map-view img[src]")].every(there)) await frame();
          await frame();
          await frame();
        }"""
    )


def until(opened: Any, condition: str) -> None:
    """Wait until an expression is true, for ten seconds; the page's policy forbids Playwright's own way."""
    opened.evaluate(
        f"""async () => {{
          const begun = performance.now();
          while (!({condition})) {{
            if (performance.now() - begun > 10_000) throw new Error("still false: " + {condition!r});
            await new Promise((done) => requestAnimationFrame(done));
          }}
        }}"""
    )


def choose(opened: Any, text: str) -> None:
    """Press one of the choices beside one another."""
    opened.locator(".segments label:visible", has_text=re.compile(f"^{text}$")).click()


def opacity(opened: Any, value: float) -> None:
    opened.locator(".look input[type=range]").fill(str(value))


def test_the_grid_shows_every_photo_with_its_class(open_page: Callable[..., Any], page: Path) -> None:
    opened = open_page(page)
    settled(opened)
    assert names(opened) == [f"photo-{number}.jpg" for number in range(6)]
    assert opened.locator(".tile .label").all_text_contents() == [f"class {number}" for number in range(6)]
    assert opened.locator(".tile .told").first.text_content() == "91.0 %"
    assert opened.locator(".count").text_content() == "6 photos"
    assert opened.locator(".tile .verdict.wrong").count() == 2


@pytest.mark.parametrize(
    ("signed", "style", "photo_colors"),
    [
        (True, "Over photo", False),
        pytest.param(False, "Over photo", False, marks=pytest.mark.slow),
        pytest.param(False, "Alone", False, marks=pytest.mark.slow),
        pytest.param(True, "Over photo", True, marks=pytest.mark.slow),
    ],
)
def test_a_map_has_the_colors_that_explain_gives_it(
    open_page: Callable[..., Any], page: Path, signed: bool, style: str, photo_colors: bool
) -> None:
    """The browser's filter against saliency_client.render, over the part that the model saw."""
    opened = open_page(Path(page), width=1400)
    opened.goto(f"{page.as_uri()}#photo=2")
    choose(opened, "Signed" if signed else "Absolute")
    choose(opened, style)
    if photo_colors:
        opened.get_by_text("Photo in color").click()
    settled(opened)
    found = pixels(opened.locator(".shown .map-view").nth(1))
    photo, one = photo_of(""), explanation(2, "plain")
    values = one.gradients[0].sum(-1) if signed else one.saliency[0]
    draw = render.heatmap if style == "Alone" else render.overlay
    options = {"photo_colors": True} if photo_colors else {}
    drawn = draw(photo.picture, values, photo.box, signed=signed, **options)
    if style == "Alone":
        # The page's opacity mixes it with the photo in grays, below.
        gray = np.asarray(photo.picture.convert("L"), float)[..., None]
        drawn = Image.fromarray(np.rint(0.9 * np.asarray(drawn) + 0.1 * gray).astype(np.uint8))
    wanted = np.asarray(drawn.resize(found.shape[1::-1], Image.Resampling.BILINEAR)).astype(int)
    # The corners are round; the edge of what the model saw is between two pixels.
    across, down = found.shape[1], found.shape[0]
    inside = np.s_[12 : down - 12, across // 8 + 3 : across - across // 8 - 3]
    difference = np.abs(found[inside] - wanted[inside])
    assert np.percentile(difference, 99) <= 6
    assert difference.mean() <= 2


def test_sliders_and_switches_change_pixels_and_ask_for_nothing(
    open_page: Callable[..., Any], page: Path
) -> None:
    opened = open_page(f"{page.as_uri()}#photo=1")
    settled(opened)
    view = opened.locator(".shown .map-view").nth(2)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    first = pixels(view)
    opacity(opened, 0)
    plain = pixels(view)
    # Without the map the photo is left, in grays.
    assert np.ptp(plain[20:-20, 60:-60], axis=-1).max() <= 2
    opacity(opened, 1)
    strong = pixels(view)
    assert np.abs(strong - plain).mean() > np.abs(first - plain).mean() > 3
    choose(opened, "One for all")
    # This map is a quarter as strong as the other one.
    common = pixels(view)
    assert 3 < np.abs(common - plain).mean() < 0.6 * np.abs(strong - plain).mean()
    choose(opened, "Photo")
    assert np.ptp(pixels(view)[20:-20, 60:-60], axis=-1).mean() > 40
    choose(opened, "Over photo")
    choose(opened, "Each its own")
    np.testing.assert_allclose(pixels(view), strong, atol=1)
    assert not asked
    choose(opened, "Signed")
    settled(opened)
    assert all(url.endswith("-signed.png") for url in asked)
    red_and_blue = pixels(view)
    assert (red_and_blue[..., 0] - red_and_blue[..., 2]).max() > 100
    assert (red_and_blue[..., 2] - red_and_blue[..., 0]).max() > 100


def test_filters_and_sorting(open_page: Callable[..., Any], page: Path) -> None:
    opened = open_page(page)
    search = opened.get_by_role("searchbox")
    search.fill("photo-3")
    assert names(opened) == ["photo-3.jpg"]
    assert opened.locator(".count").text_content() == "1 of 6 photos"
    search.fill("CLASS 5")
    assert names(opened) == ["photo-5.jpg"]
    search.fill("nothing like it")
    assert names(opened) == []
    assert opened.get_by_text("No photo fits").is_visible()
    opened.get_by_role("button", name="Filters").click()
    opened.get_by_role("button", name="Clear").click()
    assert len(names(opened)) == 6
    choose(opened, "Wrong")
    assert names(opened) == ["photo-1.jpg", "photo-5.jpg"]
    choose(opened, "All")
    opened.get_by_label("Label", exact=True).select_option("class 4, of many")
    assert names(opened) == ["photo-4.jpg"]
    opened.get_by_label("Label", exact=True).select_option("")
    opened.get_by_label("Probability in percent from").fill("60")
    opened.get_by_label("Probability in percent to").fill("90")
    assert names(opened) == ["photo-2.jpg", "photo-3.jpg", "photo-5.jpg"]
    opened.get_by_role("button", name="Clear").click()
    opened.get_by_label("Method", exact=True).select_option("mean")
    opened.get_by_label("Relative error at most").fill("0.35")
    assert names(opened) == ["photo-0.jpg", "photo-1.jpg", "photo-2.jpg"]
    opened.get_by_role("button", name="Clear").click()
    opened.get_by_label("Sort by").select_option("Probability")
    rising = [f"photo-{number}.jpg" for number in np.argsort(PROBABILITIES)]
    assert names(opened) == rising
    opened.get_by_role("button", name="Rising order").click()
    assert names(opened) == rising[::-1]
    opened.get_by_label("Sort by").select_option("Relative error")
    assert opened.locator(".tile .told").first.text_content() == "∞"
    # A method without that number has none to sort by: the order is as given.
    opened.get_by_label("Method", exact=True).select_option("plain")
    assert names(opened) == [f"photo-{number}.jpg" for number in range(6)]


def test_a_search_takes_each_word_from_name_label_or_truth_however_it_is_written(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    files = ("İstanbul.jpg", "Straße 12.jpg", "two\nlines.jpg", "ODOS ΟΔΟΣ.png", "plain.jpg", "a b a b.jpg")
    labels = ("tabby cat, gray", "TABBY", "Überbau\nof two", "plain", "dog", "straße")
    opened = open_page(write_gallery(tmp_path / "page", entries(files, labels)))
    texts = [
        f"{name} {label} {truth or ''}".lower()
        for name, label, truth in zip(files, labels, TRUTHS, strict=True)
    ]
    # So the browser writes a file's name on one line.
    shown_as = {name: name.replace("\n", " ") for name in files}
    for asked in (
        "tabby",
        "TaBBy 12",
        "straße",
        "lines two",
        "ΟΔΟΣ",
        "i̇stan",
        "a b",
        ".jpg",
        "\tdog  ",
        "b.jpg a",
        "3",
    ):
        opened.get_by_role("searchbox").fill(asked)
        words = asked.lower().split()
        expected = [name for name, text in zip(files, texts, strict=True) if all(w in text for w in words)]
        found = [" ".join(name.split()) for name in names(opened)]
        assert found == [" ".join(shown_as[name].split()) for name in expected], asked


def test_a_photo_that_is_found_again_keeps_its_element_in_its_new_place(
    open_page: Callable[..., Any], page: Path
) -> None:
    opened = open_page(page)
    opened.evaluate(
        "document.querySelectorAll('.tile').forEach((one, place) => { one.dataset.was = place; })"
    )
    marks = "[...document.querySelectorAll('.tile')].map((one) => one.dataset.was ?? 'new')"
    search = opened.get_by_role("searchbox")
    search.fill("photo-4")
    assert opened.evaluate(marks) == ["4"]
    (tile,) = opened.locator(".tile").all()
    assert [tile.get_attribute(f"aria-{name}") for name in ("setsize", "posinset")] == ["1", "1"]
    assert tile.evaluate("(one) => [one.style.left, one.style.top]") == ["0px", "0px"]
    search.fill("")
    # What a filter took away comes back as it was.
    assert opened.evaluate(marks) == list("012345")
    opened.get_by_label("Sort by").select_option("Name")
    opened.get_by_role("button", name="Rising order").click()
    assert names(opened) == [f"photo-{number}.jpg" for number in reversed(range(6))]
    assert opened.evaluate(marks) == list("543210")
    for number, tile in enumerate(opened.locator(".tile").all()):
        assert tile.get_attribute("aria-posinset") == str(number + 1)
    # Another method has another map: nothing of before is shown.
    opened.get_by_label("Method", exact=True).select_option("mean")
    assert opened.evaluate(marks) == ["new"] * 6


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 photos with two methods, all with the same pictures; of the last one nothing is known."""
    photo = photo_pictures(photo_of("one for all"))
    maps = [shown_map(name, np.abs(gradients(0)[0]).max(-1), None, {}) for name in ("plain", "mean")]

    def one(number: int) -> Shown:
        errors = {} if number == 199 else {"relative_error": number % 7 if number % 7 else np.inf}
        of_class = tuple(replace(each, numbers=errors) for each in maps)
        name = f"IMG_{number:03d}.jpg"
        return Shown(name, name, photo, (ShownClass(number, f"class {number}", 0.5, 1.0, None, of_class),))

    path = tmp_path_factory.mktemp("many") / "page"
    gallery.write(path, map(one, range(200)), lambda: {"models": [["net", 1]]}, title="Many photos")
    return path / "index.html"


IN_SIGHT = """[...document.querySelectorAll('.tile')].map((one) => one.getBoundingClientRect())
  .filter((one) => one.top < innerHeight && one.bottom > 0).length"""


def test_a_filter_draws_what_is_in_sight_and_a_row_more_when_that_is_there(
    open_page: Callable[..., Any], many: Path
) -> None:
    opened = open_page(many)
    settled(opened)
    made, in_sight = opened.evaluate(
        f"""async () => {{
          const search = document.querySelector("input[type=search]");
          search.value = "IMG_1";
          search.dispatchEvent(new Event("input"));
          // Behind the frame's layout, in which the grid gets its new height.
          await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
          return [document.querySelectorAll(".tile").length, {IN_SIGHT}];
        }}"""
    )
    assert made == in_sight > 12
    until(opened, f"document.querySelectorAll('.tile').length > {made}")


def rows_in_sight(opened: Any, height: int, gap: int) -> int:
    """How many rows begin above the lower edge of a window, scrolled to its top."""
    first = opened.locator(".tile").first.bounding_box()
    return int((height - first["y"]) // (first["height"] + gap)) + 1


def test_a_taller_window_leaves_no_gap(open_page: Callable[..., Any], many: Path) -> None:
    opened = open_page(many, height=700)
    settled(opened)
    columns = opened.evaluate(
        "new Set([...document.querySelectorAll('.tile')].map((one) => one.style.left)).size"
    )
    opened.set_viewport_size({"width": 1400, "height": 1900})
    until(opened, f"{IN_SIGHT} === {rows_in_sight(opened, 1900, 18) * columns}")


def test_a_panel_that_closes_leaves_no_gap(open_page: Callable[..., Any], many: Path) -> None:
    """On a phone, where the panel is higher than a row and the one that is drawn beyond."""
    opened = open_page(many, width=390, height=844)
    settled(opened)
    opener = opened.get_by_role("button", name="Filters")
    opener.click()
    first = opened.locator(".tile").first.bounding_box()
    row = first["height"] + 12
    assert opened.locator("#filters").bounding_box()["height"] > row + 2
    # The third row ends at the window's lower edge, so what closes brings two more in sight.
    height = int(first["y"] + 3 * row) - 1
    opened.set_viewport_size({"width": 390, "height": height})
    opened.get_by_role("searchbox").fill("IMG")
    until(opened, "document.querySelectorAll('.tile').length === 8")
    opener.click()
    assert rows_in_sight(opened, height, 12) == 5
    until(opened, f"{IN_SIGHT} === 10")


@pytest.mark.parametrize("down", [False, True])
def test_photos_alike_stand_as_given_and_those_without_the_number_come_last(
    open_page: Callable[..., Any], many: Path, down: bool
) -> None:
    opened = open_page(many, height=13_000)
    opened.get_by_label("Sort by").select_option("Relative error")
    if down:
        opened.get_by_role("button", name="Rising order").click()
    errors = {number: number % 7 or np.inf for number in range(199)}
    expected = sorted(errors, key=lambda number: -errors[number] if down else errors[number])
    assert names(opened) == [f"IMG_{number:03d}.jpg" for number in [*expected, 199]]
    # A filter keeps the order, and takes nothing out of it for good.
    opened.get_by_role("searchbox").fill("IMG_04")
    assert names(opened) == [f"IMG_{number:03d}.jpg" for number in expected if 40 <= number < 50]
    opened.get_by_role("searchbox").fill("")
    assert names(opened) == [f"IMG_{number:03d}.jpg" for number in [*expected, 199]]
    opened.get_by_label("Sort by").select_option("Sort: as given")
    given = [f"IMG_{number:03d}.jpg" for number in range(200)]
    assert names(opened) == (given[::-1] if down else given)


def test_a_tile_that_comes_back_has_its_colors_though_many_others_were_used_since(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    """The page keeps 60 color filters; on one scale for all, each of 65 maps has a filter of its own."""
    photo = photo_pictures(photo_of("one for all"))
    maps = tuple(shown_map(f"method {number}", (1 + number) * np.eye(8), None, {}) for number in range(65))
    photos = (
        Shown(f"{number}.jpg", f"{number}.jpg", photo, (ShownClass(0, "class", 0.5, 1.0, None, maps),))
        for number in range(2)
    )
    gallery.write(tmp_path / "page", photos, lambda: {"models": [["net", 1]]}, title="Scales")
    page = tmp_path / "page" / "index.html"
    opened = open_page(page)
    settled(opened)
    # No tile is in the page, and so none holds its filter.
    opened.get_by_role("searchbox").fill("nothing like it")
    opened.goto(f"{page.as_uri()}#photo=0")
    choose(opened, "One for all")
    for name in ("viridis", "inferno"):
        opened.get_by_label("Colors", exact=True).select_option(name)
    choose(opened, "Each its own")
    opened.get_by_role("button", name="All photos").click()
    opened.get_by_role("searchbox").fill("1.jpg")
    filters = "[...document.querySelectorAll('.tile .map')].map((one) => one.dataset.filter)"
    assert opened.evaluate(f"{filters}.map((id) => document.getElementById(id)?.tagName)") == ["filter"]


def test_the_model_is_named_once_at_the_top(
    open_page: Callable[..., Any], page: Path, tmp_path: Path
) -> None:
    of_the_model = write_gallery(tmp_path / "page", entries(("photo.jpg",)), title="net")
    top = open_page(of_the_model).locator("header .titles").text_content()
    assert top == "netversion 3 · 2 methods"
    assert open_page(page).locator("header .titles").text_content() == "Six photosnet version 3 · 2 methods"


def test_without_a_photo_that_has_the_method_it_is_not_said_to_clear_filters(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    """Of that method there is a map of the second class alone, and the grid shows the first."""
    both = [explanation(0, "plain"), explanation(1, "mean")]
    opened = open_page(write_gallery(tmp_path / "page", [Entry(photo_of("photo.jpg"), both)]))
    notice = opened.locator(".notice")
    assert not notice.is_visible()
    opened.get_by_label("Method").select_option("mean")
    assert notice.text_content() == "No photo has a map of mean. Choose another method."
    assert notice.is_visible()
    opened.get_by_label("Search names and labels").fill("xyz")
    assert notice.text_content() == "No photo fits. Clear the filters to see all of them."


def test_with_the_keyboard_alone(open_page: Callable[..., Any], page: Path) -> None:
    opened = open_page(page)
    for _ in range(20):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.closest('.tile') !== null"):
            break
    else:
        pytest.fail("Tab does not come to the photos")
    columns = opened.evaluate(
        "new Set([...document.querySelectorAll('.tile')].map((one) => one.style.left)).size"
    )
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("End")
    opened.keyboard.press("ArrowLeft")
    assert columns > 2
    opened.keyboard.press("Enter")
    heading = opened.locator("h2")
    heading.filter(has_text="photo-4.jpg").wait_for()
    assert heading.evaluate("(one) => one === document.activeElement")
    opened.keyboard.press("ArrowRight")
    heading.filter(has_text="photo-5.jpg").wait_for()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowLeft")
    heading.filter(has_text="photo-4.jpg").wait_for()
    before = pixels(opened.locator(".shown .map-view").nth(1))
    for _ in range(20):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.type") == "range":
            break
    for _ in range(5):
        opened.keyboard.press("PageDown")
    assert opened.locator(".look output").text_content() == "40 %"
    assert np.abs(pixels(opened.locator(".shown .map-view").nth(1)) - before).mean() > 3
    opened.keyboard.press("Escape")
    opened.locator(".detail").wait_for(state="hidden")
    assert opened.evaluate("document.activeElement.querySelector('.file').textContent") == "photo-4.jpg"


def test_a_number_tells_what_it_means_when_it_is_focused_or_pointed_at(
    open_page: Callable[..., Any], page: Path
) -> None:
    opened = open_page(f"{page.as_uri()}#photo=1")
    error = opened.get_by_role("button", name="relative error 0.20")
    tip = opened.get_by_role("tooltip")
    error.hover()
    assert "mostly noise" in tip.text_content()
    opened.get_by_role("heading", level=1).hover()
    assert tip.is_hidden()
    error.focus()
    assert tip.is_visible()
    assert error.get_attribute("aria-describedby") == tip.get_attribute("id")
    # The first Escape closes the words, and the second one the photo.
    opened.keyboard.press("Escape")
    assert (tip.is_hidden(), opened.locator(".detail").is_visible()) == (True, True)
    opened.keyboard.press("Escape")
    opened.locator(".detail").wait_for(state="hidden")


def test_hostile_names_and_labels_are_text(open_page: Callable[..., Any], hostile: Path) -> None:
    opened = open_page(hostile)
    settled(opened)
    assert names(opened) == list(HOSTILE)
    assert opened.title() == HOSTILE[1]
    for number, name in enumerate(HOSTILE):
        opened.goto(f"{hostile.as_uri()}#photo={number}")
        opened.get_by_role("heading", name=name, exact=True, level=2).wait_for()
        words = shlex.split(opened.locator(".command code").text_content().replace("\\\n", ""))
        assert words == [
            "saliency-client", "explain", name, "--model", "net", "--version", "3",
            "--method", "plain,mean", "--class-index", str(number),
        ]  # fmt: skip
        assert opened.locator(".note").text_content() == (
            "Not in this command, and needed where it was given: --server, parameters of the methods."
        )
    assert opened.evaluate("window.hacked") is None
    assert opened.locator("img[src=x]").count() == 0


@pytest.mark.slow
def test_one_file_alone_shows_all(open_page: Callable[..., Any], tmp_path: Path) -> None:
    made = write_gallery(tmp_path / "made.html", entries(HOSTILE[:3], HOSTILE), single_file=True)
    alone = tmp_path / "elsewhere" / "page.html"
    alone.parent.mkdir()
    made.rename(alone)
    opened = open_page(alone)
    settled(opened)
    assert names(opened) == list(HOSTILE[:3])
    opened.goto(f"{alone.as_uri()}#photo=1")
    settled(opened)
    assert np.ptp(pixels(opened.locator(".shown .map-view").nth(1)), axis=-1).max() > 60
    assert opened.evaluate("window.hacked") is None


@pytest.mark.slow
def test_a_script_that_got_in_would_not_run(open_page: Callable[..., Any], page: Path) -> None:
    opened = open_page(page, expected=("Content Security Policy", "ERR_FILE_NOT_FOUND"))
    opened.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.hacked = 1";
          document.body.append(script);
          const picture = document.createElement("img");
          picture.setAttribute("onerror", "window.hacked = 2");
          picture.src = "missing.png";
          document.body.append(picture);
          return fetch("https://example.org/").catch(() => null);
        }"""
    )
    assert opened.evaluate("window.hacked") is None


@pytest.mark.parametrize(
    ("where", "scheme"),
    [
        ("grid", "light"),
        ("photo", "dark"),
        pytest.param("grid", "dark", marks=pytest.mark.slow),
        pytest.param("photo", "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_no_serious_fault(
    open_page: Callable[..., Any],
    grave_faults: Callable[[Any], list[str]],
    page: Path,
    where: str,
    scheme: str,
) -> None:
    opened = open_page(f"{page.as_uri()}#photo=1" if where == "photo" else page, scheme=scheme)
    settled(opened)
    if where == "grid":
        opened.get_by_role("button", name="Filters").click()
    assert grave_faults(opened) == []


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", "#photo=1"])
def test_on_a_phone_nothing_is_wider_than_the_screen(
    open_page: Callable[..., Any], page: Path, where: str
) -> None:
    opened = open_page(f"{page.as_uri()}{where}", width=390, height=844)
    settled(opened)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_the_colors_of_the_page_can_be_turned(open_page: Callable[..., Any], page: Path) -> None:
    opened = open_page(page, scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = opened.evaluate(background)
    opened.get_by_role("button", name="Light colors").click()
    light = opened.evaluate(background)
    assert light != dark
    opened.reload()
    assert opened.evaluate(background) == light


# Writing the files takes longer than looking at them.
@pytest.mark.slow
def test_of_ten_thousand_photos_any_is_found_and_no_more_than_is_seen_is_made(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    photo = photo_pictures(photo_of("one for all"))
    drawn = (shown_map("plain", np.abs(gradients(0)[0]).max(-1), None, {"relative_error": 0.5}),)
    photos = (
        Shown(
            f"IMG_{number:05d}.jpg",
            f"IMG_{number:05d}.jpg",
            photo,
            (ShownClass(number % 100, f"class number {number % 100}", number / 1e4, 1.0, None, drawn),),
        )
        for number in range(10_000)
    )
    gallery.write(tmp_path / "page", photos, lambda: {"models": [["net", 1]]}, title="Many photos")
    opened = open_page(tmp_path / "page" / "index.html")
    count, tiles = opened.locator(".count"), opened.locator(".tile")

    assert count.text_content() == "10,000 photos"
    assert names(opened)[0] == "IMG_00000.jpg"
    assert tiles.count() < 200
    opened.evaluate("scrollTo(0, document.body.scrollHeight)")
    opened.locator(".tile .file", has_text="IMG_09999.jpg").wait_for()
    assert tiles.count() < 200
    opened.locator("input[type=search]").fill("IMG_04321")
    opened.locator(".tile .file", has_text="IMG_04321.jpg").wait_for()
    assert names(opened) == ["IMG_04321.jpg"]
    opened.locator("input[type=search]").fill("")
    opened.get_by_role("button", name="Filters").click()
    opened.get_by_label("Label", exact=True).select_option("class number 7")
    opened.locator(".tile .file", has_text="IMG_00007.jpg").wait_for()
    assert count.text_content() == "100 of 10,000 photos"
    assert all(name.endswith("07.jpg") for name in names(opened))
