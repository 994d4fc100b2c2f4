"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object], *, overwrite: bool) -> None:
    """Write a file beside its place and move it there, so that nobody sees half of it.

    Args:
        path: where it goes; its folder exists.
        write: gets the open file.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: there is a file and `overwrite` is False, even if it came while this one was written.
        OSError: the file cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            write(file)
        if overwrite:
            os.replace(part, path)
        else:
            _move_to_new(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


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
