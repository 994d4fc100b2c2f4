"""Makes the model.tar.gz of a version directory for SageMaker's TensorFlow Serving container.

    python docker/sagemaker/make_archive.py models/my-model/1 --out model.tar.gz

In it: the version directory as NAME/N, and `code/` with the handler, the client and requirements.txt.
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
import tarfile
from importlib.metadata import requires
from io import BytesIO
from pathlib import Path
from typing import IO

import saliency_client
from saliency_client._files import write_whole
from saliency_exporter.errors import ExportError
from saliency_exporter.version.manifest import read_manifest

HANDLER = Path(__file__).with_name("inference.py")
LEFT_OUT = ("cli", "evaluation", "gallery.py", "web", "_pyinstaller", "__pycache__")
"""Parts of the client that a handler does not call: the command line, and what is for a terminal."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
"""What the container takes for a model's name in its header tfs-model-name (tfs_utils.py)."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version_dir", type=Path, help="the version directory, such as models/my-model/1")
    parser.add_argument("--out", type=Path, default=Path("model.tar.gz"), help="default: model.tar.gz")
    parser.add_argument("--name", help="the model's name; default: that of the folder above")
    given = parser.parse_args(arguments)
    version_dir = given.version_dir.resolve()
    try:
        size = make_archive(version_dir, given.name or version_dir.parent.name, given.out)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    print(f"{given.out} ({size / 1e6:.1f} MB)")
    return 0


def make_archive(version_dir: Path, name: str, out: Path) -> int:
    """Writes the archive, whole or not at all, over one that is there; returns its size in bytes.

    Raises:
        ExportError: the directory is no export, is compiled with XLA, or the name or the file cannot be.
    """
    if not version_dir.name.isdecimal():
        raise ExportError(
            f"{version_dir} is not a version directory: its name is no number",
            hint="give one such as models/my-model/1",
        )
    if not _NAME.fullmatch(name):
        raise ExportError(
            f"the container takes no model called {name!r}",
            hint="give --name with letters, digits, dots, dashes and underscores",
        )
    manifest = read_manifest(version_dir)
    if manifest.compile == "xla" or any(choice.compile == "xla" for choice in manifest.compile_choices):
        raise ExportError(
            f"{version_dir} is compiled (--compile {manifest.compile}), and the container's server runs no "
            "XLA: its command line is fixed",
            hint="export it again with `saliency-exporter export … --for sagemaker`",
        )
    try:
        write_whole(out, lambda file: _pack(file, version_dir, name), overwrite=True)
        return out.stat().st_size
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror or error}") from error


def _pack(file: IO[bytes], version_dir: Path, name: str) -> None:
    """The same input makes the same bytes: no times, no users."""
    package = Path(saliency_client.__file__).parent
    with (
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for path in _files(version_dir, "*"):
            _add(archive, f"{name}/{version_dir.name}/{path.relative_to(version_dir).as_posix()}", path)
        _add(archive, "code/inference.py", HANDLER)
        for path in _files(package, "*.py"):
            relative = path.relative_to(package)
            if relative.parts[0] not in LEFT_OUT:
                _add(archive, f"code/saliency_client/{relative.as_posix()}", path)
        requirements = _requirements().encode()
        archive.addfile(_entry("code/requirements.txt", len(requirements)), BytesIO(requirements))


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as file:
        archive.addfile(_entry(name, path.stat().st_size), file)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


def _requirements() -> str:
    """What the client needs to read pictures and the container does not bring."""
    (pillow,) = (
        one for one in requires("saliency-serving") or () if one.startswith("pillow") and ";" not in one
    )
    return f"{pillow}\n"


if __name__ == "__main__":
    sys.exit(main())
