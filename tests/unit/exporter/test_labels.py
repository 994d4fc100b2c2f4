from __future__ import annotations

import json
from pathlib import Path

import pytest

from saliency_exporter import labels
from saliency_exporter.errors import ExportError
from saliency_exporter.labels import read_labels
from saliency_exporter.sources import imagenet

NAMES = ("tench", "Persian cat", "Zürich")


@pytest.mark.parametrize(
    "content",
    [
        "tench\nPersian cat\nZürich",
        "tench\r\nPersian cat\r\nZürich\r\n\r\n",
        "\ufefftench\nPersian cat\nZürich\n",
        json.dumps(NAMES),
        json.dumps({"0": "tench", "2": "Zürich", "1": "Persian cat"}),
        json.dumps({"0": ["n01", "tench"], "1": ["n02", "Persian cat"], "2": ["n03", "Zürich"]}),
        json.dumps({"Persian cat": 1, "Zürich": 2, "tench": 0}),
    ],
    ids=["lines", "windows lines", "byte order mark", "list", "object", "WordNet pairs", "class_indices"],
)
def test_every_common_form_is_read_in_class_order(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content.encode())
    assert read_labels(path, 3) == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"[]", "is empty"),
        (b"a\n\nc", "empty name for class 1"),
        (b"a\nb", "holds 2 names; the model has 3 classes"),
        (b"a\nb\nc\nd", "holds 4 names; the model has 3 classes"),
        (b"a\n\xff\xfe\nc", r"not UTF-8 \(byte 2\)"),
        (b'["a", "b"', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'["a", "b", 3]', "class 2 is 3, not a name"),
        (b'{"0": "a", "1": "b", "3": "c"}', "no name for class 2"),
        (b'{"0": "a", "x": "b"}', "keys that are not class indices"),
    ],
)
def test_a_file_that_does_not_name_the_classes_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=message):
        read_labels(path, 3)


def test_one_name_too_many_hints_at_the_background_class(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("background\na\nb\nc")
    with pytest.raises(ExportError) as error:
        read_labels(path, 3)
    assert "background" in error.value.hint


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file"):
        read_labels(tmp_path / "none.txt", 3)
    with pytest.raises(ExportError, match="Is a directory"):
        read_labels(tmp_path, 3)


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    with path.open("wb") as file:
        file.truncate(labels.MAX_BYTES + 1)
    with pytest.raises(ExportError, match="more bytes than the limit of 16777216"):
        read_labels(path, 3)


def test_a_device_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(ExportError, match="more bytes than the limit"):
        read_labels("/dev/zero", 3)


def test_imagenet_names_are_in_class_order_and_distinct() -> None:
    names = imagenet.labels()
    assert len(names) == len(set(names)) == 1000
    # Spot checks against ILSVRC 2012's own list.
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 282: "tiger cat"}
    known |= {285: "Egyptian cat", 340: "zebra", 404: "airliner", 504: "coffee mug", 657: "missile"}
    known |= {817: "sports car", 954: "banana", 967: "espresso", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known
