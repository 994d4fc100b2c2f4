"""What `saliency-client predict` does."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from saliency_client.cli import classes, show
from saliency_client.cli.batch import Failures, batch_exit_code, in_order, tell_left_out, without_missing
from saliency_client.cli.connection import Connection, check_given, connect
from saliency_client.cli.inputs import Input, find_inputs, for_model, has_found_arrays, read_photo
from saliency_client.cli.model_input import ModelInput, class_scores, model_input, signature_of_predictions
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.printer import Printer
from saliency_client.images import DEFAULT_MAX_PIXELS, Resize

if TYPE_CHECKING:
    from saliency_client import SaliencyClient

_BAR_CELLS = 24


@dataclass(frozen=True)
class PredictOptions:
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


def run(options: PredictOptions, printer: Printer) -> int:
    """Predict all images; returns the exit code."""
    check_given(options.connection)
    found = find_inputs(options.images, recursive=options.recursive)
    names = classes.names_of_file(options.labels)
    with ExitStack() as stack:
        connected = functools.cache(lambda: stack.enter_context(connect(options.connection)))
        inputs = found.inputs
        if has_found_arrays(inputs):
            inputs = for_model(inputs, _model(connected()), found.left_out)
        total = len(inputs) + len(found.left_out.errors)
        failures = Failures(printer, alone=total == 1)
        tell_left_out(found.left_out, failures)
        there = without_missing(inputs, lambda one: one, failures)
        if not there or (failures.errors and options.fail_fast):
            return batch_exit_code(failures.errors, total)
        stack.enter_context(allow_pixels(options.max_pixels))
        _work_off(there, options, connected(), names, failures)
    return batch_exit_code(failures.errors, total)


def _model(client: SaliencyClient) -> ModelInput:
    return model_input(signature_of_predictions(client.signatures()))


def _work_off(
    there: Sequence[Input],
    options: PredictOptions,
    client: SaliencyClient,
    names: tuple[str, ...] | None,
    failures: Failures,
) -> None:
    model = _model(client)
    class_names = classes.class_names(options.labels, names, client)

    def predict_one(one: Input) -> dict[str, Any]:
        return _predict(one, options, client, model, class_names)

    with failures.printer.progress(len(there), "predicting") as advance:
        for one, future in in_order(predict_one, there, workers=options.concurrency):
            succeeded = False
            try:
                record = future.result()
            except Exception as error:
                failures.add(one, error)
                if options.fail_fast:
                    break
            else:
                succeeded = True
                _tell(one, record, failures.printer, alone=failures.alone)
            advance()
            if failures.end_request(succeeded=succeeded):
                break
    failures.tell()


def _predict(
    one: Input,
    options: PredictOptions,
    client: SaliencyClient,
    model: ModelInput,
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """The record of one image."""
    bound = options.max_pixels or DEFAULT_MAX_PIXELS
    photo = read_photo(one, model, resize=options.resize, max_pixels=bound, draft=True)
    started = time.perf_counter()
    outputs = client.predict(photo.array[None])
    milliseconds = (time.perf_counter() - started) * 1000
    scores, probabilities = class_scores(outputs)
    order = np.argsort(-(scores if probabilities is None else probabilities), kind="stable")
    classes = [int(index) for index in order[: options.top]]
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
        "model": client.model,
        "predictions": predictions,
        "milliseconds": round(milliseconds, 3),
        "notes": list(photo.notes),
    }


def _tell(one: Input, record: Mapping[str, Any], printer: Printer, *, alone: bool) -> None:
    best = record["predictions"][0]
    bare = f"{best['label'] or best['class_index']}"
    printer.result(
        record,
        lambda: _table(record, None if alone else one.shown, printer),
        [bare if alone else f"{one.source}\t{bare}"],
    )
    for note in record["notes"]:
        printer.note(f"note: {one.shown}: {note}")


def _table(record: Mapping[str, Any], title: str | None, printer: Printer) -> Table:
    table = Table(
        box=None, title=title, title_justify="left", title_style="", pad_edge=False, show_header=False
    )
    table.add_column(justify="right", style="dim")
    table.add_column(style="bold", overflow="fold")
    table.add_column(justify="right", style="green")
    table.add_column(style="green", no_wrap=True)
    for one in record["predictions"]:
        value = show.percent(one["probability"]) or f"{one['score']:.3g}"
        bar = show.bar(one["probability"], _BAR_CELLS, printer.console.encoding)
        table.add_row(str(one["rank"]), show.class_name(one, with_index=True), value, bar)
    return table
