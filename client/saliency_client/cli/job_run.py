"""What `saliency-client job` does: run the job, show how far it is, tell what it came to."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saliency_client._contract import TARGET_ERROR
from saliency_client.cli.classes import find_class
from saliency_client.cli.connection import Connection, check_given, client_options
from saliency_client.cli.destinations import check_home
from saliency_client.cli.ending import ended_by_signals
from saliency_client.cli.errors import FAILURE, USAGE, CommandError, UsageError
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.printer import Printer
from saliency_client.cli.text import printable
from saliency_client.images import Resize

if TYPE_CHECKING:
    from saliency_client.bulk import Job, MapFormat, Progress, Summary
    from saliency_client.bulk.sources.records import Kind

STOPPED = 3
"""The exit code of a job that a file or a version stopped."""
_MOST_DECODERS = 8
_TOLD_SECONDS = 60.0
_SHOWN_SECONDS = 0.5
_MADE_BY_STEP = frozenset({"target", "model", "timeout"})


@dataclass(frozen=True)
class JobOptions:
    """The options of the command, as typed."""

    inputs: tuple[str, ...]
    lists: tuple[str, ...]
    connection: Connection
    parameters: Mapping[str, Any]
    class_name: str | None
    method: str
    out: str
    map_name: str
    map_format: MapFormat
    shard_rows: int
    resume: bool
    redo_failed: bool
    kind: Kind | None
    image_column: str | None
    key_column: str | None
    draft: bool
    resize: Resize
    max_pixels: int | None
    decoders: int | None
    worker: tuple[int, int]
    any_version: bool
    allow_failures: bool
    metrics: tuple[str, int] | None
    concurrency: int
    batch_size: int
    wait: float


def run(options: JobOptions, printer: Printer) -> int:
    """Run the job; returns the exit code."""
    check_given(options.connection)
    check_home(options.out)
    from saliency_client import InputError, OptionError
    from saliency_client.bulk import Progress, StorageError, VersionChanged, run_job
    from saliency_client.bulk.metrics import served

    progress = Progress()
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        stack.enter_context(allow_pixels(options.max_pixels))
        try:
            job = _job(options, stack)
        except CommandError as error:
            printer.error(error)
            return USAGE
        if options.metrics is not None:
            address = stack.enter_context(served(progress, *options.metrics))
            printer.note(f"metrics: {address}")
        stack.enter_context(_shown(progress, printer))
        try:
            summary = run_job(job, progress)
        except (StorageError, VersionChanged) as error:
            stack.close()
            printer.error(error)
            _tell_stopped(progress, printer)
            return STOPPED
        # InvalidArgument is the server's, with a code of its own.
        except (InputError, OptionError, CommandError) as error:
            stack.close()
            _tell_notes(progress, printer)
            printer.error(error)
            return USAGE
        except BaseException:
            stack.close()
            _tell_stopped(progress, printer)
            raise
    _tell_notes(progress, printer)
    _tell_errors(progress, options, printer)
    _tell(summary, options, printer)
    failed = summary.failed + summary.failed_before
    return FAILURE if failed and not options.allow_failures else 0


def _job(options: JobOptions, stack: ExitStack) -> Job:
    from saliency_client.bulk import ExplainBatch, Fields, Job

    connection = options.connection
    client = stack.enter_context(client_options(connection, label=connection.label))
    target = client["target"]
    parameters = dict(options.parameters)
    if options.class_name is not None:
        parameters["class_index"] = _class_index(options.class_name, client, options.wait)
    step = ExplainBatch(
        tuple(target) if isinstance(target, list) else target,
        client["model"],
        method=options.method,
        parameters=parameters,
        map=None if options.map_name == "none" else options.map_name,
        map_format=options.map_format,
        numbers=None,
        resize=options.resize,
        max_pixels=options.max_pixels,
        draft=options.draft,
        batch_size=options.batch_size,
        timeout=connection.timeout,
        patience=options.wait,
        version=connection.version,
        options={
            name: value for name, value in client.items() if name not in _MADE_BY_STEP and value is not None
        },
    )
    decoders = options.decoders
    return Job(
        step,
        options.inputs,
        options.out,
        lists=options.lists,
        kind=options.kind,
        fields=Fields(options.image_column, options.key_column),
        shard_rows=options.shard_rows,
        concurrency=options.concurrency,
        decoders=min(_MOST_DECODERS, os.cpu_count() or 1) if decoders is None else decoders,
        worker=options.worker,
        resume=options.resume,
        any_version=options.any_version,
        redo_failed=options.redo_failed,
    )


def _class_index(name: str, options: Mapping[str, Any], wait: float) -> int:
    """The index of a class that is named, by the names that the model has."""
    from saliency_client import SaliencyClient
    from saliency_client.bulk.asking import until_served

    with SaliencyClient(**options) as client:
        client._converse(lambda calls: until_served(calls, wait))
        names = client.labels()
    if names is None:
        raise UsageError(
            f"the model has no class names to find {printable(name)!r} in",
            hint="give the index, as --class 281",
        )
    return find_class(name, names)


@contextmanager
def _shown(progress: Progress, printer: Printer) -> Iterator[None]:
    """A line that moves for a person at a terminal, and one each minute elsewhere."""
    over = threading.Event()

    def watch() -> None:
        if not sys.stderr.isatty() or printer.mode != "human":
            while not over.wait(_TOLD_SECONDS):
                printer.note(state_of(progress))
            return
        with printer.waiting("beginning") as change:
            while not over.wait(_SHOWN_SECONDS):
                if change is not None:
                    change(state_of(progress))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def state_of(progress: Progress) -> str:
    """How far a job is, in a line: rows, rate, time left."""
    rows = progress.before + progress.rows
    if not progress.rows:
        return f"{rows:,} rows done; waiting for the first" if rows else "waiting for the first row"
    parts = [f"{rows:,} rows"]
    if progress.planned:
        about = "about " if progress.extent is not None and progress.extent.bytes else ""
        parts = [f"{rows:,} of {about}{progress.planned:,} rows ({100 * rows / progress.planned:.1f} %)"]
    parts.append(f"{progress.rate:.3g} a second")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, of two digits: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _tell_stopped(progress: Progress, printer: Printer) -> None:
    if progress.rows or progress.before:
        printer.note(
            f"note: stopped after {progress.rows:,} rows; what is in whole files stays, and the same command "
            "with --resume goes on"
        )


def _tell_notes(progress: Progress, printer: Printer) -> None:
    for note in progress.notes:
        printer.note(f"note: {note}")


def _tell_errors(progress: Progress, options: JobOptions, printer: Printer) -> None:
    """Say what was wrong with the first images, how pictures were read, and how many missed a target."""
    for note, name, count in progress.picture_notes.values():
        others = f" and {count - 1:,} more" if count > 1 else ""
        printer.note(f"note: {name}{others}: {note}")
    for error in progress.errors:
        printer.note(f"note: {error}")
    if progress.failed > len(progress.errors):
        printer.note(f"note: {progress.failed - len(progress.errors):,} more have an error")
    if progress.above_target:
        target = options.parameters[TARGET_ERROR]
        printer.note(
            f"note: {progress.above_target:,} of {_rows(progress.rows)} did not reach a relative error of "
            f"{target:g}; they need more samples"
        )


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _tell(summary: Summary, options: JobOptions, printer: Printer) -> None:
    rate = summary.rows / summary.seconds if summary.seconds > 0 else 0.0
    failed = summary.failed + summary.failed_before
    record = {
        "out": options.out,
        "status": "done" if summary.complete else "share done",
        "rows": summary.rows,
        "failed": summary.failed,
        "rows_before": summary.before,
        "failed_before": summary.failed_before,
        "model": options.connection.model,
        "version": summary.version,
        "seconds": round(summary.seconds, 3),
        "rows_per_second": round(rate, 3),
    }
    words = [f"{_rows(summary.rows)} in {duration(summary.seconds)} ({rate:.3g} a second)"]
    workers = options.worker[1]
    if not summary.rows:
        words = ["nothing was left to do" if summary.before else "there was no image to explain"]
        if options.worker[0] >= summary.units:
            words = [
                f"nothing to do: the job has {summary.units} shares of {options.shard_rows} pictures for "
                f"{workers} workers; a smaller --shard-rows makes more"
            ]
    if summary.before:
        words.append(f"{summary.before:,} were done before")
    if failed:
        words.append(f"{failed:,} with an error, in the column error")
    if summary.complete and workers > 1:
        words.append("the job is complete")
    if not summary.complete:
        words.append("other workers' shares are not all done")

    def human() -> Any:
        from rich.text import Text

        return Text(f"{printable(options.out)}: {'; '.join(words)}")

    printer.result(record, human, [options.out])
