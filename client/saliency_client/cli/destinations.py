"""Which file each result goes to, decided before any work is done."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.inputs import STDIN, Input
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


def check_home(out: str | os.PathLike[str] | None) -> None:
    """Raise UsageError for ~, which the shell has left: a folder of that name is meant by nobody."""
    if out is None:
        return
    first, _, rest = os.fspath(out).partition("/")
    if first == "~" and not os.path.exists("~"):
        raise UsageError(
            f"-o {printable(os.fspath(out))} would make a folder that is called ~",
            hint="the shell makes the home folder of ~ where it stands alone and without quotes, as in "
            f"-o ~/{printable(rest) or 'maps'}",
        )


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
    if not out:
        raise UsageError("-o is empty", hint="a variable of the shell may be unset; -o . is this folder")
    check_home(out)
    path = Path(out)
    suffix = path.suffix.lower()
    if path.is_dir() or out.endswith((os.sep, "/")) or not suffix:
        if path.is_file():
            raise UsageError(
                f"-o {printable(out)} is a file without a suffix", hint="name it *.png, *.npy, …"
            )
        if path.exists() and not path.is_dir():
            raise UsageError(
                f"-o {printable(out)} is neither a folder nor a file", hint="-o - writes one file to stdout"
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
    jobs = [
        Job(
            one,
            tuple(
                tuple(to.folder / folder / f"{stem}{suffix}.{format}" for format in to.formats)
                for suffix in suffixes
            ),
        )
        for one, (folder, stem) in zip(inputs, places(inputs), strict=True)
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
    return [path for files in job.files for path in files if os.path.exists(path)]


def is_done(job: Job) -> bool:
    """Whether all of a job's files are there."""
    return all(os.path.exists(path) for files in job.files for path in files)


def check_absent(jobs: Sequence[Job]) -> None:
    """Raise CommandError if any file is there already, before any work is done."""
    there = [path for job in jobs for path in existing(job)]
    if there:
        more = f", and {len(there) - 1} more of the files" if len(there) > 1 else ""
        raise CommandError(
            f"{printable(str(there[0]))} exists{more}",
            hint="--overwrite replaces, --skip-existing leaves what is done, -o names another place",
        )


def with_folders(jobs: Sequence[Job]) -> tuple[list[Job], list[tuple[Job, CommandError]]]:
    """Make the folders that files go to; gives the jobs that can be written, and the others with the reason.

    Raises:
        CommandError: none can be written.
    """
    failures: dict[Path, CommandError | None] = {}
    able: list[Job] = []
    unable: list[tuple[Job, CommandError]] = []
    for job in jobs:
        error = None
        for path in (path for files in job.files for path in files):
            if path.parent not in failures:
                failures[path.parent] = _folder_failure(path.parent)
            error = error or failures[path.parent] or _name_failure(path)
        if error is None:
            able.append(job)
        else:
            unable.append((job, error))
    if unable and not able and any(failures.values()):
        raise unable[0][1]
    return able, unable


def _folder_failure(folder: Path) -> CommandError | None:
    shown = printable(str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return CommandError(f"folder {shown} cannot be made: {error.strerror}")
    if not os.access(folder, os.W_OK | os.X_OK):
        return CommandError(f"folder {shown} is not writable", hint="-o names another place")
    return None


def _name_failure(path: Path) -> CommandError | None:
    """The error for a name that the file system does not take; found before a server is asked."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return CommandError(
            f"{printable(path.name)} cannot be written: {error.strerror}",
            hint="rename the image, or explain it alone with -o FILE",
        )
    return None


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


def places(inputs: Sequence[Input]) -> list[tuple[Path, str]]:
    """The folder below the one for results, and the name without suffix, that each image's results get.

    No two are the same, on any file system: some do not tell upper from lower case, or ways to write an
    accent. A folder is the image's own below the one that was typed; where that leaves equal names, as with
    cats/1.jpg and dogs/1.jpg, all images keep their folders below the one they have in common. What is left
    gets its suffix into the name, as cat.jpg and cat.png do, or else a number.
    """
    folders = [one.folder for one in inputs]
    names = [_folded(folder / Path(one.source).name) for folder, one in zip(folders, inputs, strict=True)]
    alike = [one for one, count in zip(inputs, _counts(names), strict=True) if count > 1]
    if len({_parent(one) for one in alike}) > 1:
        folders = _below_common_folder(inputs)
    stems = _with_suffixes(inputs, folders)
    taken: set[str] = set()
    found: list[tuple[Path, str]] = []
    for folder, stem in zip(folders, stems, strict=True):
        name, number = stem, 1
        while _folded(folder / name) in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(_folded(folder / name))
        found.append((folder, name))
    return found


def _with_suffixes(inputs: Sequence[Input], folders: Sequence[Path]) -> list[str]:
    """The images' names; with the suffix in it where that tells apart what the name does not."""
    groups: dict[str, set[str]] = defaultdict(set)
    keys = [_folded(folder / one.stem) for folder, one in zip(folders, inputs, strict=True)]
    for key, one in zip(keys, inputs, strict=True):
        groups[key].add(Path(one.source).suffix.casefold())
    return [
        one.stem if len(groups[key]) == 1 else Path(one.source).name.replace(".", "-")
        for key, one in zip(keys, inputs, strict=True)
    ]


def _below_common_folder(inputs: Sequence[Input]) -> list[Path]:
    """The folders of the images below the one that holds all; as they are where none does (two drives)."""
    parents = {one.source: _parent(one) for one in inputs if one.source != STDIN}
    try:
        common = os.path.commonpath(parents.values())
    except ValueError:
        return [one.folder for one in inputs]
    return [
        Path(os.path.relpath(parents[one.source], common)) if one.source in parents else one.folder
        for one in inputs
    ]


def _parent(one: Input) -> str:
    return os.path.abspath(os.path.dirname(one.source))


def _folded(path: Path) -> str:
    """The same for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", str(path)).casefold())


def _counts(names: Sequence[str]) -> list[int]:
    count = Counter(names)
    return [count[name] for name in names]


def _check_distinct(jobs: Sequence[Job]) -> None:
    """A method's name may end as another style's does; that alone leads here."""
    owners: dict[str, Input] = {}
    for job in jobs:
        for path in (path for files in job.files for path in files):
            other = owners.setdefault(_folded(path), job.input)
            if other is not job.input:
                raise CommandError(
                    f"{other.shown} and {job.input.shown} would both be written to {printable(str(path))}",
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
