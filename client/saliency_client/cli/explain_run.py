"""What `saliency-client explain` does: plan the files, explain the images, write, tell."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from saliency_client._files import write_whole
from saliency_client.cli import classes, show
from saliency_client.cli.batch import batch_exit_code, in_order, tell_failure, without_missing
from saliency_client.cli.connection import check_given, connect
from saliency_client.cli.destinations import (
    Job,
    check_absent,
    destination,
    is_done,
    make_folders,
    plan,
    together,
)
from saliency_client.cli.errors import CommandError
from saliency_client.cli.explainer import Explainer, ExplainOptions, Result
from saliency_client.cli.inputs import STDIN, find_inputs
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.pictures import files_of
from saliency_client.cli.printer import Printer

if TYPE_CHECKING:
    from saliency_client import SaliencyClient


def run(options: ExplainOptions, printer: Printer) -> int:
    """Explain all images; returns the exit code."""
    for look in options.looks:
        look.check()
    check_given(options.connection)
    inputs = find_inputs(options.images, recursive=options.recursive)
    results = len(inputs) * (options.top or 1) * len(options.looks)
    names = classes.names_of_file(options.labels)
    to = destination(options.out, options.formats, results=results)
    if to.stdout:
        printer = Printer(printer.mode, printer.verbose, results_to_stderr=True)
    jobs = together(
        [
            plan(inputs, _suffixes(options, look.style), replace(to, formats=formats))
            for look, formats in files_of(options.looks, to.formats)
        ]
    )
    waiting = _to_do(jobs, options, printer)
    there, errors = without_missing(waiting, lambda job: job.input, printer, alone=len(jobs) == 1)
    if not there or (errors and options.fail_fast):
        return _summarize(0, errors, waiting=len(waiting), total=len(jobs), seconds=0.0, printer=printer)
    make_folders(there)
    with connect(options.connection) as client, allow_pixels(options.max_pixels):
        needs_names = _needs_names(options, client)
        class_names = classes.class_names(options.labels, names, client) if needs_names else None
        explainer = Explainer(options, printer, client, class_names, to.formats)
        if not any(job.input.is_array or job.input.source == STDIN for job in there):
            explainer.model.check_takes_photos()
        return _work_off(there, explainer, printer, errors, total=len(jobs))


def _needs_names(options: ExplainOptions, client: SaliencyClient) -> bool:
    """Whether names are wanted that do not come with the answers: some servers take a call for them."""
    signature = client.signatures().get(f"explain_{options.method}")
    labeled = signature is not None and "label" in signature.outputs
    by_name = options.class_name is not None and not options.class_name.isdecimal()
    return options.labels is not None or by_name or not labeled


def _suffixes(options: ExplainOptions, style: str) -> list[str]:
    """What follows an image's name in the names of its files, one for each of its results."""
    parts = [_slug(options.method)]
    if style != "overlay":
        parts.append(style)
    if options.signed:
        parts.append("signed")
    if options.class_index is not None:
        parts.append(f"class{options.class_index}")
    elif options.class_name is not None:
        name = options.class_name
        parts.append(f"class{int(name)}" if name.isdecimal() else _slug(name))
    if options.top is None:
        return ["-" + "-".join(parts)]
    return ["-" + "-".join([*parts, f"top{rank}"]) for rank in range(1, options.top + 1)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "other"


def _to_do(jobs: list[Job], options: ExplainOptions, printer: Printer) -> list[Job]:
    """The jobs left after those that are done, which are reported."""
    if options.existing == "refuse":
        check_absent(jobs)
    if options.existing != "skip":
        return jobs
    for job in jobs:
        if is_done(job):
            files = [str(path) for paths in job.files for path in paths]
            record = {"image": job.input.source, "status": "skipped", "file": files[0], "files": files}
            printer.result(record, lambda job=job: show.skipped(job.input.shown))  # type: ignore[misc]
    return [job for job in jobs if not is_done(job)]


def _work_off(
    jobs: list[Job], explainer: Explainer, printer: Printer, errors: list[Exception], *, total: int
) -> int:
    """Explain the images and write their files; an image that fails is told, and the others go on.

    `errors` are those that came before.
    """
    options, started = explainer.options, time.monotonic()
    waiting = len(jobs) + len(errors)
    done, width = 0, show.name_width([job.input.shown for job in jobs])
    with printer.progress(len(jobs), "explaining") as advance:
        results = in_order(lambda job: explainer.explain(job.input), jobs, workers=options.concurrency)
        for job, future in results:
            try:
                _finish(job, future.result(), options, printer, width=width, alone=total == 1)
                done += 1
            except BrokenPipeError:
                raise
            except Exception as failure:
                errors.append(failure)
                tell_failure(job.input, failure, printer, alone=total == 1)
                if options.fail_fast:
                    results.close()
                    break
            advance()
    seconds = time.monotonic() - started
    return _summarize(done, errors, waiting=waiting, total=total, seconds=seconds, printer=printer)


def _summarize(
    done: int, errors: list[Exception], *, waiting: int, total: int, seconds: float, printer: Printer
) -> int:
    """Tell what a batch came to; returns the exit code."""
    if total > 1:
        counts = {
            "explained": done,
            "skipped": total - waiting,
            "failed": len(errors),
            "not tried": waiting - done - len(errors),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "explained")
        printer.note(f"{told} in {seconds:.1f} s")
    return batch_exit_code(errors, total)


def _finish(
    job: Job, results: list[Result], options: ExplainOptions, printer: Printer, *, width: int, alone: bool
) -> None:
    """Write an image's files, then tell of them."""
    for result, files in zip(results, job.files, strict=True):
        if not files:
            sys.stdout.buffer.write(result.contents[0])
            sys.stdout.buffer.flush()
        for path, content in zip(files, result.contents, strict=False):
            if not (options.existing == "skip" and path.exists()):
                _write(path, content, overwrite=options.existing == "overwrite")
        paths = [str(path) for path in files]
        record = {**result.record, "file": paths[0] if paths else None, "files": paths}
        line = show.Line(job.input.shown, record, width=width, alone=alone and len(results) == 1)
        printer.result(record, line.render, paths)
    for note in dict.fromkeys(note for result in results for note in result.record["notes"]):
        printer.note(f"note: {job.input.shown}: {note}")


def _write(path: Path, content: bytes, *, overwrite: bool) -> None:
    try:
        write_whole(path, lambda file: file.write(content), overwrite=overwrite)
    except FileExistsError as error:
        raise CommandError(f"{path} exists", hint="--overwrite replaces it") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}") from error
