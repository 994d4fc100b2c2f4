"""A gallery on disk: a page, its pictures as files, and an index of all that it shows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from saliency_client._files import whole_folder, write_whole
from saliency_client.web.document import GENERATOR, STYLE, VIEWER, document, single_document, static
from saliency_client.web.map_picture import MapPicture, color_tables
from saliency_client.web.meanings import meanings
from saliency_client.web.shown import Shown, ShownClass, ShownMap

PAGE = "index.html"
SCRIPTS = (VIEWER, "gallery.js")
_IN_A_FOLDER = 500
"""Photos whose pictures share a folder. gallery.js makes the names by the same rule."""
_HEAD_BYTES = 4096


class EmptyGallery(ValueError):
    """There is no photo, so there is no gallery."""


def write(
    path: Path,
    photos: Iterable[Shown],
    about: Callable[[], Mapping[str, Any]],
    *,
    title: str,
    single_file: bool = False,
    overwrite: bool = False,
) -> int:
    """Write photos to a gallery as they come; it appears whole at the end, or not at all.

    Args:
        path: the folder, or the one file; the folder that it is in exists.
        photos: in the order of the gallery. An error of it ends the gallery.
        about: what is told of all photos, asked for at the end.
        title: for people.
        single_file: write one HTML that holds everything.
        overwrite: replace a gallery that is there, and no other folder; with `single_file`, a file.

    Returns:
        How many photos there are.

    Raises:
        EmptyGallery: there are none.
        FileExistsError: there is something at `path`.
        OSError: something cannot be written.
    """
    if not single_file:
        with whole_folder(path, may_replace=lambda there: overwrite and is_gallery(there)) as folder:
            written = _Written(folder)
            written.add_all(photos)
            for name in (STYLE, *SCRIPTS):
                (folder / name).write_bytes(static(name))
            page = document(title=title, scripts=SCRIPTS, data=written.index(title, about()))
            (folder / PAGE).write_text(page, encoding="utf-8")
        return len(written.rows)
    with tempfile.TemporaryDirectory(prefix="saliency-gallery-") as room:
        written = _Written(Path(room))
        written.add_all(photos)
        pieces = single_document(
            title=title,
            scripts=SCRIPTS,
            data=written.index(title, about()),
            pictures=((name, (Path(room) / name).read_bytes()) for name in written.pictures),
        )

        def fill(file: BinaryIO) -> None:
            for piece in pieces:
                file.write(piece.encode())

        write_whole(path, fill, overwrite=overwrite)
    return len(written.rows)


def is_gallery(path: Path) -> bool:
    """Whether a folder is one that `write` made."""
    try:
        with open(path / PAGE, "rb") as file:
            return f'content="{GENERATOR}"'.encode() in file.read(_HEAD_BYTES)
    except OSError:
        return False


@dataclass
class _Written:
    """The pictures that are in a folder by now, and the rows of the index about them."""

    folder: Path
    rows: list[list[Any]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)
    _methods: dict[str, int] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _version: list[int | None] = field(default_factory=list)

    def add_all(self, photos: Iterable[Shown]) -> None:
        for one in photos:
            self._add(one)
        if not self.rows:
            raise EmptyGallery("there is no photo to show")

    def index(self, title: str, about: Mapping[str, Any]) -> dict[str, Any]:
        """The data of the page; `gallery.js` says what stands where in a row."""
        return {
            "page": "gallery",
            "title": title,
            "about": about,
            "colors": color_tables(),
            "meanings": meanings(),
            "labels": list(self._labels),
            "methods": list(self._methods),
            "numbers": list(self._numbers),
            "version": self._version[0] if self._version else None,
            "photos": self.rows,
        }

    def _add(self, one: Shown) -> None:
        number = len(self.rows)
        if number % _IN_A_FOLDER == 0:
            (self.folder / f"pictures/{number // _IN_A_FOLDER}").mkdir(parents=True)
        start = f"pictures/{number // _IN_A_FOLDER}/{number}"
        ending = "png" if one.photo.type == "png" else "jpg"
        self._save(f"{start}.{ending}", one.photo.view)
        self._save(f"{start}-small.{ending}", one.photo.thumb)
        width, height = one.photo.size
        whole = one.photo.box == (0, 0, width, height)
        self.rows.append(
            [
                one.name,
                0 if one.argument == one.name else one.argument,
                width,
                height,
                0 if whole else [round(side, 2) for side in one.photo.box],
                int(one.photo.type == "png"),
                one.truth,
                None if one.right is None else int(one.right),
                [self._class(shown, f"{start}-{place}") for place, shown in enumerate(one.classes)],
            ]
        )

    def _class(self, one: ShownClass, start: str) -> list[Any]:
        return [
            one.class_index,
            None if one.label is None else _place(self._labels, one.label),
            _rounded(one.probability),
            _rounded(one.score),
            one.rank,
            [self._map(shown, start) for shown in one.maps],
        ]

    def _map(self, one: ShownMap, start: str) -> list[Any]:
        method = _place(self._methods, one.method)
        self._save(f"{start}-{method}.png", one.saliency.png)
        if one.signed is not None:
            self._save(f"{start}-{method}-signed.png", one.signed.png)
        known = {_place(self._numbers, name): _rounded(value) for name, value in one.numbers.items()}
        numbers = [known.get(place) for place in range(max(known, default=-1) + 1)]
        if not self._version:
            self._version.append(one.version)
        # Most galleries are of one version, which stands once.
        other = [] if one.version == self._version[0] else [one.version]
        signed_high = _rounded(one.signed.high) if one.signed else None
        return [method, *_ends(one.saliency), signed_high, numbers, *other]

    def _save(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)
        self.pictures.append(name)


def _ends(picture: MapPicture) -> Iterator[float | None]:
    return map(_rounded, (picture.low, picture.high))


def _place(known: dict[str, int], name: str) -> int:
    return known.setdefault(name, len(known))


def _rounded(value: float | None) -> float | None:
    """Six digits, which is what float32 holds, in fewer characters."""
    return None if value is None else float(f"{value:.6g}")
