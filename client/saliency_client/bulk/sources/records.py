"""Files that hold many images: what one record is, and which reader a file gets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from saliency_client._errors import OptionError, SaliencyError
from saliency_client._picture_names import ARRAY_SUFFIX, PICTURE_SUFFIXES
from saliency_client.bulk.storage import Place

if TYPE_CHECKING:
    # Never run, but seen by programs that freeze an application (PyInstaller): they find no name in a text.
    from saliency_client.bulk.sources import parquet, tar, tfrecord  # noqa: F401

Kind = Literal["picture", "parquet", "tfrecord", "tar"]
"""Of an input file; all but pictures hold many images."""

_SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".tfrec": "tfrecord",
    ".tfrecord.gz": "tfrecord",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".tar.bz2": "tar",
    ".tbz2": "tar",
    ".tar.xz": "tar",
    ".txz": "tar",
}
# As in train-00012-of-01024, and in TensorFlow Datasets' train.tfrecord-00012-of-01024.
_SHARD = re.compile(r"-\d{5,}-of-\d{5,}$")


MOST_BYTES = 1 << 30
"""Of one encoded image: as many as the largest picture that is decoded has without compression."""


class Unnamed(OptionError):
    """No column or feature is called as those of images mostly are, and none was named."""


class Damaged(SaliencyError):
    """A file of many images cannot be read any further."""


@dataclass(frozen=True)
class Fields:
    """Where a record keeps its image and its key, by name; None: where such files mostly do.

    Attributes:
        image: a column of Parquet, or a feature of a TFRecord's examples; encoded bytes.
        key: the same, of text or a number.
    """

    image: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Record:
    """One image of a file of many: its key there, if it has one, and its bytes, or why it has none.

    `read` is how many bytes of the file have been read by then, where it is read from front to back.
    """

    key: str | None
    image: bytes | SaliencyError
    read: int | None = None


Read = Callable[[Place, Fields, int, "tuple[int, int] | None"], Iterator[Record]]
"""Records of a file from number `start` on; of Parquet, of some row groups, first and behind the last."""


def kind_of(name: str) -> Kind | None:
    """What a file holds, by its name; None: nothing that is read."""
    base = name.rpartition("/")[2].lower()
    for suffix, kind in _SUFFIXES.items():
        if base.endswith(suffix):
            return kind
    if _SHARD.search(base):
        inner = base[: _SHARD.search(base).start()]  # type: ignore[union-attr]
        return _SUFFIXES.get("." + inner.rpartition(".")[2], "tfrecord")
    suffix = os.path.splitext(base)[1]
    return "picture" if suffix in PICTURE_SUFFIXES or suffix == ARRAY_SUFFIX else None


def reader(kind: Kind) -> Read:
    """What reads the records of a file."""
    read: Read = import_module(f"saliency_client.bulk.sources.{kind}").records
    return read


def usual(candidates: list[str], names: tuple[str, ...]) -> str | None:
    """The first of the usual names that is there, in small letters or in others."""
    in_small = {name.lower(): name for name in reversed(candidates)}
    return next((name if name in candidates else in_small[name] for name in names if name in in_small), None)


def text_of(name: str) -> str:
    """A name as a row can hold it: what is not UTF-8 in it is written as an escape."""
    return name.encode("utf-8", "backslashreplace").decode()


def chosen(
    candidates: list[str], preferred: tuple[str, ...], given: str | None, what: str, *, option: str
) -> str:
    """The name that was given, or the first preferred one that is there; in small letters or in others.

    Args:
        candidates: the names that are there.
        preferred: where none was given.
        given: as typed; a name in the very same letters goes first.
        what: a name is of, as "column".
        option: that names it.

    Raises:
        Unnamed: none was given, and none of the preferred ones is there.
        OptionError: the given one is not there, or several are that differ by small and capital letters.
    """
    there = ", ".join(sorted(candidates)) or "none"
    if given is None:
        if (name := usual(candidates, preferred)) is not None:
            return name
        raise Unnamed(f"no {what} is called like one of images; there are {there}", hint=f"{option} names it")
    alike = [given] if given in candidates else [one for one in candidates if one.lower() == given.lower()]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise OptionError(
            f"{given!r} may be the {what} {' or '.join(alike)}", hint=f"give {option} in the same letters"
        )
    raise OptionError(f"there is no {what} {given!r}; there are {there}", hint=f"{option} names another")
