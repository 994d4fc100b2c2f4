"""Names of classes from a file: the one reader of both command lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

MAX_BYTES = 16 << 20
"""Of a file of class names."""

_FORMS = (
    "a labels file is UTF-8: one name a line, or 0 name, 1 name, …, a JSON list of names, "
    'or a JSON object {"0": "name", …}, {"0": ["n01440764", "name"], …} or {"name": 0, …}'
)
_LINE_BREAK = re.compile(r"\r\n|\n|\r")
"""What ends a line; U+2028 and its like are characters of a name."""
_JSON_BEGINS = re.compile(r"""\s*(\[\s*(["\[\]]|\Z)|\{\s*(["}]|\Z))""")
"""How a list or an object of names begins. A first line such as [background] is a name."""

_INDEX = re.compile(r"[0-9]{1,9}", re.ASCII)
"""A class index as a key of JSON."""
_NUMBERED = re.compile(r"(0|[1-9][0-9]{0,8})\s+(\S.*)", re.ASCII)
"""A line as Teachable Machine writes it: the class index, and the name."""
_SHOWN = 40
"""How many characters of a key an error shows."""


class ErrorType(Protocol):
    """A type of errors with a hint."""

    def __call__(self, message: str, *, hint: str | None = None) -> Exception: ...


def read_class_names(path: Path, classes: int | None = None, *, error: ErrorType) -> tuple[str, ...]:
    """Read one name for each class, in class order.

    Args:
        path: a UTF-8 file: one name a line, with or without the class index before every name (``0 Cat``, as
            Teachable Machine writes it), a JSON list of names or of ``[WordNet id, name]``, a JSON object
            from class index to either of them (as ImageNet's names are commonly given), or one from name to
            class index (Keras's ``class_indices``). Blank lines at the end do not count.
        classes: how many classes the model has, if that is known yet.
        error: what to raise.

    Raises:
        error: the file is missing, unreadable, larger than 16 MiB, not UTF-8, not valid JSON, has an empty
            name, or not as many names as the model has classes.
    """
    try:
        names = _parsed(_read(path))
    except _Unusable as reason:
        raise error(f"labels file {path} {reason.args[0]}", hint=reason.hint) from reason.__cause__
    if classes is not None:
        check_count(path, names, classes, error=error)
    return names


def check_count(path: Path, names: tuple[str, ...], classes: int, *, error: ErrorType) -> None:
    """Refuse a file that has more or fewer names than the model has classes.

    Raises:
        error: it has.
    """
    if len(names) != classes:
        raise error(
            f"labels file {path} holds {len(names)} names; the model has {classes} classes",
            hint="remove the background class from the file: the model has none"
            if len(names) == classes + 1
            else "give one name for each class, in the order of the model's output",
        )


class _Unusable(Exception):
    def __init__(self, reason: str, *, hint: str | None = _FORMS) -> None:
        super().__init__(reason)
        self.hint = hint


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a pipe or a device has no size, and may have no end
    except OSError as error:
        raise _Unusable(f"cannot be read: {error.strerror}", hint=None) from error
    if len(content) > MAX_BYTES:
        raise _Unusable(f"has more bytes than the limit of {MAX_BYTES}", hint=None)
    try:
        # "utf-8-sig" drops the mark that some editors put first; it would become part of class 0's name.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unusable(f"is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error


def _parsed(text: str) -> tuple[str, ...]:
    data = _json(text)
    if data is None:
        lines = [line.strip() for line in _LINE_BREAK.split(text.rstrip())] if text.strip() else []
        names = _without_indices(lines)
    else:
        entries = _in_class_order(data) if isinstance(data, dict) else data
        names = [_name(index, entry) for index, entry in enumerate(entries)]
    if not names:
        raise _Unusable("is empty")
    if "" in names:
        raise _Unusable(f"has an empty name for class {names.index('')}")
    return tuple(names)


def _without_indices(lines: list[str]) -> list[str]:
    """The names of lines that begin with their class index, each of them; else the lines as they are."""
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    names = [line[2] for index, line in enumerate(numbered) if line is not None and line[1] == str(index)]
    return names if len(names) == len(lines) else lines


def _json(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or object that a text is; None for lines."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        data: list[Any] | dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:  # JSON's own, or a number of too many digits
        if _JSON_BEGINS.match(text) is None:
            return None
        raise _Unusable(f"is not valid JSON: {error}") from error
    return data


def _in_class_order(data: Mapping[str, Any]) -> list[Any]:
    indices = data.values()
    if all(type(value) is int for value in indices):
        if len(set(indices)) < len(data):
            raise _Unusable("gives two names to one class")
        by_index = {index: name for name, index in data.items()}
    else:
        for key in data:
            if _INDEX.fullmatch(key) is None:
                raise _Unusable(
                    f"has the key {_shortened(key)}; keys are class indices (0, 1, …), "
                    "or names whose values are all class indices"
                )
        by_index = {int(key): entry for key, entry in data.items()}
    missing = sorted(set(range(len(data))) - set(by_index))
    if missing:
        raise _Unusable(f"has no name for class {missing[0]}")
    return [by_index[index] for index in range(len(data))]


def _shortened(key: str) -> str:
    return repr(key if len(key) <= _SHOWN else key[:_SHOWN] + "…")


def _name(index: int, entry: Any) -> str:
    if isinstance(entry, list) and len(entry) == 2:
        entry = entry[1]
    if not isinstance(entry, str):
        raise _Unusable(f"has {entry!r} for class {index}, which is not a name")
    return entry.strip()
