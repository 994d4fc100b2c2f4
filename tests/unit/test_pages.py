"""ARCHITECTURE.md, CONTRIBUTING.md and the files beside them say what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_floors import EXPORTER, FLOORS

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client" / "saliency_client"
PAGES = (
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "exporter/FUSIONS.md",
    "exporter/VERTEX.md",
    "client/BULK.md",
)
MADE_BY_A_READER = re.compile("NAME|MODULE|gradient_x_input")
"""In the names of files that a recipe has a reader write."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text_of(page)):
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_python_file_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`([\w/.]+\.py)`", text_of(page)))
    for name in named:
        if MADE_BY_A_READER.search(name):
            continue
        places = [ROOT / name, EXPORTER / name, CLIENT / name]
        below = [] if "/" in name else [*EXPORTER.rglob(name), *CLIENT.rglob(name)]
        assert any(place.exists() for place in (*places, *below)), name


def test_the_table_of_floors_has_every_floor_from_the_top_down() -> None:
    table = text_of("ARCHITECTURE.md").split("## The floors")[1].split("## ")[0]
    shown = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table, re.MULTILINE)
    assert tuple(reversed(shown)) == FLOORS


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_target_of_make_that_a_page_names_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text_of(page))) <= targets


def test_the_citation_is_of_this_version() -> None:
    (cited,) = re.findall(r"^version: (.+)$", text_of("CITATION.cff"), re.MULTILINE)
    (version,) = re.findall(r'^version = "(.+)"$', text_of("pyproject.toml"), re.MULTILINE)
    assert cited == version
