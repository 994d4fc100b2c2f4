"""Every test that SECURITY.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))
ROWS = PAGE.split("|---|---|---|---|\n")[1].splitlines()


def test_there_is_a_table_of_threats():
    assert len(ROWS) >= 15


@pytest.mark.parametrize("row", ROWS)
def test_every_threat_names_asset_attacker_defence_and_a_test(row):
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 4
    assert all(cells)
    assert re.search(r"`tests/[\w/]+\.py", cells[3])


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_named_test_exists(file, test):
    source = (ROOT / file).read_text()
    assert not test or re.search(rf"^(async )?def {test}\(", source, re.MULTILINE)
