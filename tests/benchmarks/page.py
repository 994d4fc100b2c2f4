"""The live page: what it adds to a gRPC call, its first map of a large photo beside the command's, its size.

    python tests/benchmarks/page.py localhost:8500 efficientnet-lite0 [--rounds 15]

A server with that model has to run. The page runs in this process; the command is a process of its own, from
its start to its end. With Playwright and Chromium, the photo is also given to a browser, and the time is that
until its map is drawn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from live_page import OWN, PageAt, serving_page
from measuring import interleaved, machine, spread, versions

from saliency_client import SaliencyClient
from saliency_client.images import load_image

EXTRA = ("starlette", "uvicorn", "anyio", "h11", "idna", "typing_extensions", "exceptiongroup")
"""What the extra brings beyond the client; the last two where Python is older than 3.13 and 3.11."""


def large_photo(folder: Path) -> Path:
    """A JPEG of 4000 x 3000 pixels."""
    import skimage.data
    from PIL import Image

    path = folder / "cat-12mp.jpg"
    photo = Image.fromarray(skimage.data.chelsea())
    photo.resize((4000, 3000), Image.Resampling.LANCZOS).save(path, quality=92)
    return path


def overhead(page: PageAt, client: SaliencyClient, photo: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of a call of the client, of a request of the page, and of its part beside the call.

    The time of the processor is what this process worked beyond the client's own work, the asking and the
    parsing of the answer included: on a busy machine the time by the clock is mostly waiting for a core.
    """
    key = page.photo(photo.read_bytes(), photo.name)
    size = next(one for one in client.signatures().values() if one.method).image_size
    image = load_image(photo, size).array
    beside: list[float] = []

    def ask() -> None:
        start = time.perf_counter()
        asked = {"photo": key, "choice": "", "method": "gradients", "parameters": {}}
        event, _ = page.post("/api/explain", asked).lines
        beside.append(1e3 * (time.perf_counter() - start) - event["milliseconds"])

    def call() -> None:
        client.explain(image[None], outputs="all")

    def worked(ask: Callable[[], None]) -> float:
        start = time.process_time()
        ask()
        return 1e3 * (time.process_time() - start)

    for _ in range(3):
        ask()
        call()
    beside.clear()
    times = interleaved({"the client's call": call, "the page's request": ask}, rounds)
    processor = [worked(ask) - worked(call) for _ in range(rounds)]
    return {
        **times,
        "the page beside its call, by the clock": beside[:rounds],
        "the page beside its call, of the processor": processor,
    }


def first_map(page: PageAt, photo: Path) -> Callable[[], None]:
    """What gives a photo to the page, and waits for its map's event."""

    def ask() -> None:
        key = page.photo(photo.read_bytes(), photo.name)
        connection = page.connect()
        asked = {"photo": key, "choice": "", "method": "gradients", "parameters": {}}
        connection.request(
            "POST", "/api/explain", json.dumps(asked), {**OWN, "Content-Type": "application/json"}
        )
        connection.getresponse().readline()
        connection.close()

    return ask


@contextmanager
def in_a_browser(page: PageAt, photo: Path) -> Iterator[Callable[[], None] | None]:
    """What gives a photo to the page in Chromium and waits until its map is drawn; None without a browser."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        path = None
    if path is None:
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(f"http://{page.host}/")
        tab.locator(".connection.good").wait_for()

        def ask() -> None:
            tab.evaluate("document.querySelector('.lens .map-view .map')?.removeAttribute('src')")
            tab.set_input_files("#file", str(photo))
            tab.locator('.map-view .map[src^="data:"]').wait_for()

        yield ask
        tab.close()
        browser.close()


def install_size() -> tuple[float, list[str]]:
    """MB of the packages that the extra adds, and which they are."""
    size, found = 0, []
    for name in EXTRA:
        try:
            one = distribution(name)
        except PackageNotFoundError:
            continue
        files = [file.locate() for file in one.files or ()]
        size += sum(Path(file).stat().st_size for file in files if Path(file).is_file())
        found.append(f"{name} {one.version}")
    return size / 1e6, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = large_photo(Path(folder))
        command = [sys.executable, "-m", "saliency_client", "explain", str(photo), "--quiet", "--overwrite"]
        command += ["--server", options.server, "--model", options.model, "-o", str(Path(folder) / "map.png")]

        def explain() -> None:
            subprocess.run(command, check=True, capture_output=True)

        print(f"{machine()}; {versions(('starlette', 'uvicorn', 'grpcio', 'numpy', 'pillow'))}\n")
        with (
            SaliencyClient(options.server, model=options.model) as client,
            serving_page(options.server, options.model, max_pixels=50_000_000) as page,
        ):
            print("| | milliseconds, median (quartiles) |\n|---|---|")
            for name, values in overhead(page, client, photo, 3 * options.rounds).items():
                print(f"| {name} | {spread(values)} |")
            with in_a_browser(page, photo) as in_browser:
                asked = {"the command, whole process": explain, "the page, by HTTP": first_map(page, photo)}
                if in_browser is not None:
                    asked["the page, in Chromium, until the map is drawn"] = in_browser
                for ask in asked.values():
                    ask()
                times = interleaved(asked, options.rounds)
            whole = statistics.median(times["the command, whole process"])
            for name, values in times.items():
                print(f"| {name} | {spread(values, 0)} | {statistics.median(values) / whole:.2f} x")
        size, found = install_size()
        print(f"\nThe extra adds {size:.1f} MB: {', '.join(found)}.")


if __name__ == "__main__":
    main()
