"""Chromium, driven by Playwright: what the tests of pages share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
GRAVE = frozenset({"serious", "critical"})


def found_browser() -> str | None:
    """The browser on the PATH; the variable CHROMIUM names another."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for path in map(shutil.which, NAMES) if path), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without windows, for the tests of one file."""
    path = found_browser()
    if path is None:
        pytest.skip(
            "there is no Chromium on the PATH, and CHROMIUM names none; on Debian: apt-get install chromium"
        )
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.skip("playwright is not installed; pip install 'saliency-serving[test]' brings it")
    # Chromium's sandbox does not start for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=arguments, timeout=60_000)
        try:
            yield started
        finally:
            started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a URL or a file in a context of its own, as `open_page(url, width=390, scheme="dark")`.

    At the end no page may have met an error of its scripts, a violation of its policy, or asked any other
    place for anything. `expected` are parts of the console's errors that a test brings about on purpose.
    """
    contexts: list[Any] = []
    faults: list[str] = []

    def opened(
        where: str | Path,
        *,
        width: int = 1400,
        height: int = 900,
        scheme: str = "light",
        expected: tuple[str, ...] = (),
        **options: Any,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        url = where.resolve().as_uri() if isinstance(where, Path) else where
        home = url.partition("//")[2].partition("/")[0]

        def heard(message: Any) -> None:
            if message.type == "error" and not any(part in message.text for part in expected):
                faults.append(message.text)

        def asked(request: Any) -> None:
            scheme, _, rest = request.url.partition("//")
            if scheme not in ("data:", "blob:") and rest.partition("/")[0] != home:
                faults.append(f"asked for {request.url}")

        page.on("console", heard)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", asked)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def grave_faults() -> Callable[[Any], list[str]]:
    """What axe-core finds in a page that is serious or critical, in words."""
    script = AXE.read_text(encoding="utf-8")

    def found(page: Any) -> list[str]:
        page.evaluate(script)
        # Without `preload` axe does not ask for the stylesheet again, which the policy forbids.
        results = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
        return [
            f"{fault['id']}: {fault['help']}: {node['html'][:160]}: {node.get('failureSummary', '')[:300]}"
            for fault in results["violations"]
            if fault["impact"] in GRAVE
            for node in fault["nodes"]
        ]

    return found
