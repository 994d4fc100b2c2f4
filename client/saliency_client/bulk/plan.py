"""What a job is to do: its input files in order, written down once, so that whoever goes on does the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from saliency_client._errors import OptionError
from saliency_client.bulk.arrow import parquet, schema
from saliency_client.bulk.sources.parquet import row_groups
from saliency_client.bulk.sources.records import Damaged, Fields, Kind, Unnamed, kind_of
from saliency_client.bulk.storage import Place, StorageError, is_address

_COLUMNS = {
    "path": "string",
    "kind": "string",
    "first_group": "int32",
    "end_group": "int32",
    "rows": "int64",
    "first_row": "int64",
    "bytes": "int64",
}
_WRITTEN_AT_A_TIME, _READ_AT_A_TIME = 10_000, 1000
_OF = "saliency_plan_of"
_MAGIC = ("*", "?", "[")


@dataclass(frozen=True)
class Entry:
    """An input file, or some row groups of one.

    Attributes:
        path: as it was typed or found.
        kind: what it holds.
        groups: of Parquet, the first row group and the one behind the last.
        rows: how many images; None: it takes reading the file.
        first_row: the number in the file of the first of them.
        bytes: of a file whose number of images is not known; None: not known either.
    """

    path: str
    kind: Kind
    groups: tuple[int, int] | None = None
    rows: int | None = None
    first_row: int = 0
    bytes: int | None = None


@dataclass(frozen=True)
class Unit:
    """What one worker does in a row: some pictures, or one entry of a file of many images.

    Attributes:
        number: in the order of the plan.
        entries: several pictures, or a single entry of another kind.
    """

    number: int
    entries: tuple[Entry, ...]

    @property
    def rows(self) -> int | None:
        """How many images; None where that is not known before they are read."""
        counts = [entry.rows for entry in self.entries]
        return None if None in counts else sum(count or 0 for count in counts)


@dataclass
class LeftOut:
    """Files that were found in folders and are not inputs, by the reason."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Count one; the first is kept as an example."""
        paths = self.found.setdefault(reason, [])
        paths.append(path if not paths else "")

    def notes(self) -> list[str]:
        """A sentence for each reason."""
        return [
            f"left out {paths[0]}: {reason}"
            if len(paths) == 1
            else f"left out {len(paths)} files, such as {paths[0]}: {reason}"
            for reason, paths in self.found.items()
        ]


def check_inputs(inputs: Iterable[str], fields: Fields, *, kind: Kind | None = None) -> None:
    """Check what was typed, as far as that takes neither reading folders nor a network.

    Args:
        inputs: as typed.
        fields: names of columns.
        kind: of every file; None: by its name.

    Raises:
        OptionError: one is not there, a file's name does not say what it holds, or it has no such columns.
    """
    for text in inputs:
        place = Place(text)
        if not place.is_local or place.is_folder():
            continue
        if place.exists():
            for _ in _entries(place.address, kind or _named_kind(text), 1, fields):
                pass
        elif not any(sign in text for sign in _MAGIC):
            raise _not_there(text)


def is_gone(text: str) -> bool:
    """Whether what was typed is not there, on this machine; of a single picture its row says so."""
    place = Place(text)
    return (
        place.is_local
        and kind_of(text) != "picture"
        and not any(sign in text for sign in _MAGIC)
        and not place.exists()
    )


def _not_there(text: str) -> OptionError:
    piped = "; --list - takes names that are piped in" if text == "-" else ""
    return OptionError(
        f"{text} does not exist", hint=f"a typed input is a folder, a file or a pattern{piped}"
    )


