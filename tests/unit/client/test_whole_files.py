"""Files appear whole and together, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from saliency_client._files import write_all, write_whole


def text(content: bytes):
    return lambda file: file.write(content)


def full_disk(file: BinaryIO) -> None:
    file.write(b"half")
    raise OSError(28, "No space left on device")


def test_one_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        write_all({first: text(b"new"), second: full_disk}, overwrite=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("first", b"old")]


def test_all_are_there_and_nothing_beside_them(tmp_path: Path) -> None:
    write_all({tmp_path / "a": text(b"1"), tmp_path / "b": text(b"2")}, overwrite=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


def test_a_file_that_is_there_stays_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_whole(path, text(b"new"), overwrite=False)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"mine")]


@pytest.mark.parametrize("name", ["\u6771" * 85, "\u00e9" * 127, "a" * 255, "a" * 99 + "\u6771" * 40])
def test_a_name_as_long_as_the_disk_takes_is_written(tmp_path: Path, name: str) -> None:
    """255 bytes; the name that the file has until it is whole is no longer, and is text."""
    names: list[str] = []

    def write(file: BinaryIO) -> None:
        names.extend(path.name for path in tmp_path.iterdir())
        file.write(b"1")

    write_whole(tmp_path / name, write, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (part,) = names
    assert len(part.encode("utf-8", "strict")) <= 143  # where names are encrypted (eCryptfs)
