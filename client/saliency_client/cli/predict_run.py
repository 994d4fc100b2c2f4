"""What `saliency-client predict` does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from saliency_client._signatures import predictions_signature
from saliency_client.cli import labels as names
from saliency_client.cli import show
from saliency_client.cli.batch import batch_exit_code, in_order, tell_failure
from saliency_client.cli.connection import Connection, connect
from saliency_client.cli.errors import CommandError
from saliency_client.cli.inputs import Input, find_inputs, read_photo
from saliency_client.cli.model_input import ModelInput, class_scores, model_input
from saliency_client.cli.output import Output
from saliency_client.cli.photos import allow_pixels
from saliency_client.images import DEFAULT_MAX_PIXELS, Resize

if TYPE_CHECKING:
    from saliency_client import SaliencyClient

_BAR_CELLS = 24


@dataclass(frozen=True)
class Request:
    """The options of the command, as typed."""

    images: tuple[str, ...]
    connection: Connection
    top: int
    resize: Resize
    max_pixels: int | None
    recursive: bool
    labels: Path | None
    fail_fast: bool
    concurrency: int


def run(request: Request, output: Output) -> int:
    """Predict all images; returns the exit code."""
    inputs = find_inputs(request.images, recursive=request.recursive)
    errors: list[Exception] = []
    with connect(request.connection) as client, allow_pixels(request.max_pixels):
        signatures = client.signatures()
        name = predictions_signature(signatures)
        if name not in signatures:
            offered = ", ".join(signatures) or "none"
            raise CommandError(f"the model has no signature {name}; it has {offered}")
        model = model_input(signatures[name])
        class_names = names.class_names(request.labels, client)

        def predict_one(one: Input) -> dict[str, Any]:
            return _predict(one, request, client, model, class_names)

        with output.progress(len(inputs), "predicting") as advance:
            for one, future in in_order(predict_one, inputs, workers=request.concurrency):
                try:
                    record = future.result()
                except Exception as error:
                    errors.append(error)
                    tell_failure(one, error, output, alone=len(inputs) == 1)
                    if request.fail_fast:
                        break
                else:
                    _tell(one, record, output, alone=len(inputs) == 1)
                advance()
    return batch_exit_code(errors, len(inputs))


def _predict(
    one: Input,
    request: Request,
    client: SaliencyClient,
    model: ModelInput,
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """The record of one image."""
    photo = read_photo(one, model, resize=request.resize, max_pixels=request.max_pixels or DEFAULT_MAX_PIXELS)
    started = time.perf_counter()
    outputs = client.predict(photo.array[None])
    milliseconds = (time.perf_counter() - started) * 1000
    scores, probabilities = class_scores(outputs)
    order = np.argsort(-(scores if probabilities is None else probabilities), kind="stable")
    classes = [int(index) for index in order[: request.top]]
    known = class_names or ()
    predictions = [
        {
            "rank": rank,
            "class_index": index,
            "label": known[index] if index < len(known) else None,
            "probability": None if probabilities is None else float(probabilities[index]),
            "score": float(scores[index]),
        }
        for rank, index in enumerate(classes, 1)
    ]
    return {
        "image": one.source,
        "status": "ok",
        "model": request.connection.model or "local",
        "predictions": predictions,
        "milliseconds": round(milliseconds, 3),
        "notes": list(photo.notes),
    }


def _tell(one: Input, record: Mapping[str, Any], output: Output, *, alone: bool) -> None:
    best = record["predictions"][0]
    bare = f"{best['label'] or best['class_index']}"
    output.result(
        record,
        lambda: _table(record, None if alone else one.shown, output),
        [bare if alone else f"{one.source}\t{bare}"],
    )
    for note in record["notes"]:
        output.note(f"note: {one.shown}: {note}")


def _table(record: Mapping[str, Any], title: str | None, output: Output) -> Table:
    table = Table(
        box=None, title=title, title_justify="left", title_style="", pad_edge=False, show_header=False
    )
    table.add_column(justify="right", style="dim")
    table.add_column(style="bold", overflow="fold")
    table.add_column(justify="right", style="green")
    table.add_column(style="green", no_wrap=True)
    for one in record["predictions"]:
        value = show.percent(one["probability"]) or f"{one['score']:.3g}"
        bar = show.bar(one["probability"], _BAR_CELLS, output.console.encoding)
        table.add_row(str(one["rank"]), show.class_name(one, with_index=True), value, bar)
    return table
