"""The files of an earlier `saliency-client explain`: its JSON lines, and the maps that they name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saliency_client._contract import FILE_ENTRIES, SIGNED_MAPS
from saliency_client._explanation import Explanation
from saliency_client.cli.errors import CommandError
from saliency_client.cli.marks import read_facts
from saliency_client.cli.text import printable
from saliency_client.images import Photo, array_picture, load_image

_HINT = "make them with: saliency-client explain … --format npz --json > maps.jsonl"
_ARRAYS = (".npz", ".npy")


@dataclass(frozen=True)
class Explained:
    """One explained photo.

    Attributes:
        image: its path, as it was typed.
        files: the arrays of each result, at most one for each class: an npz, or of each method an npy.
        records: the JSON line of each of the files.
    """

    image: str
    files: tuple[tuple[Path, Mapping[str, Any]], ...]


def read_lines(path: Path) -> list[Explained]:
    """The photos of the JSON lines of `saliency-client explain --json`, in order.

    Raises:
        CommandError: they cannot be read, or name no array.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}", hint=_HINT) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8: these are no JSON lines", hint=_HINT) from error
    found: dict[str, dict[Path, Mapping[str, Any]]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CommandError(f"{path}, line {number} is no JSON: {error}", hint=_HINT) from error
        if not isinstance(record, dict) or record.get("status") not in ("ok", "skipped"):
            continue
        image, files = record.get("image"), record.get("files")
        if not isinstance(image, str) or not isinstance(files, list):
            continue
        arrays = [Path(str(file)) for file in files if str(file).lower().endswith(_ARRAYS)]
        if not arrays:
            raise CommandError(
                f"{path}, line {number}: {printable(image)} has no file of its maps, npz or npy", hint=_HINT
            )
        # An npz holds all; an npy the map that was drawn.
        best = min(arrays, key=lambda one: one.suffix.lower() != ".npz")
        found.setdefault(image, {}).setdefault(_beside(path, best), record)
    if not found:
        raise CommandError(f"{path} tells of no explained photo", hint=_HINT)
    return [Explained(image, tuple(files.items())) for image, files in found.items()]


def _beside(lines: Path, file: Path) -> Path:
    """A file as it was named, from the folder where that was, or else from that of the lines."""
    if file.is_absolute() or file.exists():
        return file
    return lines.parent / file if (lines.parent / file).exists() else file


def load(one: Explained, lines: Path, max_pixels: int) -> tuple[Photo, list[list[Explanation]]]:
    """A photo, and of each of its explained classes the explanations, B = 1, by every method.

    Raises:
        CommandError: a file cannot be read, or is not of `explain`.
        ImageError: the photo cannot be read.
    """
    loaded = [_loaded(path, record) for path, record in one.files]
    height, width = loaded[0][0][0].saliency.shape[1:]
    resize = next((made for _, _, made in loaded if made), "crop")
    photo = _photo(str(_beside(lines, Path(one.image))), (height, width), resize, max_pixels)
    box = next((box for _, box, _ in loaded if box), None)
    if box is not None:
        photo = replace(photo, box=box)
    classes: dict[Any, list[Explanation]] = {}
    for explanations, _, _ in loaded:
        for explanation in explanations:
            index = explanation.outputs.get("class_index")
            classes.setdefault(None if index is None else int(index[0]), []).append(explanation)
    return photo, list(classes.values())


def _photo(image: str, size: tuple[int, int], resize: Any, max_pixels: int) -> Photo:
    if image.lower().endswith(".npy"):
        try:
            array = np.load(image, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CommandError(f"{printable(image)} cannot be read: {error}") from error
        picture = array_picture(array)
        return Photo(np.asarray(array), picture, (0, 0, *picture.size), image)
    return load_image(image, size, resize=resize, max_pixels=max_pixels)


def _loaded(
    path: Path, record: Mapping[str, Any]
) -> tuple[list[Explanation], tuple[int, int, int, int] | None, str | None]:
    """The explanations of a file, the box of its map, and how the photo was resized, as far as it says."""
    facts = read_facts(str(path)) or _facts_beside(record)
    drawn = facts.get("drawn") or {}
    known = {**facts, **{name: value for name, value in record.items() if value is not None}}
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return [_of_map(path, loaded, known)], None, drawn.get("resize")
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    # A damaged file meets NumPy with errors of zip, of the header and of memory.
    except Exception as error:
        if isinstance(error, CommandError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"{printable(str(path))} cannot be read: {reason}", hint=_HINT) from error
    box = arrays.get("box")
    explanations = [
        _explanation(path, method, outputs, known) for method, outputs in _by_method(arrays, known).items()
    ]
    whole = None if box is None or box.shape != (4,) else (int(box[0]), int(box[1]), int(box[2]), int(box[3]))
    return explanations, whole, drawn.get("resize")


def _facts_beside(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a picture beside an array says of itself: an array says nothing."""
    found = (read_facts(str(file)) for file in record.get("files", ()) if os.path.splitext(str(file))[1])
    return next((facts for facts in found if facts), {})


def _by_method(arrays: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Outputs by method; those of several methods are called `method/name`."""
    by_method: dict[str, dict[str, Any]] = {}
    for name, value in arrays.items():
        method, slash, output = name.rpartition("/")
        if output not in FILE_ENTRIES:
            by_method.setdefault(method if slash else str(known.get("method")), {})[output] = value
    return by_method


def _explanation(path: Path, method: str, arrays: Mapping[str, Any], known: Mapping[str, Any]) -> Explanation:
    saliency = arrays.get("saliency")
    if saliency is None or saliency.ndim != 2:
        raise CommandError(f"{printable(str(path))} holds no map `saliency` [H, W]", hint=_HINT)
    outputs = {
        name: np.asarray([str(value)], object) if value.dtype.kind == "U" else value[np.newaxis]
        for name, value in arrays.items()
    }
    return Explanation(outputs, method=method, model=str(known.get("model")), version=known.get("version"))


def _of_map(path: Path, values: Any, known: Mapping[str, Any]) -> Explanation:
    """What an npy and its record say together."""
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise CommandError(f"{printable(str(path))} holds no map [H, W]", hint=_HINT)
    one = values.astype(np.float32)
    outputs: dict[str, Any] = {"saliency": np.abs(one)[np.newaxis]}
    if (one < 0).any():
        outputs[SIGNED_MAPS[0]] = one[np.newaxis, ..., np.newaxis]
    numbers = {name: known.get(name) for name in ("class_index", "probability", "score", "relative_error")}
    for name, value in {**numbers, **(known.get("outputs") or {})}.items():
        if isinstance(value, (int, float)):
            outputs[name] = np.asarray([value])
    if known.get("label"):
        outputs["label"] = np.asarray([known["label"]], object)
    return Explanation(
        outputs, method=str(known.get("method")), model=str(known.get("model")), version=known.get("version")
    )


def made_with(one: Sequence[Explained]) -> Mapping[str, Any]:
    """What the first file was made with, as `explainer.made_with` has it; empty where it does not say."""
    for explained in one[:1]:
        for path, record in explained.files:
            facts = read_facts(str(path)) or _facts_beside(record)
            if facts:
                return facts
    return {}
