"""The committed table of keras.applications says what the models hold today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from saliency_exporter.sources import keras_application

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "tests" / "matrix" / "keras_applications.py"
PAGE = (ROOT / "exporter" / "COVERAGE.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines(keepends=True) if line.startswith("| ")][1:]
MEMBERS = [row.split("|")[2].strip() for row in ROWS]


def rows(*members: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(TABLE), *members], capture_output=True, text=True, timeout=1700, check=True
    )
    return done.stdout.splitlines(keepends=True)


def test_the_table_has_one_row_for_every_family():
    assert [row.split("|")[1].strip() for row in ROWS] == sorted(keras_application.FAMILIES)


def test_the_row_of_mobilenet_v3_is_what_the_command_prints(monkeypatch):
    monkeypatch.syspath_prepend(TABLE.parent)
    from keras_applications import row

    assert [row("MobileNetV3Small")] == [line for line in ROWS if "MobileNetV3Small" in line]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_row_is_what_the_command_gives():
    assert rows(*MEMBERS) == ROWS
