"""What files say of photos: the classes that they are of, and what was measured of their maps."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from saliency_client.cli.classes import ClassNames, matching
from saliency_client.cli.errors import CommandError
from saliency_client.cli.text import printable

FactT = TypeVar("FactT")

MAX_BYTES = 256 << 20
"""Of a file that is read as a whole."""
_TRUTH_FORMS = (
    "a truth file is UTF-8: a line for each photo, as cat.jpg,282 or cat.jpg,tabby or the same with a tab, "
    'or a JSON object {"cat.jpg": "tabby"}'
)
_HEADS = frozenset({"image", "file", "filename", "file_name", "name", "path", "photo", "picture", "id"})


def read_truth(path: Path) -> dict[str, str]:
    """The class of each photo, by name or index, by the photo's name.

    Raises:
        CommandError: the file cannot be read, or does not say that.
    """
    text = _text(path, "truth file", hint=_TRUTH_FORMS).lstrip("\ufeff")
    if text.lstrip().startswith("{"):
        return _truth_of_json(path, text)
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        name, label = _photo_and_label(line)
        if not label:
            if name.casefold() in _HEADS:
                continue
            raise CommandError(
                f"truth file {path}, line {number} is {_cut(line)!r}: it has no label", hint=_TRUTH_FORMS
            )
        if number == 1 and name.casefold() in _HEADS:
            continue
        if found.setdefault(name, label) != label:
            raise CommandError(
                f"truth file {path}, line {number} says that {_cut(name)} is {_cut(label)!r}, and a line "
                f"before it says {_cut(found[name])!r}",
                hint="keep one line for each photo",
            )
    if not found:
        raise CommandError(f"truth file {path} has no line", hint=_TRUTH_FORMS)
    return found


def _photo_and_label(line: str) -> tuple[str, str]:
    if "\t" in line:
        name, _, label = line.partition("\t")
        return name.strip(), label.strip()
    # A class may have commas in its name: "tabby, tabby cat".
    name, *rest = next(csv.reader(io.StringIO(line), skipinitialspace=True), [""])
    return name.strip(), ", ".join(rest).strip()


def _truth_of_json(path: Path, text: str) -> dict[str, str]:
    try:
        known = json.loads(text)
    except ValueError as error:
        raise CommandError(f"truth file {path} is no JSON: {error}", hint=_TRUTH_FORMS) from error
    for name, label in known.items():
        if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
            raise CommandError(
                f"truth file {path} says of {_cut(name)} {_cut(json.dumps(label))}, which is no class",
                hint=_TRUTH_FORMS,
            )
    if not known:
        raise CommandError(f"truth file {path} names no photo", hint=_TRUTH_FORMS)
    return {name: str(label) for name, label in known.items()}


def check_classes(
    path: Path, truth: Mapping[str, str], names: ClassNames | None, classes: int | None
) -> None:
    """Hold the classes of a truth file against those of the model, as far as they are known.

    Raises:
        CommandError: the model has no such class.
    """
    for name, label in truth.items():
        if names and matching(label, names):
            continue
        if label.isdecimal() and (classes is None or int(label) < classes):
            continue
        if not label.isdecimal() and not names:
            continue
        count = f" of {classes}" if classes else ""
        raise CommandError(
            f"truth file {path} says that {_cut(name)} is {_cut(label)!r}, and the model has no such "
            f"class{count}",
            hint="classes are counted from 0, or called as `saliency-client predict` calls them",
        )


def read_evaluation(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """The results of `saliency-client evaluate`, by image: its `--json` lines, or the folder of its `-o`.

    Raises:
        CommandError: the file cannot be read, or has no result.
    """
    hint = "give the folder of `saliency-client evaluate … -o FOLDER`, or the lines of its --json"
    path = path / "results.jsonl" if path.is_dir() else path
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in _text(path, "evaluation", hint=hint).split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            # A run that was ended may have written half a line.
            continue
        if not isinstance(record, dict) or record.get("kind") != "result":
            continue
        if isinstance(record.get("value"), (int, float)) and not isinstance(record["value"], bool):
            found.setdefault(str(record.get("image")), []).append(record)
    if not found:
        raise CommandError(f"evaluation {path} has no result of an image", hint=hint)
    return found


def evaluated(results: Sequence[Mapping[str, Any]], method: str, class_index: int | None) -> dict[str, float]:
    """What was measured of one method's map of one class, by measure."""
    return {
        str(one.get("measure")): float(one["value"])
        for one in results
        if one.get("method") == method and one.get("class_index") in (None, class_index)
    }


def of_photos(
    path: Path, facts: Mapping[str, FactT], photos: Sequence[tuple[str, str]], *, what: str
) -> dict[str, FactT]:
    """Which fact is about which photo.

    Args:
        path: of the file, for messages.
        facts: by the name that the file has for the photo.
        photos: path as typed, and the name that is shown, of each.
        what: the file is called, for messages.

    Returns:
        By path as typed. A photo that the file does not name has none.

    Raises:
        CommandError: it names none of the photos, or a name fits several.
    """
    named = Counter(os.path.basename(source) for source, _ in photos)
    by_base: dict[str, list[str]] = {}
    for name in facts:
        by_base.setdefault(os.path.basename(name), []).append(name)
    found: dict[str, FactT] = {}
    for source, shown in photos:
        base = os.path.basename(source)
        exact = next((name for name in (source, os.path.normpath(source), shown) if name in facts), None)
        if exact is None and base in by_base:
            if named[base] > 1 or len(by_base[base]) > 1:
                many = f"{named[base]} photos" if named[base] > 1 else f"{len(by_base[base])} of its lines"
                raise CommandError(
                    f"{what} {path} names {printable(by_base[base][0])}, and {many} are called {_cut(base)}",
                    hint=f"name photos as they are typed, as {printable(source)}",
                )
            exact = by_base[base][0]
        if exact is not None:
            found[source] = facts[exact]
    if not found and photos:
        raise CommandError(
            f"{what} {path} names none of the photos; it names {_cut(next(iter(facts)))}",
            hint=f"name photos as they are typed, as {printable(photos[0][0])}, or without their folder",
        )
    return found


def _text(path: Path, what: str, *, hint: str) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CommandError(f"{what} {path} has more than {MAX_BYTES >> 20} MiB", hint=hint)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{what} {path} cannot be read: {error.strerror or error}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{what} {path} is not UTF-8", hint=hint) from error


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
