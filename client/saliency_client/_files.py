"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
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
                move_to_new(part, path)
    finally:
        for part in parts.values():
            with contextlib.suppress(FileNotFoundError):
                part.unlink()


def _part_name(name: str) -> str:
    """A hidden name beside a file's own, which fits wherever that fits.

    File systems bound names by bytes (255 of them, or 143 where names are encrypted), not by characters.
    """
    return f".{_beginning(name)}.{secrets.token_hex(4)}.part"


def _beginning(name: str) -> str:
    return os.fsencode(name)[:_PART_BYTES].decode("utf-8", "ignore")


def move_to_new(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    # Some file systems have no hard links; there the check and the move are two steps.
    except OSError:
        if path.exists():
            raise FileExistsError(f"{path} exists") from None
        os.replace(part, path)


@contextlib.contextmanager
def whole_folder(path: Path, *, may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """A new folder to write into, which gets its place when the block ends well, and else is removed.

    It is hidden beside its place meanwhile, and locked. One that a killed process left is removed by the next
    that writes to the same place.

    Args:
        path: where it goes; the folder that it is in exists.
        may_replace: asked of a folder that is there and holds something; True: it is replaced at the end.

    Raises:
        FileExistsError: there is something that may not be replaced.
        OSError: the folder cannot be made.
    """
    _check_replaceable(path, may_replace)
    start = _beginning(path.name)
    _remove_abandoned(path.parent, start)
    part = path.with_name(f".{start}.{secrets.token_hex(4)}.part")
    part.mkdir()
    lock = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield part
        _check_replaceable(path, may_replace)
        if path.is_dir() and any(path.iterdir()):
            old = part.with_name(f"{part.name}.old.part")
            os.rename(path, old)
            os.rename(part, path)
            shutil.rmtree(old)
        else:
            os.rename(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _check_replaceable(path: Path, may_replace: Callable[[Path], bool]) -> None:
    """A folder that holds nothing is no obstacle."""
    empty = path.is_dir() and not any(path.iterdir())
    if os.path.lexists(path) and not empty and not may_replace(path):
        raise FileExistsError(f"{path} exists")


def _remove_abandoned(folder: Path, start: str) -> None:
    """Remove what killed processes left: hidden folders that no living process has locked."""
    for entry in folder.iterdir():
        if not (entry.name.startswith(f".{start}.") and entry.name.endswith(".part") and entry.is_dir()):
            continue
        lock = os.open(entry, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
