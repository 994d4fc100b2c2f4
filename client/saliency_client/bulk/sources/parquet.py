"""Images in a column of a Parquet file, some row groups at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from saliency_client._errors import ItemError, OptionError
from saliency_client.bulk.arrow import parquet
from saliency_client.bulk.sources.records import Damaged, Fields, Record, chosen, usual
from saliency_client.bulk.storage import Place

_IMAGES = (
    "image",
    "bytes",
    "content",
    "image/encoded",
    "image_bytes",
    "img",
    "jpg",
    "jpeg",
    "png",
    "picture",
)
_KEYS = ("key", "__key__", "path", "id", "file_name", "filename", "image_id", "name", "url")
_ROWS_AT_A_TIME = 32


def row_groups(place: Place, fields: Fields) -> list[int]:
    """How many rows each row group has, from the file's end.

    Raises:
        StorageError: the file cannot be read.
        Damaged: it is no Parquet.
        Unnamed: no column is called as columns of images mostly are, and none is named.
        OptionError: the column of images or of keys is not there, or holds something else.
    """
    with place.open() as file, _opened(place, file) as opened:
        _columns(place, opened.schema_arrow, fields)
        return [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]


def records(
    place: Place, fields: Fields, start: int = 0, groups: tuple[int, int] | None = None
) -> Iterator[Record]:
    """The image and the key of each row.

    Each row of a row group that cannot be read has an error. A column of images holds encoded bytes, or
    structs of `bytes` and `path`, as Hugging Face's datasets do.

    Args:
        place: the file.
        fields: names of the columns.
        start: the number of the first row that is given, counted from the first of `groups`.
        groups: the first row group, and the one behind the last; None: all.

    Raises:
        OptionError: no column holds images.
        Damaged: the file is no Parquet.
        StorageError: it cannot be opened.
    """
    with place.open() as file, _opened(place, file) as opened:
        image, key = _columns(place, opened.schema_arrow, fields)
        some = list(range(*(groups or (0, opened.num_row_groups))))
        while some and (size := opened.metadata.row_group(some[0]).num_rows) <= start:
            start -= size
            some.pop(0)
        for group in some:
            given = 0
            try:
                for one in _of_group(opened, group, image, key):
                    given += 1
                    if given > start:
                        yield one
            # pyarrow's errors of damaged files are OSError and ValueError (ArrowInvalid).
            except (OSError, ValueError) as error:
                words = " ".join(str(error).split()).rstrip(".")
                lost = opened.metadata.row_group(group).num_rows
                for _ in range(max(given, start), lost):
                    yield Record(None, ItemError(f"row group {group} of {place} is damaged: {words}"))
            start = 0


def _columns(place: Place, schema: Any, fields: Fields) -> tuple[str, str | None]:
    """The column of images, and that of keys if there is one."""
    names = list(schema.names)
    try:
        image = chosen(names, _IMAGES, fields.image, "column", option="--image-column")
        key = chosen(names, (), fields.key, "column", option="--key-column") if fields.key else None
    except OptionError as error:
        raise type(error)(f"{place}: {error}", hint=error.hint) from error
    _check_type(place, schema.field(image))
    return image, key or usual([name for name in names if name != image], _KEYS)


def _of_group(opened: Any, group: int, image: str, key: str | None) -> Iterator[Record]:
    columns = [image] if key is None else [image, key]
    for batch in opened.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=columns):
        keys = batch.column(key) if key is not None else None
        for index, value in enumerate(batch.column(image)):
            yield _record(value.as_py(), None if keys is None else keys[index].as_py(), image)


def _check_type(place: Place, column: Any) -> None:
    """Raise OptionError unless a column may hold the bytes of images."""
    import pyarrow

    kind, types = column.type, pyarrow.types
    structs = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    inner = kind.field("bytes").type if structs else kind
    if types.is_dictionary(inner):
        inner = inner.value_type
    of_bytes = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    if not (types.is_null(inner) or any(is_one(inner) for is_one in of_bytes)):
        text = types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)
        paths = "; paths of images are taken by --list, one on each line" if text else ""
        raise OptionError(
            f"{place}: column {column.name!r} holds {kind}, not the bytes of images",
            hint=f"--image-column names another{paths}",
        )


def _record(value: Any, key: Any, column: str) -> Record:
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
        key = path if key is None else key
    name = None if key is None else key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
    if value:
        return Record(name, value)
    what = "nothing" if path is None else f"the path {path!r} alone"
    return Record(name, ItemError(f"column {column!r} holds {what}, not the bytes of an image"))


def _opened(place: Place, file: Any) -> Any:
    try:
        return parquet().ParquetFile(file)
    except (OSError, ValueError) as error:
        raise Damaged(f"{place} is no Parquet file that can be read: {error}") from error
