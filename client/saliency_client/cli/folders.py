"""The pictures of a folder: each is found, or counted among those left out with the reason."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from saliency_client._picture_names import ARRAY_SUFFIX, PICTURE_SUFFIXES
from saliency_client.cli.errors import CommandError
from saliency_client.cli.marks import read_facts
from saliency_client.cli.text import printable

# Pictures to whoever took or drew them.
_OTHERS = (
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 rwl raf pef srw raw 3fr fff iiq mos mrw x3f erf kdc dcr gpr "
    "heics avifs psd psb xcf svg svgz jxl jxr wdp exr hdr dcm pcx sgi xpm eps ai pdf"
)
_OTHER_SUFFIXES = frozenset(f".{name}" for name in _OTHERS.split())
_ARCHIVES = frozenset({".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz2", ".txz"})
_MANY = frozenset({".parquet", ".tfrecord", ".tfrecords"})
_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
)
_BRANDS = (b"ftypavif", b"ftypavis", b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1")

OWN = "saliency-client made it; name it to explain it all the same"
NO_FILE = "it is a named pipe, a socket or a device; `cat … | saliency-client … -` reads one"
_SUBFOLDER = "it is a subfolder with pictures; --recursive enters subfolders"
_ENTERED = "it leads to a folder that is read already"
_OTHER_NAME = "it begins as a picture and is not named as one; name it to explain it"
_ARCHIVE = "archives are not entered; unpack it, or `saliency-client job` reads a tar"
_OF_MANY = "`saliency-client job` reads the images in it"
_OTHER_KIND = "pictures of this kind are not read; convert it to PNG, TIFF or JPEG"


@dataclass
class LeftOut:
    """What was found and is not explained.

    Attributes:
        reasons: the paths by the reason, as a clause about one of them.
        errors: those that cannot be read.
    """

    reasons: dict[str, list[str]] = field(default_factory=dict)
    errors: list[tuple[str, CommandError]] = field(default_factory=list)

    def add(self, path: str | Path, reason: str) -> None:
        """Count one."""
        self.reasons.setdefault(reason, []).append(str(path))

    def fail(self, path: str | Path, what: str) -> None:
        """Count one that cannot be read."""
        self.errors.append((str(path), CommandError(f"{path} {what}")))

    def notes(self) -> list[str]:
        """A sentence for each reason."""
        return [
            f"note: left out {printable(paths[0])}: {reason}"
            if len(paths) == 1
            else f"note: left out {len(paths)}, such as {printable(paths[0])}: {reason}"
            for reason, paths in self.reasons.items()
        ]


def pictures_in(folder: Path, left_out: LeftOut, *, recursive: bool) -> list[Path]:
    """The files of a folder that are pictures or arrays, parents before subfolders, each sorted by name.

    Linked folders are entered as others are, and none is entered twice: where a link leads to a folder that
    is found without it, the pictures go by that folder's own path. Hidden files and folders are passed over.
    """
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()
    waiting, links = [folder], deque[Path]()
    while waiting or links:
        # Links last: what a link leads to may be found by its own name.
        parent = waiting.pop() if waiting else links.popleft()
        try:
            status = os.stat(parent)
            identity = status.st_dev, status.st_ino
            if identity in entered:
                left_out.add(parent, _ENTERED)
                continue
            entered.add(identity)
            with os.scandir(parent) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            left_out.fail(parent, f"cannot be read: {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = parent / entry.name
            kind = _kind(entry, left_out, recursive=recursive)
            if kind is None:
                continue
            if stat.S_ISDIR(kind):
                if recursive:
                    (links if entry.is_symlink() else waiting).append(path)
                elif _has_pictures(path):
                    left_out.add(path, _SUBFOLDER)
            elif _is_wanted(path, kind, left_out):
                found.append(path)
    return sorted(found, key=lambda path: (path.parent.parts, path.name))


def _kind(entry: os.DirEntry[str], left_out: LeftOut, *, recursive: bool) -> int | None:
    """The mode of what an entry is or leads to; None for a link that leads nowhere, which is counted."""
    try:
        return entry.stat(follow_symlinks=entry.is_symlink()).st_mode
    except OSError as error:
        suffix = Path(entry.name).suffix.lower()
        if suffix in PICTURE_SUFFIXES or suffix == ARRAY_SUFFIX or (recursive and not suffix):
            left_out.fail(entry.path, _link_failure(entry, error))
        return None


def _link_failure(entry: os.DirEntry[str], error: OSError) -> str:
    try:
        return f"is a link to {os.readlink(entry.path)}, which cannot be read: {error.strerror}"
    except OSError:
        return f"cannot be read: {error.strerror}"


def _is_wanted(path: Path, kind: int, left_out: LeftOut) -> bool:
    suffix = path.suffix.lower()
    if suffix in _OTHER_SUFFIXES:
        left_out.add(path, _OTHER_KIND)
        return False
    if suffix in _ARCHIVES or suffix in _MANY:
        left_out.add(path, _ARCHIVE if suffix in _ARCHIVES else _OF_MANY)
        return False
    if suffix not in PICTURE_SUFFIXES and suffix != ARRAY_SUFFIX:
        if not (stat.S_ISREG(kind) and _starts_as_picture(path)):
            return False
        if suffix:
            # As cat.jpg~ and cat.jpg_original are, which are copies, and cat.jpg?width=600, which is none.
            left_out.add(path, _OTHER_NAME)
            return False
    # Opening a named pipe waits for somebody to write to it.
    if not stat.S_ISREG(kind):
        left_out.add(path, NO_FILE)
        return False
    if read_facts(str(path)) is not None:
        left_out.add(path, OWN)
        return False
    return True


def _starts_as_picture(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    # Two letters may begin a text; behind those of a BMP file stand its size and zeros.
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    return bitmap or webp or head.startswith(_MAGIC) or head[4:] in _BRANDS


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in PICTURE_SUFFIXES for path in _files(folder) if _is_foreign(path))


def _files(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if entry.is_file() and not entry.name.startswith("."):
                    yield Path(entry.path)
    except OSError:
        return


def _is_foreign(path: Path) -> bool:
    return read_facts(str(path)) is None
