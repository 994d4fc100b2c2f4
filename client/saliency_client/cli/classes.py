"""Names of classes: from a file, or asked of the server."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saliency_client._class_names import check_count, read_class_names
from saliency_client._signatures import number_of_classes
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.text import printable

if TYPE_CHECKING:
    from saliency_client import SaliencyClient

ClassNames = tuple[str, ...]
PREDICTED = -1
"""The index that stands for the predicted class."""

_FEW = 20
_NEAR = 5


def names_of_file(path: Path | None) -> ClassNames | None:
    """The names of a file; None where there is no file.

    Raises:
        CommandError: it cannot be read, or does not name classes.
    """
    return None if path is None else read_class_names(path, error=CommandError)


def class_names(path: Path | None, names: ClassNames | None, client: SaliencyClient) -> ClassNames | None:
    """The names of all classes: those that a file gave, else the model's own; None where it has none.

    Raises:
        CommandError: the file has more or fewer names than the model has classes.
    """
    if path is None or names is None:
        return client.labels()
    classes = number_of_classes(client.signatures())
    if classes is not None:
        check_count(path, names, classes, error=CommandError)
    return names


def given_index(name: str | None, *, option: str = "--class") -> int | None:
    """The index that stands in the place of a class's name: -1 is the predicted class; None for a name.

    Raises:
        UsageError: no class has such an index.
    """
    if name is None or not re.fullmatch(r"[+-]?[0-9]{1,9}", name.strip()):
        return None
    index = int(name)
    if index < PREDICTED:
        raise UsageError(
            f"{option} is {index}; an index is 0 or above",
            hint=f"{option} {PREDICTED} is the predicted class, as without {option}",
        )
    return index


def _other_classes(near: list[str], labels: ClassNames, otherwise: str) -> str:
    if near:
        return f"near ones: {', '.join(map(printable, near))}"
    if len(labels) <= _FEW:
        return f"the model has {', '.join(map(printable, labels))}"
    return otherwise


def find_class(
    name: str,
    labels: ClassNames,
    *,
    by_index: str = "give the index, as --class {}",
    otherwise: str = "give its index, or other names with --labels FILE",
) -> int:
    """The index of a class name; letter case does not matter, nor which of its synonyms is given.

    Args:
        name: what was typed.
        labels: the names of all classes.
        by_index: the next step where several classes have that name, with `{}` for the index of one.
        otherwise: the next step where no class has a name like that.

    Raises:
        UsageError: no class, or more than one, has that name.
    """
    matches = matching(name, labels)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(
            f"{printable(name)!r} is the name of classes {', '.join(map(str, matches))}",
            hint=by_index.format(matches[0]),
        )
    wanted = name.strip().casefold()
    near = [label for label in labels if wanted in re.findall(r"\w+", label.casefold())][:_NEAR]
    near = near or difflib.get_close_matches(wanted, [label.casefold() for label in labels], n=3, cutoff=0.5)
    raise UsageError(
        f"no class is named {printable(name)!r}",
        hint=_other_classes(near, labels, otherwise),
    )


def matching(name: str, labels: Sequence[str]) -> list[int]:
    """The positions of the labels that are a name, as a whole or as one of their comma-separated synonyms."""
    wanted = name.strip().casefold()
    whole = [index for index, label in enumerate(labels) if label.strip().casefold() == wanted]
    if whole:
        return whole
    return [
        index
        for index, label in enumerate(labels)
        if wanted in [synonym.strip().casefold() for synonym in label.split(",")]
    ]
