"""What becomes of one image: read, asked about, drawn."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saliency_client._picture_room import ROOM
from saliency_client.cli import classes, pictures
from saliency_client.cli.connection import Connection
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.inputs import Input, read_photo
from saliency_client.cli.methods import method_signature
from saliency_client.cli.model_input import ModelInput, class_scores, model_input
from saliency_client.cli.parameters import check
from saliency_client.cli.printer import Printer
from saliency_client.cli.version import release
from saliency_client.images import DEFAULT_MAX_PIXELS, Photo, Resize

if TYPE_CHECKING:
    from saliency_client import Explanation, SaliencyClient, Signature

# Outputs of a number for an image that have a field of their own in a record.
_OWN_FIELDS = frozenset({"class_index", "probability", "score", "relative_error"})


@dataclass(frozen=True)
class ExplainOptions:
    """The options of the command, as typed."""

    images: tuple[str, ...]
    connection: Connection
    existing: Literal["refuse", "overwrite", "skip"]
    method: str
    class_name: str | None
    class_index: int | None
    top: int | None
    parameters: Mapping[str, Any]
    out: str | None
    formats: tuple[str, ...]
    styles: tuple[str, ...]
    colormap: str | None
    opacity: float | None
    clip: float
    signed: bool
    resize: Resize
    max_pixels: int | None
    recursive: bool
    labels: Path | None
    fail_fast: bool
    concurrency: int

    @property
    def looks(self) -> tuple[pictures.Look, ...]:
        """How pictures are drawn, one for each style."""
        return tuple(
            pictures.Look(style, self.colormap, self.opacity, self.clip, self.signed)
            for style in dict.fromkeys(self.styles)
        )


@dataclass(frozen=True)
class Result:
    """One explained class of one image: the record for JSON, and the bytes of its files."""

    record: Mapping[str, Any]
    contents: tuple[bytes, ...]


@dataclass
class Explainer:
    """Explains images one by one, from several threads; making it checks the options by the model."""

    options: ExplainOptions
    printer: Printer
    client: SaliencyClient
    class_names: classes.ClassNames | None
    formats: tuple[str, ...]
    model: ModelInput = field(init=False)
    signature: Signature = field(init=False)
    _class_index: int | None = field(init=False)

    def __post_init__(self) -> None:
        signatures = self.client.signatures()
        signature = method_signature(self.options.method, signatures)
        self.signature, self.model = signature, model_input(signature, signatures)
        check(self.options.parameters, signature, signatures)
        for look in self.options.looks:
            if look.draws_signed_map(self.formats) and signature.signed_map is None:
                raise UsageError(
                    f"method {self.options.method} gives no signed map, which --signed and the panel show; "
                    f"it gives {', '.join(signature.outputs)}",
                    hint="choose another --style, or another --method",
                )
        self._class_index = self._given_class()
        self.printer.detail(f"signature {signature.name} takes images {signature.inputs['images']}")

    @ROOM.kept()
    def explain(self, one: Input) -> list[Result]:
        """Read an image, explain the classes asked for, and draw them."""
        options = self.options
        photo = read_photo(
            one, self.model, resize=options.resize, max_pixels=options.max_pixels or DEFAULT_MAX_PIXELS
        )
        self.printer.detail(f"{one.shown}: {photo.picture.size} pixels, the model sees {photo.box}")
        classes = self._classes(photo)
        return [
            self._one(one, photo, class_index, rank if options.top else None)
            for rank, class_index in enumerate(classes, 1)
        ]

    def _one(self, one: Input, photo: Photo, class_index: int | None, rank: int | None) -> Result:
        options = self.options
        outputs = pictures.needed_outputs(options.looks, self.formats)
        started = time.perf_counter()
        explanation = self.client.explain(
            photo.array[None],
            method=options.method,
            class_index=class_index,
            outputs=outputs,
            **options.parameters,
        )
        milliseconds = (time.perf_counter() - started) * 1000
        facts = self._facts(explanation, rank)
        software = f"saliency-client {release()}"
        contents = tuple(
            pictures.encode(explanation, self.signature.signed_map, photo, look, format, facts, software)
            for look, formats in pictures.files_of(options.looks, self.formats)
            for format in formats
        )
        record = {"image": one.source, "status": "ok", **facts, "milliseconds": round(milliseconds, 3)}
        return Result({**record, "notes": list(photo.notes)}, contents)

    def _facts(self, explanation: Explanation, rank: int | None) -> dict[str, Any]:
        outputs = explanation.outputs
        index = _first(outputs.get("class_index"))
        label = _first(outputs.get("label")) or None
        if label is None and index is not None and self.class_names and index < len(self.class_names):
            label = self.class_names[index]
        return {
            "method": explanation.method,
            "model": explanation.model,
            "version": explanation.version,
            "rank": rank,
            "class_index": index,
            "label": label,
            "probability": _first(outputs.get("probability")),
            "score": _first(outputs.get("score")),
            "relative_error": _first(outputs.get("relative_error")),
            "outputs": {
                name: _first(values)
                for name, values in sorted(outputs.items())
                if values.ndim == 1 and values.dtype.kind in "fiu" and name not in _OWN_FIELDS
            },
        }

    def _classes(self, photo: Photo) -> list[int | None]:
        """The classes to explain, None for the predicted one."""
        if self.options.top is not None:
            ranked = self._ranked(photo)
            if self.options.top > len(ranked):
                raise CommandError(f"--top is {self.options.top}, and the model has {len(ranked)} classes")
            return list(ranked[: self.options.top])
        return [self._class_index]

    def _given_class(self) -> int | None:
        name = self.options.class_name
        if self.options.class_index is not None or name is None:
            return self.options.class_index
        if name.isdecimal():
            return int(name)
        if not self.class_names:
            raise CommandError(
                "the served model has no class names",
                hint="give --class an index, or the names with --labels FILE",
            )
        return classes.find_class(name, self.class_names)

    def _ranked(self, photo: Photo) -> list[int]:
        scores, probabilities = class_scores(self.client.predict(photo.array[None]))
        order = np.argsort(-(scores if probabilities is None else probabilities), kind="stable")
        return [int(index) for index in order]


def _first(values: Any) -> Any:
    """The value for the one image, as Python's own type; None where it is unknown or not finite."""
    if values is None or len(values) == 0:
        return None
    value = values[0].item() if isinstance(values[0], np.generic) else values[0]
    return None if isinstance(value, float) and not math.isfinite(value) else value
