"""How a gallery of 10,000 photos behaves in Chromium, and how fast one is written beside a server.

    python tests/benchmarks/gallery.py            # the browser: 10,000 photos through the real writer
    python tests/benchmarks/gallery.py --writing --photos 1000
    python tests/benchmarks/gallery.py --writing --photos 100 --server localhost:8500 \\
        --model efficientnet-lite0 --methods gradients,smooth,grad_cam

The second compares `saliency-client gallery` with the same requests sent by `SaliencyClient.explain_many`,
which draws and writes nothing: what the server gives. The server is one that waits in place of computing, as
one on another machine would, or one that runs already. Both run three times in turn, and the medians are
compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saliency_client.images import load_image
from saliency_client.web.gallery import write
from saliency_client.web.map_picture import photo_pictures
from saliency_client.web.shown import Shown, ShownClass, shown_map

sys.path.insert(0, str(Path(__file__).parents[1]))
LABELS = 200
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def shown(count: int) -> Iterator[Shown]:
    """Generated photos with two methods; twenty drawings are shown again and again, under new numbers."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:224, 0:224]
    drawn = []
    for _ in range(20):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        photo = load_image(small.resize((640, 480), Image.Resampling.BICUBIC), (224, 224))
        maps = []
        for method in ("gradients", "smooth"):
            across, down = rng.integers(40, 180, 2)
            signs = np.exp(-((y - down) ** 2 + (x - across) ** 2) / 900) * rng.normal(1, 0.4, (224, 224))
            signed = np.repeat(signs[..., None], 3, -1)
            maps.append(shown_map(method, np.abs(signs), signed, {"relative_error": 0.0}))
        drawn.append((photo_pictures(photo), maps))
    for number in range(count):
        photo, maps = drawn[number % len(drawn)]
        error = float(np.exp(rng.normal(-1, 1)))
        of_class = tuple(
            type(one)(one.method, one.saliency, one.signed, {"relative_error": error * (1 + place)})
            for place, one in enumerate(maps)
        )
        label = int(rng.integers(0, LABELS))
        yield Shown(
            f"photos/IMG_{number:05d}.jpg",
            f"photos/IMG_{number:05d}.jpg",
            photo,
            (ShownClass(label, f"class number {label}", float(rng.random()), 7.5, None, of_class),),
            str(label),
            bool(rng.random() < 0.8),
        )


FILTER = """async ([selector, value]) => {
  const input = document.querySelector(selector);
  const mark = document.createElement("p");
  mark.textContent = "·";
  mark.setAttribute("elementtiming", `step ${performance.now()}`);
  mark.style.cssText = "position: fixed; right: 0; top: 0; margin: 0; z-index: 9";
  const presented = new Promise((done) => {
    new PerformanceObserver((list, observer) => {
      const found = list.getEntries().find((one) => one.identifier === mark.getAttribute("elementtiming"));
      if (!found) return;
      observer.disconnect();
      mark.remove();
      done(found.renderTime);
    }).observe({ type: "element" });
  });
  const begun = performance.now();
  input.value = value;
  input.dispatchEvent(new Event(input.tagName === "SELECT" ? "change" : "input"));
  const done = performance.now();
  // New in the same frame as what was found: the browser says when it is presented.
  document.body.append(mark);
  // The frame after the next one begins when this one has been handed on to be drawn.
  const handed = new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)))
    .then(() => performance.now());
  return [done - begun, await handed - begun, await presented - begun];
}"""
SCROLL = """async () => {
  const gaps = [];
  let last = performance.now();
  for (let step = 0; step < 60; step += 1) {
    scrollBy(0, 400);
    await new Promise(requestAnimationFrame);
    gaps.push(performance.now() - last);
    last = performance.now();
  }
  return gaps;
}"""