def find_entries(
    inputs: Iterable[str],
    left_out: LeftOut,
    *,
    kind: Kind | None = None,
    shard_rows: int,
    fields: Fields | None = None,
) -> Iterator[Entry]:
    """The input files that folders (with all below, sorted by name), files, patterns and addresses mean.

    Args:
        inputs: as typed.
        left_out: gets the files of folders that are no inputs.
        kind: of every file; None: by its name.
        shard_rows: row groups of Parquet go together up to about as many rows.
        fields: names of columns of Parquet.

    Raises:
        OptionError: one is not there, a file's name does not say what it holds, a pattern matches nothing, or
            Parquet has no such columns.
        StorageError: a folder cannot be read.
    """
    fields = fields or Fields()
    for text in inputs:
        place = Place(text)
        if not _is_text(text):
            raise OptionError(
                f"the name {text!a} is not UTF-8, and a row holds names as UTF-8",
                hint="rename it, or give a link to it",
            )
        if place.is_folder():
            for path, known in _files_below(place, left_out):
                found = known or kind or kind_of(path)
                if not _is_text(path):
                    left_out.add("its name is not UTF-8; rename it", ascii(path))
                elif found is None:
                    left_out.add("it is not named as a picture, Parquet, TFRecord or tar", path)
                else:
                    try:
                        yield from _entries(path, found, shard_rows, fields)
                    except Unnamed:
                        left_out.add("no column of it is called like one of images", path)
        elif place.exists():
            yield from _entries(place.address, kind or _named_kind(text), shard_rows, fields)
        elif any(sign in text for sign in _MAGIC):
            matches = place.matches()
            if not matches:
                raise OptionError(
                    f"{text} matches no file", hint="quote a pattern, so that the shell leaves it"
                )
            for path in matches:
                yield from _entries(path, kind or _named_kind(path), shard_rows, fields)
        else:
            raise _not_there(text)


def listed_entries(
    lines: Iterable[str],
    *,
    beside: str,
    kind: Kind | None = None,
    shard_rows: int,
    fields: Fields | None = None,
) -> Iterator[Entry]:
    """The input files of a list: one path or address on each line; they are opened when their turn comes.

    Args:
        lines: empty ones are passed over.
        beside: the folder that paths count from.
        kind: as above.
        shard_rows: as above.
        fields: as above.

    Raises:
        OptionError: Parquet has no such columns.
    """
    for line in lines:
        text = line.rstrip()
        if not text:
            continue
        relative = not (is_address(text) or text.startswith("/")) and beside
        path = f"{beside}/{text}" if relative else text
        # A list names images, whatever their suffix, unless it names a file of many.
        yield from _entries(path, kind or kind_of(path) or "picture", shard_rows, fields or Fields())


def _size(path: str) -> int | None:
    """Of a file; a job finds out later why it cannot be read."""
    try:
        return Place(path).size()
    except StorageError:
        return None


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named_kind(text: str) -> Kind:
    kind = kind_of(text)
    if kind is None:
        raise OptionError(
            f"{text} is not named as a picture, Parquet, TFRecord or tar",
            hint="--input-format says what it holds; --list reads the names of inputs from a file",
        )
    return kind


def _entries(path: str, kind: Kind, shard_rows: int, fields: Fields) -> Iterator[Entry]:
    if kind == "picture":
        yield Entry(path, kind, rows=1)
        return
    if kind != "parquet":
        yield Entry(path, kind, bytes=_size(path))
        return
    first, rows, before = 0, 0, 0
    place = Place(path)
    try:
        sizes = row_groups(place, fields)
    except Damaged:
        # Its one row says so.
        yield Entry(path, kind)
        return
    except StorageError:
        if not place.is_local:
            raise
        yield Entry(path, kind)
        return
    if not sizes:
        yield Entry(path, kind, (0, 0), 0)
    for number, size in enumerate(sizes):
        rows += size
        if rows >= shard_rows or number == len(sizes) - 1:
            yield Entry(path, kind, (first, number + 1), rows, before)
            first, rows, before = number + 1, 0, before + rows


def _files_below(
    folder: Place, left_out: LeftOut, entered: set[object] | None = None, *, typed: bool = True
) -> Iterator[tuple[str, Kind | None]]:
    """Depth first, sorted by name; hidden files and folders are passed over, and a job's own.

    Linked folders are entered as others are, and none is entered twice. One below, on this machine, that
    cannot be read is given itself, as a picture; the kind of all others is None.
    """
    entered = set() if entered is None else entered
    if folder.identity in entered:
        left_out.add("it leads to a folder that is read already", folder.address)
        return
    entered.add(folder.identity)
    try:
        entries = folder.entries()
    except StorageError:
        if typed or not folder.is_local:
            raise
        # As one image, whose row says why: what is in it is not lost without a word.
        yield folder.address, "picture"
        return
    if any(name == JOB_FOLDER and below for name, below, _ in entries):
        left_out.add("it is the output of a job", folder.address)
        return
    for name, below, size in entries:
        if name.startswith("."):
            continue
        if size is None and (folder / name).is_special:
            left_out.add("it is a named pipe, a socket or a device", (folder / name).address)
        elif below:
            yield from _files_below(folder / name, left_out, entered, typed=False)
        else:
            yield (folder / name).address, None


