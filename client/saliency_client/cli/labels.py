"""Names of classes: from a file, or asked of the server."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saliency_client._signatures import number_of_classes
from saliency_client.cli.errors import CommandError
from saliency_client.cli.text import printable

if TYPE_CHECKING:
    from saliency_client import SaliencyClient

Labels = tuple[str, ...]

MAX_BYTES = 16 << 20
"""Of a file of class names."""
_FEW = 20
_NEAR = 5


def class_names(path: Path | None, client: SaliencyClient) -> Labels | None:
    """The names of all classes: those of a file, else the model's own; None where it has none.

    Raises:
        CommandError: the file cannot be read, is no list of names, or has more or fewer than the model has
            classes.
    """
    if path is None:
        return client.labels()
    labels = read_labels(path)
    classes = number_of_classes(client.signatures())
    if classes is not None and len(labels) != classes:
        raise CommandError(
            f"labels {printable(str(path))} has {len(labels)} names, and the model has {classes} classes",
            hint="remove the background class from the file: the model has none"
            if len(labels) == classes + 1
            else "one name for each class, in the order of the model's output",
        )
    return labels


def read_labels(path: Path) -> Labels:
    """Class names from a file: a JSON list, or one name a line.

    Raises:
        CommandError: it cannot be read or is neither.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # not stat: the file may be a pipe or a device
        if len(content) > MAX_BYTES:
            raise CommandError(f"labels {printable(str(path))} has more than {MAX_BYTES} bytes")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"labels {printable(str(path))} cannot be read: {error}") from error
    if not text.lstrip().startswith(("[", "{")):
        return tuple(line.strip() for line in text.rstrip().splitlines())
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"labels {printable(str(path))} is not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CommandError(
            f"labels {printable(str(path))} is not a list of names", hint="a JSON list, or one name a line"
        )
    return tuple(names)


def _other_classes(near: list[str], labels: Labels) -> str:
    if near:
        return f"near ones: {', '.join(map(printable, near))}"
    if len(labels) <= _FEW:
        return f"the model has {', '.join(map(printable, labels))}"
    return "give its index, or other names with --labels FILE"


def find_class(name: str, labels: Labels) -> int:
    """The index of a class name; letter case does not matter, nor which of its synonyms is given.

    Raises:
        CommandError: no class, or more than one, has that name.
    """
    matches = matching(name, labels)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise CommandError(
            f"{printable(name)!r} is the name of classes {', '.join(map(str, matches))}",
            hint=f"give the index, as --class {matches[0]}",
        )
    wanted = name.strip().casefold()
    near = [label for label in labels if wanted in re.findall(r"\w+", label.casefold())][:_NEAR]
    near = near or difflib.get_close_matches(wanted, [label.casefold() for label in labels], n=3, cutoff=0.5)
    raise CommandError(
        f"no class is named {printable(name)!r}",
        hint=_other_classes(near, labels),
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
