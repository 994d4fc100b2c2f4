"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

Write = Callable[[BinaryIO], object]
"""Gets the open file and writes to it."""
_PART_BYTES = 100


def write_whole(path: Path, write: Write, *, overwrite: bool) -> None:
    """Write a file beside its place and move it there, so that nobody sees half of it.

    Args:
        path: where it goes; its folder exists.
        write: gets the open file.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: there is a file and `overwrite` is False, even if it came while this one was written.
        OSError: the file cannot be written; nothing is left behind.
    """
    write_all({path: write}, overwrite=overwrite)


def write_all(files: Mapping[Path, Write], *, overwrite: bool) -> None:
    """Write several files so; none is moved to its place before all are written.

    Args:
        files: what each is written by, by where it goes.
        overwrite: replace files that are there.

    Raises:
        FileExistsError: as for `write_whole`.
        OSError: one cannot be written; all are as they were.
    """
    parts = {path: path.with_name(_part_name(path.name)) for path in files}
    try:
        for path, write in files.items():
            with open(parts[path], "xb") as file:
                write(file)
        for path, part in parts.items():
            if overwrite:
                os.replace(part, path)
            else:
                _move_to_new(part, path)
    finally:
        for part in parts.values():
            with contextlib.suppress(FileNotFoundError):
                part.unlink()


def _part_name(name: str) -> str:
    """A hidden name beside a file's own, which fits wherever that fits.

    File systems bound names by bytes (255 of them, or 143 where names are encrypted), not by characters.
    """
    beginning = os.fsencode(name)[:_PART_BYTES].decode("utf-8", "ignore")
    return f".{beginning}.{secrets.token_hex(4)}.part"


def _move_to_new(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    # Some file systems have no hard links; there the check and the move are two steps.
    except OSError:
        if path.exists():
            raise FileExistsError(f"{path} exists") from None
        os.replace(part, path)
