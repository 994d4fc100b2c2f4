"""The one reader of files of class names, for both command lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saliency_client import _class_names
from saliency_client._class_names import read_class_names
from saliency_client.cli.errors import CommandError
from saliency_exporter.errors import ExportError

NAMES = ("tench", "Persian cat", "Zürich")


def read_labels(path: str | Path, classes: int | None = None) -> tuple[str, ...]:
    return read_class_names(Path(path), classes, error=ExportError)


@pytest.mark.parametrize(
    "content",
    [
        "tench\nPersian cat\nZürich",
        "tench\r\nPersian cat\r\nZürich\r\n\r\n",
        "\ufefftench\nPersian cat\nZürich\n",
        "tench\rPersian cat\rZürich\r",
        "0 tench\n1 Persian cat\n2 Zürich\n",
        "0\ttench\r\n1\tPersian cat\r\n2\tZürich\r\n",
        json.dumps(NAMES),
        "\ufeff" + json.dumps(NAMES, indent=2),
        json.dumps([["n01", "tench"], ["n02", "Persian cat"], ["n03", "Zürich"]]),
        json.dumps({"0": "tench", "2": "Zürich", "1": "Persian cat"}),
        json.dumps({"0": ["n01", "tench"], "1": ["n02", "Persian cat"], "2": ["n03", "Zürich"]}),
        json.dumps({"Persian cat": 1, "Zürich": 2, "tench": 0}),
    ],
    ids=[
        "lines",
        "windows lines",
        "byte order mark",
        "old Mac lines",
        "Teachable Machine's lines",
        "lines with an index and a tab",
        "list",
        "list with a mark",
        "list of pairs",
        "object",
        "WordNet pairs",
        "class_indices",
    ],
)
def test_every_common_form_is_read_in_class_order(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content.encode())
    assert read_labels(path, 3) == NAMES


@pytest.mark.parametrize(
    "names",
    [
        ["1 Cat", "2 Dog"],  # not from 0
        ["0 Cat", "Dog"],  # not on every line
        ["0 Cat", "2 Dog"],  # not running
        ["1 Dog", "0 Cat"],
        ["00 Cat", "01 Dog"],
        ["0", "1", "2"],  # digits are names
        ["0Cat", "1Dog"],
        ["0.5 mm", "1.5 mm"],
        ["٠ Cat", "١ Dog"],
        ["747", "0 Cat"],
    ],
)
def test_a_number_that_is_no_running_index_is_part_of_the_name(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(names), encoding="utf-8")
    assert read_labels(path) == tuple(names)


def test_an_index_is_dropped_from_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(["0 degrees", "1 degree"]))
    assert read_labels(path) == ("0 degrees", "1 degree")


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
        (b'["a", "b", 3]', "has 3 for class 2, which is not a name"),
        (b"[3, 4, 5]", "has 3 for class 0, which is not a name"),
        (b'[\n  "a",\n  "b"', "not valid JSON"),
        (b'["a", "", "c"]', "empty name for class 1"),
        (b'[" ", "b", "c"]', "empty name for class 0"),
        (b"\na\nb\nc", "empty name for class 0"),
        (b'{"a": 0, "b": 0, "c": 1}', "two names to one class"),
        (b'["a", ' + b"1" * 5000 + b"]", "not valid JSON"),
        (b'{"0": "a", "1": "b", "3": "c"}', "no name for class 2"),
        (b'{"0": "a", "x": "b"}', "has the key 'x'; keys are class indices"),
        (
            b'{"classes": ["a", "b"]}',
            "has the key 'classes'; keys are class indices .0, 1, ….*, or names whose",
        ),
        (b'{"a": 0, "b": 1.5}', "has the key 'a'; .* or names whose values are all class indices$"),
        (b'{"0": "a", "-1": "b"}', "has the key '-1'; keys"),
        (b'{"' + b"9" * 5000 + b'": "a"}', "has the key '9{40}…'; keys"),
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
    assert "background" in str(error.value.hint)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No such file"):
        read_labels(tmp_path / "none.txt", 3)
    with pytest.raises(ExportError, match="Is a directory"):
        read_labels(tmp_path, 3)


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    with path.open("wb") as file:
        file.truncate(_class_names.MAX_BYTES + 1)
    with pytest.raises(ExportError, match="more bytes than the limit of 16777216"):
        read_labels(path, 3)


def test_a_device_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(ExportError, match="more bytes than the limit"):
        read_labels("/dev/zero", 3)


def test_a_line_separator_is_a_character_of_a_name_and_ends_no_line(tmp_path: Path) -> None:
    """U+2028, U+0085 and their like are where str.splitlines ends a line."""
    path = tmp_path / "labels.txt"
    path.write_bytes("a\u2028b\nc\x85d\ne\x0bf\n".encode())
    assert read_labels(path, 3) == ("a\u2028b", "c\x85d", "e\x0bf")


@pytest.mark.parametrize("first", ["[background]", "[1] tench", "{unknown}", "[none] or [other]"])
def test_a_first_name_in_brackets_is_a_name(tmp_path: Path, first: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(f"{first}\ncat\ndog\n")
    assert read_labels(path, 3) == (first, "cat", "dog")


@pytest.mark.parametrize("error", [ExportError, CommandError])
def test_each_command_line_raises_its_own_error_with_the_same_words(
    tmp_path: Path, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"labels file .*none\.txt cannot be read: No such file") as caught:
        read_class_names(tmp_path / "none.txt", error=error)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
