"""Class names from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saliency_exporter.errors import ExportError

MAX_BYTES = 16 * 2**20
_FORMS = (
    "a labels file is UTF-8: one name a line, a JSON list of names, "
    'or a JSON object {"0": "name", …}, {"0": ["n01440764", "name"], …} or {"name": 0, …}'
)


def read_labels(path: str | Path, classes: int | None = None) -> tuple[str, ...]:
    """Read one name per class, in class order.

    Args:
        path: a UTF-8 file: one name a line, a JSON list, a JSON object from class index to name
            or to ``[WordNet id, name]`` (as ImageNet's names are commonly given), or one from name
            to class index (Keras's ``class_indices``).
        classes: how many classes the model has, if that is known yet.

    Raises:
        ExportError: the file is missing, unreadable, larger than 16 MiB, not UTF-8, not valid JSON,
            has an empty name, or not as many names as the model has classes.
    """
    text = _read(Path(path))
    names = _from_json(path, text) if text.lstrip()[:1] in ("[", "{") else _from_lines(text)
    if not names:
        raise ExportError(f"labels file {path} is empty", hint=_FORMS)
    for index, name in enumerate(names):
        if not name:
            raise ExportError(f"labels file {path} has an empty name for class {index}", hint=_FORMS)
    if classes is not None and len(names) != classes:
        raise ExportError(
            f"labels file {path} holds {len(names)} names; the model has {classes} classes",
            hint="remove the background class from the file: the model has none"
            if len(names) == classes + 1
            else None,
        )
    return tuple(names)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device has no size, and may have no end
        if len(content) > MAX_BYTES:
            raise ExportError(f"labels file {path} has more bytes than the limit of {MAX_BYTES}")
        # "utf-8-sig" drops the mark that some editors put first; it would become part of class 0's name.
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ExportError(f"labels file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ExportError(
            f"labels file {path} is not UTF-8 (byte {error.start})", hint="save it as UTF-8"
        ) from error


def _from_lines(text: str) -> list[str]:
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def _from_json(path: str | Path, text: str) -> list[str]:
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ExportError(f"labels file {path} is not valid JSON: {error}", hint=_FORMS) from error
    entries = _in_class_order(path, data) if isinstance(data, dict) else data
    return [_name(path, index, entry) for index, entry in enumerate(entries)]


def _in_class_order(path: str | Path, data: dict[Any, Any]) -> list[Any]:
    if all(type(value) is int for value in data.values()):
        data = {index: name for name, index in data.items()}
    try:
        by_index = {int(key): entry for key, entry in data.items()}
    except ValueError as error:
        raise ExportError(
            f"labels file {path} has keys that are not class indices: {error}", hint=_FORMS
        ) from error
    missing = sorted(set(range(len(data))) - set(by_index))
    if missing:
        raise ExportError(f"labels file {path} has no name for class {missing[0]}", hint=_FORMS)
    return [by_index[index] for index in range(len(data))]


def _name(path: str | Path, index: int, entry: Any) -> str:
    if isinstance(entry, list) and len(entry) == 2:
        entry = entry[1]
    if not isinstance(entry, str):
        raise ExportError(f"labels file {path}: class {index} is {entry!r}, not a name", hint=_FORMS)
    return entry.strip()
