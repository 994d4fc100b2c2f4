"""The model base path of a model: versions that servers read, and one that is being built beside them."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.version_directories import version_directories

_PARTIAL_PREFIX = ".saliency-export-"


@contextmanager
def base_path(model_dir: Path) -> Iterator[None]:
    """A directory that is there; what had to be made for it is removed again if the block fails."""
    made = [path for path in (model_dir, *model_dir.parents) if not path.exists()]
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        # A directory that is not empty is in use by someone else by now, and so are those above it.
        with suppress(OSError):
            for path in made:
                path.rmdir()
        raise


def next_version(model_dir: Path) -> int:
    """One more than the highest version of a model base path; 1 for an empty one."""
    versions = version_directories(model_dir)
    return int(versions[-1].name) + 1 if versions else 1


def refuse_existing(final: Path) -> None:
    """Raises ExportError if a version exists."""
    if final.exists():
        raise ExportError(
            f"version {final.name} of {final.parent} exists already",
            hint="leave --version away for the next number; a served version is never changed in place",
        )


@contextmanager
def partial_directory(model_dir: Path, number: int) -> Iterator[Path]:
    """A directory that no server reads, locked while this process lives; removed unless it was published."""
    partial = model_dir / f"{_PARTIAL_PREFIX}{number}-{os.getpid()}-{time.monotonic_ns()}"
    partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def remove_abandoned(model_dir: Path) -> None:
    """Removes what killed exports left: partial directories that no living process has locked."""
    for path in model_dir.glob(f"{_PARTIAL_PREFIX}*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def publish(partial: Path, final: Path) -> None:
    """Gives the complete directory its number."""
    # Written through to the disk first: a rename can outlive the data of what it renamed.
    for directory, _, files in os.walk(partial):
        for name in (*files, "."):
            _sync(Path(directory, name))
    try:
        os.rename(partial, final)
    except OSError as error:
        if final.exists():
            refuse_existing(final)
        raise error
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
