"""The version matrix: its table of releases, its rows, and that its page hides nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "matrix"))

import tensorflow_matrix
from tensorflow_matrix import DEFAULT, PYTHONS, TENSORFLOW, default_rows, failed, page
from tensorflow_releases import changes

from saliency_exporter.runtime.versions import minor
from saliency_exporter.version.server_needs import NEWEST_IMAGE, releases


def registries(**names: str) -> dict[str, dict]:
    """What versions register, oldest first, names separated by spaces."""
    return {
        version: {"graph_version": n, "names": words.split()}
        for n, (version, words) in enumerate(names.items())
    }


def test_a_version_is_listed_with_what_the_ones_before_have_not():
    table = changes(
        registries(a="Add Add.T Add.T=DT_HALF", b="Add Add.T Add.T=DT_HALF Add.T=DT_FLOAT Add.N Mul")
    )
    assert table == {
        "a": {"graph_version": 0, "new": []},
        "b": {"graph_version": 1, "new": ["Add.N", "Add.T=DT_FLOAT", "Mul"]},
    }


def test_what_belongs_to_something_new_is_not_listed_beside_it():
    assert changes(registries(a="Add", b="Add Add.N Add.N=x Mul Mul.T Mul.T=DT_HALF"))["b"]["new"] == [
        "Add.N",
        "Mul",
    ]


def test_what_went_and_came_back_is_not_new():
    table = changes(registries(a="Add Mul", b="Add", c="Add Mul"))
    assert [facts["new"] for facts in table.values()] == [[], [], []]


def test_every_version_has_a_row_the_newest_first_and_the_default_one_on_every_python():
    rows = default_rows(["3.10", "3.11", "3.13"])
    assert rows[:4] == ["2.21:3.11", "2.20:3.11", "2.19:3.11", "2.18:3.11"]
    assert rows[4:] == ["2.20:3.10", "2.20:3.13", "2.21:3.13"]
    assert (DEFAULT, sorted(TENSORFLOW)) == (minor(NEWEST_IMAGE), list(releases()))


GOOD = {
    "row": "2.20:3.11",
    "python": "3.11.7",
    "versions": {
        "tensorflow": "2.20.0",
        "keras": "3.15.1",
        "protobuf": "7.36.2",
        "grpcio": "1.85.3",
        "numpy": "2.4.6",
    },
    "tests": {"passed": 700, "failed": [], "skipped": 2, "minutes": 3.14159},
    "others": {"exports/2.21-3.11/1": True},
}


def test_a_row_shows_versions_counts_minutes_and_whose_exports_it_loads():
    assert not failed(GOOD)
    shown = "| 2.20.0 | 3.11.7 | 3.15.1 | 7.36.2 | 1.85.3 | 2.4.6 | 700 / 0 / 2 | 3.1 | yes | 2.21 |"
    assert shown in page([GOOD]).splitlines()
    assert "What failed" not in page([GOOD])


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"problem": "RuntimeError: no answer"}, "| no: RuntimeError: no answer |"),
        (
            {"tests": {**GOOD["tests"], "failed": ["unit.test_x::test_y"]}},
            "- 2.20:3.11: `unit.test_x::test_y`",
        ),
        ({"others": {"exports/2.21-3.11/1": False}}, "- 2.20:3.11: an export of 2.21"),
    ],
    ids=["round", "test", "export"],
)
def test_a_row_that_is_not_as_it_should_be_fails_and_says_why(change, shown):
    assert failed({**GOOD, **change})
    assert shown in page([{**GOOD, **change}])


def test_a_row_that_could_not_be_installed_fails_and_says_why():
    row = {"row": "2.18:3.13", "problem": "not installed: no wheel"}
    assert failed(row)
    assert "| 2.18 | 3.13 | not installed: no wheel |" in page([row])


def test_the_table_is_written_where_every_version_was_run_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorflow_matrix, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(tensorflow_matrix, "RELEASES", tmp_path / "releases.json")
    keep = tmp_path / "keep"
    keep.mkdir()
    for number, version in enumerate(TENSORFLOW):
        assert not (tmp_path / "releases.json").exists()
        registry = {"graph_version": -number, "names": ["Add"]}
        row = {**GOOD, "row": f"{version}:{PYTHONS[1]}", "registry": registry}
        (keep / f"{version}.json").write_text(json.dumps(row))
        assert tensorflow_matrix.write(keep) == 0
    assert list(json.loads((tmp_path / "releases.json").read_text())) == sorted(TENSORFLOW)
