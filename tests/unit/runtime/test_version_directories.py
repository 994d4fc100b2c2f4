"""Version directories by TensorFlow Serving's rule: ASCII digits, int64; by number and not by text."""

from __future__ import annotations

from pathlib import Path

import pytest

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import load_servable
from saliency_exporter.runtime.version_directories import version_directories, version_number
from saliency_exporter.serving.model_config import ModelConfig
from saliency_exporter.sources.load import load_source
from saliency_exporter.version.base_path import next_version
from saliency_exporter.version.manifest import read_manifest


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("10", 10),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        ("9" * 5000, None),  # more digits than int() converts
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.0", None),
        ("1_0", None),
        (" 1", None),
        ("²", None),  # a digit that int() refuses
        ("٣", None),  # a digit that int() takes
        ("latest", None),
    ],
)
def test_a_number_is_ascii_digits_of_an_int64(name: str, number: int | None) -> None:
    assert version_number(name) == number


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """Versions 2, 9 and 10, and what looks like one."""
    for name in ("2", "9", "10", "²", "٣", str(2**63), "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "30").write_text("a file")
    return tmp_path


def test_they_are_listed_by_number(base_path: Path) -> None:
    assert [path.name for path in version_directories(base_path)] == ["2", "9", "10"]
    assert version_directories(base_path / "nowhere") == []
    assert version_directories(base_path / "30") == []


def test_the_next_version_is_one_more_than_the_highest_and_a_server_finds_the_same(base_path: Path) -> None:
    assert next_version(base_path) == 11
    assert sorted(ModelConfig("m", base_path).on_disk()) == [2, 9, 10]


@pytest.mark.parametrize("read", [read_manifest, load_servable, lambda path: load_source(str(path))])
def test_a_hint_names_the_highest_number(base_path: Path, read) -> None:
    for name in ("2", "9", "10"):
        (base_path / name / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ExportError) as refused:
        read(base_path)
    assert str(base_path / "10") in refused.value.hint
