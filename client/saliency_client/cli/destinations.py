"""Which file each result goes to, decided before any work is done."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.inputs import Input
from saliency_client.cli.streams import stdout_is_closed
from saliency_client.cli.text import printable

FORMATS = ("png", "jpg", "npy", "npz")
STDOUT = "-"
_FORMAT_OF_SUFFIX = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".npy": "npy", ".npz": "npz"}


@dataclass(frozen=True)
class Job:
    """One image, and the files of each of its results: `files[rank]` has one path per style and format."""

    input: Input
    files: tuple[tuple[Path, ...], ...]


@dataclass(frozen=True)
class Destination:
    """What `-o` and `--format` say together.

    Attributes:
        formats: at least one, in order.
        file: the one file, if `-o` names one.
        folder: else the folder that files go to.
        stdout: else bytes go to stdout.
    """

    formats: tuple[str, ...]
    file: Path | None = None
    folder: Path = Path()
    stdout: bool = False


def destination(out: str | None, formats: Sequence[str], *, results: int) -> Destination:
    """Decide between a file, a folder and stdout.

    Args:
        out: what `-o` gave, or None.
        formats: what `--format` gave.
        results: how many pictures there will be.

    Raises:
        UsageError: they do not go together.
    """
    chosen = tuple(dict.fromkeys(formats)) or ("png",)
    if out is None:
        return Destination(chosen)
    if out == STDOUT:
        _check_stdout(results, chosen)
        return Destination(chosen, stdout=True)
    path = Path(out)
    suffix = path.suffix.lower()
    if path.is_dir() or out.endswith((os.sep, "/")) or not suffix:
        if path.is_file():
            raise UsageError(
                f"-o {printable(out)} is a file without a suffix", hint="name it *.png, *.npy, …"
            )
        return Destination(chosen, folder=path)
    if suffix not in _FORMAT_OF_SUFFIX:
        raise UsageError(
            f"-o {printable(out)} ends in {printable(suffix)}, and files are png, jpg, npy or npz",
            hint="a folder's name ends in /",
        )
    if results > 1 or len(chosen) > 1:
        raise UsageError(
            f"-o {printable(out)} is one file, and there are {results * len(chosen)} to write",
            hint="name a folder; its name may end in /",
        )
    if formats and chosen[0] != _FORMAT_OF_SUFFIX[suffix]:
        raise UsageError(f"-o {printable(out)} and --format {chosen[0]} contradict each other")
    return Destination((_FORMAT_OF_SUFFIX[suffix],), file=path)


def plan(inputs: Sequence[Input], suffixes: Sequence[str], to: Destination) -> list[Job]:
    """The files of every result.

    Args:
        inputs: the images.
        suffixes: what follows the image's name, one for each result of an image, as "-gradients".
        to: where they go.

    Raises:
        CommandError: two images would give the same file, or a file would leave its folder.
    """
    if to.stdout:
        return [Job(one, ((),) * len(suffixes)) for one in inputs]
    if to.file is not None:
        jobs = [Job(inputs[0], ((to.file,),))]
        _check_not_inputs(jobs, inputs)
        return jobs
    stems = _stems(inputs)
    jobs = [
        Job(
            one,
            tuple(
                tuple(to.folder / one.folder / f"{stem}{suffix}.{format}" for format in to.formats)
                for suffix in suffixes
            ),
        )
        for one, stem in zip(inputs, stems, strict=True)
    ]
    _check_distinct(jobs)
    _check_not_inputs(jobs, inputs)
    _check_inside(jobs, to.folder)
    return jobs


def together(plans: Sequence[Sequence[Job]]) -> list[Job]:
    """The jobs of several plans of the same images and results: of each result all files, plan by plan."""
    return [
        Job(
            jobs[0].input,
            tuple(
                tuple(chain.from_iterable(files)) for files in zip(*(job.files for job in jobs), strict=True)
            ),
        )
        for jobs in zip(*plans, strict=True)
    ]


def existing(job: Job) -> list[Path]:
    """Those of a job's files that are there."""
    return [path for files in job.files for path in files if path.exists()]


def is_done(job: Job) -> bool:
    """Whether all of a job's files are there."""
    return all(path.exists() for files in job.files for path in files)


def check_absent(jobs: Sequence[Job]) -> None:
    """Raise CommandError if any file is there already, before any work is done."""
    there = [path for job in jobs for path in existing(job)]
    if there:
        more = f", and {len(there) - 1} more of the files" if len(there) > 1 else ""
        raise CommandError(
            f"{printable(str(there[0]))} exists{more}",
            hint="--overwrite replaces, --skip-existing leaves what is done, -o names another place",
        )


def make_folders(jobs: Sequence[Job]) -> None:
    """Make the folders that files go to.

    Raises:
        CommandError: one cannot be made or written to.
    """
    for folder in sorted({path.parent for job in jobs for files in job.files for path in files}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"folder {printable(str(folder))} cannot be made: {error.strerror}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CommandError(
                f"folder {printable(str(folder))} is not writable", hint="-o names another place"
            )


def _check_stdout(results: int, formats: tuple[str, ...]) -> None:
    if results > 1 or len(formats) > 1:
        raise UsageError(
            f"-o - writes one file, and there are {results * len(formats)}", hint="name a folder with -o"
        )
    if stdout_is_closed():
        raise UsageError(
            "-o - writes to stdout, and stdout is closed", hint="name a file or a folder with -o"
        )
    if sys.stdout.isatty():
        raise UsageError(
            "-o - would write a picture's bytes to the terminal",
            hint="redirect: -o - > map.png, or name a file",
        )


def _stems(inputs: Sequence[Input]) -> list[str]:
    """Names that are distinct where the suffix tells images apart, as cat.jpg and cat.png."""
    count = Counter((one.folder, one.stem) for one in inputs)
    return [
        one.stem if count[one.folder, one.stem] == 1 else Path(one.source).name.replace(".", "-")
        for one in inputs
    ]


def _check_distinct(jobs: Sequence[Job]) -> None:
    owners: dict[str, Input] = {}
    for job in jobs:
        # Some file systems do not tell upper from lower case.
        key = str(job.files[0][0]).casefold()
        other = owners.setdefault(key, job.input)
        if other is not job.input:
            file = printable(str(job.files[0][0]))
            raise CommandError(
                f"{other.shown} and {job.input.shown} would both be written to {file}",
                hint="run them apart, each with its own -o folder",
            )


def _check_not_inputs(jobs: Sequence[Job], inputs: Sequence[Input]) -> None:
    sources = {os.path.realpath(one.source): one for one in inputs}
    for path in (path for job in jobs for files in job.files for path in files):
        if os.path.realpath(path) in sources:
            raise CommandError(
                f"{printable(str(path))} is one of the images to explain", hint="-o names another place"
            )


def _check_inside(jobs: Sequence[Job], folder: Path) -> None:
    root = folder.resolve()
    for job in jobs:
        for path in (path for files in job.files for path in files):
            if not path.parent.resolve().is_relative_to(root):
                raise CommandError(
                    f"{printable(str(path))} is outside {printable(str(folder))}: its folder is a link",
                    hint="-o names another place",
                )
