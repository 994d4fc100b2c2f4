"""The live page as people use it, in a real browser."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from live_page import PageAt, serving_page
from PIL import Image
from scripted_server import MODEL, LinearModel, ScriptedServer, nobody, serving

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
SIZE = 20


def model(**options: Any) -> LinearModel:
    """A map that is hot in the middle for class 2, which is what is blue, and elsewhere for the others."""
    made = LinearModel(height=SIZE, width=SIZE, sampled=True, shares=True, **options)
    made.weights = np.zeros_like(made.weights)
    made.weights[2, 8:12, 8:12] = (0.5, -0.25, 1.0)
    made.weights[1, 0:4, 0:4] = (0.5, 0, -0.5)
    made.weights[3, 16:20, 16:20] = (0, 0.5, 0)
    return made


@pytest.fixture(scope="module")
def _server() -> Iterator[ScriptedServer]:
    with serving(model()) as running:
        yield running


@pytest.fixture(scope="module")
def _at(_server: ScriptedServer) -> Iterator[PageAt]:
    with serving_page(_server.target, MODEL) as running:
        yield running


@pytest.fixture
def server(_server: ScriptedServer) -> ScriptedServer:
    _server.reset(model())
    return _server


@pytest.fixture
def at(_at: PageAt, server: ScriptedServer) -> str:
    return f"http://{_at.host}/"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "blue.png"
    Image.new("RGB", (300, 200), (10, 20, 250)).save(path)
    return path


def until(page: Any, holds: str | Callable[[], Any], seconds: float = 20) -> None:
    """Wait for an expression of the page: by the driver, since the page's policy runs no text as code."""
    end = time.monotonic() + seconds
    while not (page.evaluate(holds) if isinstance(holds, str) else holds()):
        assert time.monotonic() < end, page.locator("#page").inner_text()
        page.wait_for_timeout(30)


def drawn(page: Any, lenses: int = 1) -> None:
    """Wait until each map is there with its files, and nothing is asked for any more."""
    until(
        page,
        f"""document.querySelectorAll('.lens').length === {lenses} &&
            document.querySelectorAll('.files a[href]').length === {2 * lenses} &&
            !document.querySelector('[aria-busy]')""",
    )


def connected(page: Any) -> None:
    page.locator(".connection.good").wait_for()


def give(page: Any, photo: Path) -> None:
    connected(page)
    page.set_input_files("#file", str(photo))
    drawn(page)


def pixels(page: Any, lens: int = 0) -> np.ndarray:
    shot = page.locator(".map-view").nth(lens).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.int16)


def brightness(picture: np.ndarray, row: float, column: float) -> float:
    """Of a spot of the picture, by shares of its height and width."""
    height, width, _ = picture.shape
    y, x = int(row * height), int(column * width)
    return float(picture[y - 3 : y + 4, x - 3 : x + 4].mean())


def test_a_photo_that_is_chosen_gets_its_map_and_its_classes(open_page, at, photo):
    page = open_page(at)
    give(page, photo)
    assert page.locator(".lens-title h2").inner_text() == "class 2"
    page.locator(".class-row").nth(3).wait_for()
    assert page.locator(".class-row").count() == 4
    assert page.locator(".class-row input").nth(0).is_checked()
    # The block of the middle is hot, and the corner is not: the model saw the square from column 50 to 250.
    picture = pixels(page)
    assert brightness(picture, 0.5, 0.5) > brightness(picture, 0.1, 0.3) + 40


@pytest.mark.slow
def test_another_class_by_its_row_or_its_name_gets_its_own_map(open_page, at, photo):
    page = open_page(at)
    give(page, photo)
    page.locator(".class-row", has_text="class 3").click()
    until(page, "document.querySelector('.lens-title h2').textContent === 'class 3'")
    drawn(page)
    picture = pixels(page)
    assert brightness(picture, 0.9, 0.8) > brightness(picture, 0.5, 0.5) + 40
    page.get_by_label("Another class").fill("class 1")
    page.get_by_label("Another class").press("Enter")
    until(page, "document.querySelector('.lens-title h2').textContent === 'class 1'")