def in_browser(count: int, repeats: int, *, at_rest: bool) -> dict[str, Any]:
    """Milliseconds of what a person waits for; `at_rest` pauses before each step, as a person does."""
    from playwright.sync_api import sync_playwright

    browser_path = next(path for path in map(shutil.which, BROWSERS) if path)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        write(Path(folder) / "page", shown(count), lambda: {"models": [["net", 1]]}, title="Many photos")
        written = time.perf_counter() - begun
        page_file = Path(folder) / "page" / "index.html"
        found: dict[str, list[float]] = {"first paint": [], "first photos shown": []}
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        tiles = 0
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=arguments)
            for _ in range(repeats):
                page = browser.new_page(viewport={"width": 1400, "height": 900})
                page.goto(page_file.as_uri())
                paint = page.evaluate(
                    """async () => {
                      const seen = (one) => one.getBoundingClientRect().top < innerHeight;
                      const pictures = [...document.querySelectorAll(".tile img[src]")].filter(seen);
                      await Promise.all(pictures.map((one) => one.decode().catch(() => null)));
                      const shown = performance.now();
                      const painted = () => performance.getEntriesByName("first-contentful-paint")[0];
                      while (!painted()) await new Promise(requestAnimationFrame);
                      return [painted().startTime, shown];
                    }"""
                )
                found["first paint"].append(paint[0])
                found["first photos shown"].append(paint[1])
                for name, selector, value in (
                    ("search", "input[type=search]", "IMG_042"),
                    ("search cleared", "input[type=search]", ""),
                    ("sort by probability", ".sorting select", "probability"),
                    ("sort by name", ".sorting select", "name"),
                    ("sort by relative error", ".sorting select", "relative_error"),
                    ("filter by label", "#filters select", "class number 7"),
                    ("label cleared", "#filters select", ""),
                ):
                    if at_rest:
                        page.wait_for_timeout(1000)
                    script, frame, presented = page.evaluate(FILTER, [selector, value])
                    found.setdefault(f"{name}: script", []).append(script)
                    found.setdefault(f"{name}: until painted", []).append(frame)
                    found.setdefault(f"{name}: until presented", []).append(presented)
                gaps = page.evaluate(SCROLL)
                found.setdefault("scrolling: median frame", []).append(statistics.median(gaps))
                found.setdefault("scrolling: longest frame", []).append(max(gaps))
                tiles = max(tiles, page.locator(".tile").count())
                page.close()
            browser.close()
        return {
            "photos": count,
            "seconds to write": round(written, 1),
            "index, MB": round(page_file.stat().st_size / 1e6, 2),
            "most photos in the document": tiles,
            "load of the machine": [round(one, 1) for one in os.getloadavg()],
            "milliseconds, median and fastest": {
                name: [round(statistics.median(each), 1), round(min(each), 1)] for name, each in found.items()
            },
        }


def serve(milliseconds: float, port: Connection) -> None:
    """A server that takes so long for each image, one request at a time, and needs no processor for it."""
    from scripted_server import LinearModel, ScriptedServer, serving

    turn = threading.Lock()
    plain = ScriptedServer._answer

    def answer(self: ScriptedServer, request: Any) -> Any:
        self.requests.clear()
        rows = request.inputs["images"].tensor_shape.dim[0].size
        made = plain(self, request)
        with turn:
            time.sleep(rows * milliseconds / 1000)
        return made

    ScriptedServer._answer = answer  # type: ignore[method-assign]
    with serving(LinearModel(height=224, width=224)) as running:
        port.send(running.target)
        port.recv()


@contextmanager
def waiting_server(milliseconds: float) -> Iterator[str]:
    """The target of a server in a process of its own."""
    here, there = Pipe()
    process = Process(target=serve, args=(milliseconds, there))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join(30)


def writing(given: argparse.Namespace) -> dict[str, Any]:
    """Photos per second: of the server alone, and of a gallery of its answers."""
    from saliency_client import SaliencyClient
    from saliency_client.cli import main

    count, batch, methods = given.photos, given.batch_size, given.methods.split(",")
    rates: dict[str, list[float]] = {"server": [], "gallery": []}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        target = given.server or stack.enter_context(waiting_server(given.milliseconds))
        client = stack.enter_context(SaliencyClient(target, model=given.model, timeout=600))
        photos = Path(folder) / "photos"
        photos.mkdir()
        rng = np.random.default_rng(0)
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            small.resize((640, 480), Image.Resampling.BICUBIC).save(photos / f"{number:05d}.jpg", quality=90)
        page = str(Path(folder) / "page")
        words = ["gallery", str(photos), "--methods", given.methods, "--overwrite", "-o", page]
        words += ["--server", target, "--model", given.model, "--batch-size", str(batch), "--quiet"]
        array = np.zeros((224, 224, 3), np.uint8)
        asked: dict[str, Any] = {"outputs": "all", "batch_size": batch, "max_in_flight": 4}
        for _ in range(given.repeats):
            begun = time.perf_counter()
            for method in methods:
                results = client.explain_many((array for _ in range(count)), method=method, **asked)
                assert all(one.error is None for one in results)
            rates["server"].append(count / (time.perf_counter() - begun))
            begun, worked = time.perf_counter(), time.process_time()
            assert not main.main(words, standalone_mode=False)
            rates["gallery"].append(count / (time.perf_counter() - begun))
            worked = time.process_time() - worked
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {
        "photos": count,
        "methods": methods,
        "milliseconds of the server for an image": None if given.server else given.milliseconds,
        "photos/s": {name: [round(one, 2) for one in each] for name, each in rates.items()},
        "gallery over server": round(medians["gallery"] / medians["server"], 3),
        "processor milliseconds of the client for a photo": round(1000 * worked / count, 1),
        "load of the machine": [round(one, 1) for one in os.getloadavg()],
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--writing", action="store_true")
    parser.add_argument("--at-rest", action="store_true", help="pause for a second before each step")
    parser.add_argument("--milliseconds", type=float, default=40.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--methods", default="gradients")
    parser.add_argument("--server", help="one that runs already, in place of one that waits")
    parser.add_argument("--model", default="linear")
    given = parser.parse_args()
    found = (
        writing(given) if given.writing else in_browser(given.photos, given.repeats, at_rest=given.at_rest)
    )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
