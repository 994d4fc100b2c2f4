"""The version directories of a model base path, as TensorFlow Serving finds them. Needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path

MOST = 2**63 - 1
"""TensorFlow Serving reads a version's number as int64."""


def version_number(name: str) -> int | None:
    """The version that a directory's name is, or None.

    ASCII digits alone: Unicode has other digits, which int() refuses (²) or takes (٣) and a server does not.
    """
    if not (name.isascii() and name.isdigit()):
        return None
    number = int(name) if len(name) <= 32 else MOST + 1
    return number if number <= MOST else None


def version_directories(model_dir: Path) -> list[Path]:
    """The version directories, the highest number last; none where there is no such directory."""
    if not model_dir.is_dir():
        return []
    found = [(version_number(path.name), path) for path in model_dir.iterdir() if path.is_dir()]
    return [path for number, path in sorted((n, p) for n, p in found if n is not None)]
