"""Images in a tar file, as webdataset writes them; read from front to back, compressed or not."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator

from saliency_client._errors import ItemError
from saliency_client._picture_names import ARRAY_SUFFIX, PICTURE_SUFFIXES
from saliency_client.bulk.sources.records import MOST_BYTES, Damaged, Fields, Record, text_of
from saliency_client.bulk.storage import Place


def records(
    place: Place, fields: Fields, start: int = 0, groups: tuple[int, int] | None = None
) -> Iterator[Record]:
    """Each member that is named as a picture; its key is its name in the tar.

    Args:
        place: the file.
        fields: not used: a tar has none.
        start: the number of the first record that is given.
        groups: not used.

    Raises:
        Damaged: the file ends too early, or is no tar.
        StorageError: it cannot be opened.
    """
    number = 0
    with place.open() as file:
        try:
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for member in tar:
                    # tarfile keeps every member that it has met: of a million, half a gigabyte.
                    tar.members.clear()  # type: ignore[attr-defined]
                    if not (member.isfile() and _is_picture(member.name)):
                        continue
                    if number < start:
                        number += 1
                        continue
                    if member.size > MOST_BYTES:
                        number += 1
                        yield Record(
                            text_of(member.name),
                            ItemError(f"the file has {member.size} bytes, above the bound of {MOST_BYTES}"),
                        )
                        continue
                    content = tar.extractfile(member)
                    image = content.read() if content is not None else b""
                    number += 1
                    error = ItemError("the file is empty")
                    yield Record(text_of(member.name), image if image else error, file.tell())
        # What follows damaged bytes is found by zlib, by the header, or by the end of the file.
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            what = f"is damaged behind image {number}" if number else "is no tar file, or is damaged"
            raise Damaged(f"{place} {what}: {error}") from error


def _is_picture(name: str) -> bool:
    base = name.rpartition("/")[2].lower()
    suffix = os.path.splitext(base)[1]
    # Names that begin with a dot hold what macOS writes beside each file.
    return not base.startswith(".") and (suffix in PICTURE_SUFFIXES or suffix == ARRAY_SUFFIX)