JOB_FOLDER = "_job"
"""Beside the shards: what a job was asked, its plan, and what is done. Readers of Parquet pass it over."""


def write_plan(place: Place, entries: Iterator[Entry], of: str) -> None:
    """Write the entries down, unless somebody else was faster: their plan holds then.

    Args:
        place: the file.
        entries: in order.
        of: what the plan is of; one of anything else, which a killed process left, is replaced.

    Raises:
        OptionError: there is no entry.
        StorageError: the plan cannot be written.
    """
    arrow = parquet()
    count = 0
    columns = schema(_COLUMNS, {_OF: of})
    left_behind = place.exists() and Plan(place, 1).of() != of
    with place.writing() as (part, finish):
        with arrow.ParquetWriter(part, columns, compression="zstd") as writer:
            while some := list(islice(entries, _WRITTEN_AT_A_TIME)):
                count += len(some)
                writer.write_table(_table(some, columns))
        if not count:
            raise OptionError("there is no image in what was given")
        try:
            finish(not left_behind)
        except FileExistsError:
            return


def _table(entries: Sequence[Entry], columns: Any) -> Any:
    import pyarrow

    rows = [
        {
            "path": entry.path,
            "kind": entry.kind,
            "first_group": entry.groups[0] if entry.groups else None,
            "end_group": entry.groups[1] if entry.groups else None,
            "rows": entry.rows,
            "first_row": entry.first_row,
            "bytes": entry.bytes,
        }
        for entry in entries
    ]
    return pyarrow.Table.from_pylist(rows, columns)


@dataclass(frozen=True)
class Plan:
    """A plan that was written: read from the start whenever it is gone through.

    Attributes:
        place: its file.
        shard_rows: images in a shard, at most.
    """

    place: Place
    shard_rows: int

    def digest(self) -> str:
        """Which plan it is: of its bytes."""
        return hashlib.sha256(self.place.read()).hexdigest()[:16]

    def of(self) -> str | None:
        """What it is a plan of."""
        with self.place.open() as file:
            known = parquet().read_schema(file).metadata or {}
        content = known.get(_OF.encode())
        return None if content is None else content.decode()

    def size(self) -> tuple[int, int | None]:
        """How many images are known, and the bytes of the files whose images are not counted yet.

        The bytes are None where the size of one is not known.
        """
        with self.place.open() as file:
            table = parquet().read_table(file, columns=["rows", "bytes"])
        rows, sizes = table.column("rows").to_pylist(), table.column("bytes").to_pylist()
        unknown = [size for count, size in zip(rows, sizes, strict=True) if count is None]
        known = sum(count for count in rows if count is not None)
        return known, None if None in unknown else sum(unknown)

    def units(self) -> Iterator[Unit]:
        """In order."""
        pictures: list[Entry] = []
        number = 0
        for entry in self._entries():
            if entry.kind == "picture":
                pictures.append(entry)
                if len(pictures) < self.shard_rows:
                    continue
                yield Unit(number, tuple(pictures))
                pictures, number = [], number + 1
                continue
            if pictures:
                yield Unit(number, tuple(pictures))
                pictures, number = [], number + 1
            yield Unit(number, (entry,))
            number += 1
        if pictures:
            yield Unit(number, tuple(pictures))

    def _entries(self) -> Iterator[Entry]:
        with self.place.open() as file:
            opened = parquet().ParquetFile(file)
            for batch in opened.iter_batches(_READ_AT_A_TIME):
                for row in batch.to_pylist():
                    groups = None if row["first_group"] is None else (row["first_group"], row["end_group"])
                    where = row["rows"], row["first_row"], row["bytes"]
                    yield Entry(row["path"], row["kind"], groups, *where)