@pytest.mark.slow
def test_dropped_and_pasted_photos_are_read(open_page, at, photo):
    page = open_page(at)
    connected(page)
    content = base64.b64encode(photo.read_bytes()).decode()
    hand_over = """([kind, encoded, name]) => {
        const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, {type: "image/png"}));
        const options = {bubbles: true, cancelable: true};
        const event = kind === "drop" ? new DragEvent("drop", {...options, dataTransfer: transfer})
          : new ClipboardEvent("paste", {...options, clipboardData: transfer});
        document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(hand_over, [kind, content, f"{kind}.png"])
        until(page, f"document.querySelector('.photo-name')?.textContent === '{kind}.png'")
        drawn(page)


def test_a_slider_changes_the_pictures_pixels_and_asks_nobody(open_page, at, photo):
    page = open_page(at)
    give(page, photo)
    before = pixels(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_label("Opacity").fill("0.1")
    faint = pixels(page)
    assert np.abs(before - faint).max() > 60
    page.get_by_label("Signed").check()
    signed = pixels(page)
    assert np.abs(faint - signed).max() > 5
    page.get_by_label("Alone").check()
    assert np.abs(signed - pixels(page)).max() > 10
    assert not [url for url in asked if not url.startswith("data:") and "/api/state" not in url]


def test_a_mean_refines_before_ones_eyes_and_can_be_stopped(open_page, at, photo, server):
    page = open_page(at)
    give(page, photo)
    released = threading.Event()
    server.script.extend([lambda request, context: None, lambda request, context: released.wait(20) and None])
    page.get_by_label("Method").select_option("smooth")
    until(
        page, "document.querySelector('.progress-text')?.textContent.startsWith('10 of at most 50 samples')"
    )
    first = page.locator(".numbers").inner_text()
    assert "relative error" in first
    released.set()
    drawn(page)
    assert "50" in page.locator(".numbers .number", has_text="samples").inner_text()

    server.script.extend([lambda request, context: None, server.wait_for_the_client_to_leave])
    page.get_by_label("Another class").fill("1")
    page.get_by_label("Another class").press("Enter")
    until(
        page, "document.querySelector('.progress-text')?.textContent.startsWith('10 of at most 50 samples')"
    )
    page.get_by_role("button", name="Stop").click()
    until(page, lambda: server.abandoned == 1)
    drawn(page)  # what there is can be had
    assert "10" in page.locator(".numbers .number", has_text="samples").inner_text()


@pytest.mark.slow
def test_leaving_the_page_cancels_what_it_asked_for(open_page, at, photo, server):
    page = open_page(at)
    give(page, photo)
    server.hang()
    page.get_by_label("Method").select_option("shares")
    until(page, lambda: server.running == 1)
    page.goto("about:blank")
    until(page, lambda: server.abandoned == 1)


@pytest.mark.slow
def test_parameters_are_those_of_the_server_and_a_refused_one_shows_its_bounds(open_page, at, photo, server):
    page = open_page(at)
    give(page, photo)
    page.get_by_label("Method").select_option("smooth")
    drawn(page)
    page.locator(".parameters summary").click()
    samples = page.get_by_label("Num samples")
    assert (samples.input_value(), samples.get_attribute("min")) == ("50", "1")
    server.fail(grpc.StatusCode.INVALID_ARGUMENT, "num_samples is 5000; it must be in [1, 1000]")
    samples.fill("5000")
    samples.press("Enter")
    page.locator(".lens .notice.error").wait_for()
    assert "it must be in [1, 1000]" in page.locator(".lens .notice.error").inner_text()
    assert (samples.get_attribute("aria-invalid"), samples.get_attribute("max")) == ("true", "1000")
    samples.fill("20")
    samples.press("Enter")
    drawn(page)
    assert page.locator(".lens .notice.error").count() == 0
    assert "20" in page.locator(".numbers .number", has_text="samples").inner_text()


def test_a_field_has_the_default_the_step_and_the_bounds_that_the_model_tells(open_page, at, photo, server):
    server.model.bounded = True
    page = open_page(at)
    give(page, photo)
    page.get_by_label("Method").select_option("smooth")
    drawn(page)
    page.locator(".parameters summary").click()
    wanted = {
        "Num samples": ("50", "1", "1000", "1"),
        "Noise level": ("0.15", "0", "0.9", "any"),
        "Target error": ("0", "0", None, "any"),
    }
    for name, expected in wanted.items():
        field = page.get_by_label(name)
        found = [field.get_attribute(attribute) for attribute in ("min", "max", "step")]
        assert (field.input_value(), *found) == expected, name
    samples = page.get_by_label("Num samples")
    said = page.locator(f"#{samples.get_attribute('aria-describedby')}").inner_text()
    assert said.endswith("at most. From 1 to 1,000.")
    before = len(server.requests)
    samples.fill("1001")
    samples.press("Enter")
    page.locator(".lens .notice.error").wait_for()
    assert "Num samples is 1001; it must be in [1, 1000]" in page.locator(".lens .notice.error").inner_text()
    assert samples.get_attribute("aria-invalid") == "true"
    assert len(server.requests) == before, "the model gets no image"


@pytest.mark.slow
def test_two_methods_stand_beside_one_another_on_their_own_or_a_common_scale(open_page, at, photo):
    page = open_page(at)
    give(page, photo)
    page.get_by_role("button", name="Compare").click()
    drawn(page, 2)
    boxes = [page.locator(".map-view").nth(index).bounding_box() for index in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    before = pixels(page)
    page.get_by_label("One for all").check()
    assert np.abs(before - pixels(page)).max() > 20  # a gradient is small beside a share of the score
    page.get_by_role("button", name="Close this map").click()
    drawn(page)


@pytest.mark.slow
def test_the_page_is_used_by_the_keyboard_alone(open_page, at, photo):
    page = open_page(at)
    connected(page)
    for _ in range(4):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "file":
            break
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(str(photo))
    drawn(page)

    def reach(label: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.labels?.[0]?.textContent ?? ''").startswith(label):
                return
        raise AssertionError(f"Tab does not reach {label}")

    reach("Opacity")
    before = pixels(page)
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert np.abs(before - pixels(page)).max() > 20
    reach("Method")
    page.keyboard.press("ArrowDown")
    until(page, "document.querySelector('.lens select').value === 'shares'")
    drawn(page)


def test_hostile_names_are_text(open_page, at, tmp_path, server):
    server.reset(model(names=(HOSTILE, HOSTILE, f"{HOSTILE}‮</h2>", HOSTILE)))
    path = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    Image.new("RGB", (60, 40), (10, 20, 250)).save(path)
    page = open_page(at)
    title = page.title()
    give(page, path)
    page.locator(".class-row").nth(3).wait_for()
    page.locator(".again summary").click()
    page.locator(".command").nth(1).wait_for()
    assert page.locator(".lens-title h2").inner_text().startswith(HOSTILE)
    assert page.locator(".photo-name").inner_text() == path.name
    assert page.evaluate("document.querySelectorAll('img[src=\"x\"], #page script').length") == 0
    assert page.title() == title


@pytest.mark.slow
def test_a_server_that_is_down_is_told_and_the_page_goes_on_by_itself(open_page, photo):
    with contextlib.ExitStack() as stack:
        port_is_held = stack.enter_context(contextlib.ExitStack())
        target = port_is_held.enter_context(nobody())
        at = stack.enter_context(serving_page(target, MODEL, timeout=2.0))
        page = open_page(f"http://{at.host}/", expected=("Failed to load resource",))
        banner = page.locator(".banner")
        banner.wait_for()
        assert "No server answers" in banner.inner_text()
        assert "asks again" in banner.inner_text()
        page.set_input_files("#file", str(photo))
        port_is_held.close()
        first = stack.enter_context(contextlib.ExitStack())
        first.enter_context(serving(model(), address=target))
        drawn(page)
        assert not banner.is_visible()
        first.close()
        banner.wait_for()
        page.get_by_label("Another class").fill("1")
        page.get_by_label("Another class").press("Enter")
        page.locator(".lens .notice.error").wait_for()
        stack.enter_context(serving(model(), address=target))
        until(page, "document.querySelector('.lens-title h2').textContent === 'class 1'")
        drawn(page)
        assert page.locator(".notice.error:visible").count() == 0


@pytest.mark.slow
def test_two_people_at_once_see_their_own_photos(open_page, at, photo, tmp_path):
    other = tmp_path / "red.png"
    Image.new("RGB", (200, 200), (250, 0, 0)).save(other)
    pages = [open_page(at), open_page(at)]
    for page, path in zip(pages, (photo, other), strict=True):
        connected(page)
        page.set_input_files("#file", str(path))
    for page, name, label in zip(pages, ("blue.png", "red.png"), ("class 2", "class 1"), strict=True):
        drawn(page)
        assert page.locator(".photo-name").inner_text() == name
        assert page.locator(".lens-title h2").inner_text() == label


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        pytest.param(1400, "light", marks=pytest.mark.slow),
        pytest.param(820, "dark", marks=pytest.mark.slow),
        (390, "dark"),
    ],
)
def test_nothing_grave_is_found_by_axe(open_page, grave_faults, at, photo, width, scheme):
    page = open_page(at, width=width, scheme=scheme)
    connected(page)
    assert grave_faults(page) == []
    give(page, photo)
    page.get_by_label("Method").select_option("smooth")
    page.get_by_role("button", name="Compare").click()
    drawn(page, 2)
    for summary in page.locator("summary").all():
        summary.click()
    page.locator(".command").nth(3).wait_for()
    assert grave_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
