"""Names of classes: from a file, from an exported model on this disk, or asked of the server."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from saliency_client.cli.errors import CommandError
from saliency_client.cli.text import printable

if TYPE_CHECKING:
    from saliency_client import SaliencyClient

Labels = tuple[str, ...]


def read_labels(path: Path) -> Labels:
    """Class names from a file: a JSON list, or one name a line.

    Raises:
        CommandError: it cannot be read or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"labels {printable(str(path))} cannot be read: {error}") from error
    if not text.lstrip().startswith(("[", "{")):
        return tuple(line.strip() for line in text.splitlines())
    try:
        names = json.loads(text)
    except ValueError as error:
        raise CommandError(f"labels {printable(str(path))} is not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CommandError(
            f"labels {printable(str(path))} is not a list of names", hint="a JSON list, or one name a line"
        )
    return tuple(names)


def local_labels(version_dir: Path) -> Labels | None:
    """Class names from the manifest of an exported version, if it has any."""
    try:
        manifest = json.loads((version_dir / "assets.extra" / "saliency.json").read_text(encoding="utf-8"))
        labels = manifest.get("labels")
    except (OSError, ValueError, AttributeError):
        return None
    return tuple(map(str, labels)) if isinstance(labels, list) else None


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
    near = difflib.get_close_matches(name.casefold(), [label.casefold() for label in labels], n=3, cutoff=0.5)
    raise CommandError(
        f"no class is named {printable(name)!r}",
        hint=f"near ones: {', '.join(near)}" if near else "give its index instead",
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


def served_labels(
    client: SaliencyClient, image: npt.NDArray[Any], classes: Sequence[int]
) -> list[str] | None:
    """The names that a served model gives to classes, or None if it has none.

    A server tells a class's name with its explanation only, so that this costs one gradient for each class.
    The usual outputs are asked for, though all but the name are dropped: another list of outputs would make
    the server compile its graph once more.

    Args:
        client: connected to the model.
        image: [H, W, C], any model input.
        classes: their indices.
    """
    signatures = client.signatures()
    named = [
        signature.method
        for signature in signatures.values()
        if signature.method and "label" in signature.outputs
    ]
    if not named:
        return None
    method = "gradients" if "gradients" in named else named[0]
    images = np.broadcast_to(image, (len(classes), *image.shape))
    parameters: dict[str, Any] = {"num_samples": 1} if method == "smooth" else {}
    explanation = client.explain(
        images, method=method, class_index=np.asarray(classes, np.int32), **parameters
    )
    return None if explanation.label is None else [str(label) for label in explanation.label]
