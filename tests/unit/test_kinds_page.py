"""The page of kinds of models (tests/matrix/KINDS.md) names tests that exist, and one for every kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "tests/matrix/KINDS.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def kinds() -> list[str]:
    """The rows of the page's tables, without their heads."""
    lines = PAGE.read_text().splitlines()
    rows = zip(lines, [*lines[1:], ""], strict=True)
    return [row for row, below in rows if row.startswith("| ") and not below.startswith("|---")]


@pytest.mark.parametrize("row", kinds(), ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_kind_has_tests_that_exist(row: str) -> None:
    named = NAMED.findall(row)
    assert named, "no test"
    for path, name in named:
        source = (ROOT / path).read_text()
        assert not name or re.search(rf"^ *def {name}\(", source, re.MULTILINE), f"{path} has no {name}"


def test_every_name_is_looked_at_and_no_kind_is_gone() -> None:
    text = PAGE.read_text()
    assert text.count("::test_") == sum(bool(name) for _, name in NAMED.findall(text))
    assert len(kinds()) >= 59
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert all(f"(#{section.lower().replace(' ', '-').replace(',', '')})" in text for section in sections)
