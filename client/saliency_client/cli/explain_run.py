"""What `saliency-client explain` does: plan the files, explain the images, write, tell."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from saliency_client._files import write_whole
from saliency_client.cli import classes, show
from saliency_client.cli.batch import (
    Failures,
    batch_exit_code,
    in_order,
    is_of_disk,
    is_of_server,
    tell_left_out,
    without_missing,
)
from saliency_client.cli.connection import check_given, connect
from saliency_client.cli.destinations import (
    Job,
    check_absent,
    destination,
    existing,
    is_done,
    plan,
    together,
    with_folders,
)
from saliency_client.cli.errors import USAGE, CommandError, UsageError, exit_code
from saliency_client.cli.explainer import Explainer, ExplainOptions, Result, made_with
from saliency_client.cli.inputs import STDIN, find_inputs, for_model, has_found_arrays
from saliency_client.cli.looks import files_of
from saliency_client.cli.marks import is_of_another, read_facts
from saliency_client.cli.methods import method_signature
from saliency_client.cli.model_input import model_input
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.printer import Printer
from saliency_client.cli.text import printable
from saliency_client.regions import check_installed

if TYPE_CHECKING:
    from saliency_client import SaliencyClient

ItemT = TypeVar("ItemT")
_USAGE_SECONDS = 3.0
"""How long a run that has nowhere to write to waits for a server's word on its options."""
_STATUS_SECONDS = 10.0
"""How long a run that may have nothing left to do waits for a server's word on its version."""


def run(options: ExplainOptions, printer: Printer) -> int:
    """Explain all images; returns the exit code."""
    for look in options.looks:
        look.check(methods=len(options.methods))
    if options.regions:
        check_installed()
    check_given(options.connection)
    found = find_inputs(options.images, recursive=options.recursive)
    names = classes.names_of_file(options.labels)
    with ExitStack() as stack:
        client = functools.cache(lambda: stack.enter_context(_ready_client(options, printer)))
        inputs = found.inputs
        if has_found_arrays(inputs):
            signature = method_signature(options.methods[0], client().signatures())
            inputs = for_model(inputs, model_input(signature), found.left_out)
        results = len(inputs) * (options.top or 1) * len(options.looks)
        to = destination(options.out, options.formats, results=results)
        if "npy" in to.formats and len(options.methods) > 1:
            raise UsageError(
                f"npy holds one map, and {len(options.methods)} methods are asked for",
                hint="--format npz holds the maps of all, by method and name",
            )
        if to.stdout:
            printer = Printer(printer.mode, printer.verbose, results_to_stderr=True)
        jobs = together(
            [
                plan(inputs, _suffixes(options, look.style), replace(to, formats=formats))
                for look, formats in files_of(options.looks, to.formats)
            ]
        )
        total = len(jobs) + len(found.left_out.errors)
        failures = Failures(printer, alone=total == 1)
        tell_left_out(found.left_out, failures)
        if options.existing == "refuse" and any(map(existing, jobs)):
            _check_by_model(options, to.formats, names)
            check_absent(jobs)
        to_do, to_redo = _to_do(jobs, options, printer, client)
        waiting = len(to_do) + len(found.left_out.errors)
        there = without_missing(to_do, lambda job: job.input, failures)
        if there and not (failures.errors and options.fail_fast):
            there, unable = with_folders(there)
            for job, error in unable:
                failures.add(job.input, error)
        if not there or (failures.errors and options.fail_fast):
            return _summarize(0, failures, waiting=waiting, total=total, seconds=0.0)
        stack.enter_context(allow_pixels(options.max_pixels))
        class_names = (
            classes.class_names(options.labels, names, client()) if _needs_names(options, client()) else None
        )
        explainer = Explainer(options, printer, client(), class_names, to.formats)
        if not any(job.input.is_array or job.input.source == STDIN for job in there):
            explainer.model.check_takes_photos()
        return _work_off(there, to_redo, explainer, failures, waiting=waiting, total=total)


@contextmanager
def _ready_client(options: ExplainOptions, printer: Printer) -> Iterator[SaliencyClient]:
    with connect(options.connection) as client:
        if options.wait is not None:
            with printer.waiting(f"waiting for {printable(client.model)}"):
                client.wait_ready(options.wait)
        yield client


def _check_by_model(
    options: ExplainOptions, formats: tuple[str, ...], names: classes.ClassNames | None
) -> None:
    """Raise for options that do not go with the model, before a person is sent to another place.

    A server that does not answer at once says nothing, nor is a model loaded for it.
    """
    if options.connection.local is not None:
        return
    connection = replace(options.connection, timeout=min(options.connection.timeout, _USAGE_SECONDS))
    try:
        with connect(connection) as client:
            class_names = (
                classes.class_names(options.labels, names, client) if _needs_names(options, client) else None
            )
            Explainer(options, Printer("quiet"), client, class_names, formats)
    except Exception as error:
        if isinstance(error, CommandError) or exit_code(error) == USAGE:
            raise


def _needs_names(options: ExplainOptions, client: SaliencyClient) -> bool:
    """Whether names are wanted that do not come with the answers: some servers take a call for them."""
    signature = client.signatures().get(f"explain_{options.methods[0]}")
    labeled = signature is not None and "label" in signature.outputs
    return options.labels is not None or options.class_name is not None or not labeled


def _suffixes(options: ExplainOptions, style: str) -> list[str]:
    """What follows an image's name in the names of its files, one for each of its results."""
    parts = [_slug(options.method)]
    if style != "overlay":
        parts.append(style)
    if options.regions:
        parts.append("regions")
    if options.polarity is not None:
        parts.append("signed" if options.polarity == "both" else options.polarity)
    if options.class_index is not None:
        parts.append(f"class{options.class_index}")
    elif options.class_name is not None:
        parts.append(_slug(options.class_name))
    if options.top is None:
        return ["-" + "-".join(parts)]
    return ["-" + "-".join([*parts, f"top{rank}"]) for rank in range(1, options.top + 1)]


def _slug(text: str) -> str:
    """Letters and digits of any script, in lower case; all else is a dash, as between the parts of a name."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-") or "other"


def _to_do(
    jobs: list[Job], options: ExplainOptions, printer: Printer, client: Callable[[], SaliencyClient]
) -> tuple[list[Job], set[Path]]:
    """The jobs left after those that are done, which are reported; and the files that are made anew."""
    if options.existing != "skip":
        return jobs, set()
    made_otherwise = _made_otherwise(jobs, options, printer, client)
    if made_otherwise:
        example, one = printable(str(min(made_otherwise))), len(made_otherwise) == 1
        which = f"{example} was" if one else f"{len(made_otherwise)} files, such as {example}, were"
        printer.note(
            f"note: {which} made by another model, version or method, with other options, or of another "
            f"image, or {'is' if one else 'are'} empty; {'it is' if one else 'they are'} made anew"
        )
    left: list[Job] = []
    for job in jobs:
        if is_done(job) and made_otherwise.isdisjoint(chain.from_iterable(job.files)):
            _tell_skipped(job, printer)
        else:
            left.append(job)
    return left, made_otherwise


def _made_otherwise(
    jobs: list[Job], options: ExplainOptions, printer: Printer, client: Callable[[], SaliencyClient]
) -> set[Path]:
    """The files of this tool that were made with something else than what is asked for now.

    A file that does not say, as an array does not, or that is not of this tool, is not among them.
    """
    images = {path: job.input.source for job in jobs for path in existing(job)}
    facts = {path: read_facts(str(path)) for path in images}
    made = {path: said for path, said in facts.items() if said is not None}
    wanted = {
        "method": options.method,
        "model": options.connection.model if options.connection.local is None else None,
        **made_with(options),
    }
    others = {
        path
        for path, said in made.items()
        if _differs(said, wanted) or is_of_another(said, str(path), images[path])
    }
    # Of a disk that was full, or a machine that stopped.
    others |= {path for path in images if _is_empty(path)}
    if any("version" in said for path, said in made.items() if path not in others):
        version = _asked_version(options, printer, client)
        others |= {path for path, said in made.items() if _differs(said, {"version": version})}
    return others


def _is_empty(path: Path) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and not status.st_size


def _differs(said: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    # As JSON: what has been written has no tuples, and 1.0 is what 1 was.
    return any(
        value is not None and name in said and said[name] != json.loads(json.dumps(value))
        for name, value in wanted.items()
    )


def _asked_version(
    options: ExplainOptions, printer: Printer, client: Callable[[], SaliencyClient]
) -> int | None:
    """The version that would answer; None where nobody can say."""
    from saliency_client import SaliencyError

    connection = options.connection
    if connection.version is not None:
        return connection.version
    if connection.local is not None:
        name = connection.local.resolve().name
        return int(name) if name.isdecimal() else None
    try:
        states = client().status(timeout=min(connection.timeout, _STATUS_SECONDS))
    except SaliencyError as error:
        printer.note(f"note: the version of the files that are there is not compared: {error}")
        return None
    return next((state.version for state in states if state.available), None)


def _tell_skipped(job: Job, printer: Printer) -> None:
    files = [str(path) for paths in job.files for path in paths]
    record = {"image": job.input.source, "status": "skipped", "file": files[0], "files": files}
    printer.result(record, lambda: show.skipped(job.input.shown))


def in_batches(jobs: Sequence[ItemT], options: ExplainOptions) -> list[Sequence[ItemT]]:
    """The jobs of each request: no more together than leaves work for all that run at a time.

    A graph pads a batch to the next size that it was compiled for; those are powers of two, mostly.
    """
    share = max(1, math.ceil(len(jobs) / options.concurrency))
    size = options.batch_size if options.batch_size <= share else 1 << (share.bit_length() - 1)
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def _work_off(
    jobs: list[Job],
    to_redo: set[Path],
    explainer: Explainer,
    failures: Failures,
    *,
    waiting: int,
    total: int,
) -> int:
    """Explain the images and write their files; an image that fails is told, and the others go on.

    `to_redo` are the files that are replaced although they exist.
    """
    options, printer, started = explainer.options, failures.printer, time.monotonic()
    done, width = 0, show.name_width([job.input.shown for job in jobs])

    def explain(batch: Sequence[Job]) -> list[tuple[Job, list[Result] | Exception | None]]:
        # Another run over the same folder may have been faster.
        late = [
            job
            for job in batch
            if options.existing == "skip"
            and is_done(job)
            and to_redo.isdisjoint(chain.from_iterable(job.files))
        ]
        rest = [job for job in batch if job not in late]
        outcomes = explainer.explain([job.input for job in rest])
        return [(job, None) for job in late] + list(zip(rest, outcomes, strict=False))

    stopped = has_errors = False
    with printer.progress(len(jobs), "explaining") as advance, ExitStack() as watching:
        watching.enter_context(explainer.watched(alone=total == 1))
        results = in_order(explain, in_batches(jobs, options), workers=options.concurrency)
        for _, future in results:
            watching.close()  # what is told now has the line to itself
            succeeded = False
            for job, outcome in future.result():
                try:
                    if isinstance(outcome, Exception):
                        raise outcome
                    if outcome is None:
                        _tell_skipped(job, printer)
                        waiting -= 1
                    else:
                        told = _finish(job, outcome, to_redo, options, printer, width=width, alone=total == 1)
                        has_errors |= any(map(show.has_error, told))
                        done += 1
                    succeeded = True
                except BrokenPipeError:
                    raise
                except Exception as failure:
                    failures.add(job.input, failure)
                    if options.fail_fast:
                        stopped = True
                        break
                advance()
            gives_up = failures.end_request(succeeded=succeeded)
            if gives_up or stopped:
                results.close()
                break
    failures.tell()
    seconds = time.monotonic() - started
    if has_errors and printer.mode == "human":
        printer.note(show.ERROR_IN_WORDS)
    code = _summarize(done, failures, waiting=waiting, total=total, seconds=seconds)
    if total > 1 and failures.errors and is_of_server(failures.errors[-1]):
        printer.note("note: the same command with --skip-existing goes on; --wait 60 waits for a server")
    elif total > 1 and failures.errors and is_of_disk(failures.errors[-1]):
        printer.note("note: when there is room, the same command with --skip-existing goes on")
    return code


def _summarize(done: int, failures: Failures, *, waiting: int, total: int, seconds: float) -> int:
    """Tell what a batch came to; returns the exit code."""
    if total > 1:
        counts = {
            "explained": done,
            "skipped": total - waiting,
            "failed": len(failures.errors),
            "not tried": waiting - done - len(failures.errors),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "explained")
        failures.printer.note(f"{told} in {seconds:.1f} s")
    return batch_exit_code(failures.errors, total)


def _finish(
    job: Job,
    results: list[Result],
    to_redo: set[Path],
    options: ExplainOptions,
    printer: Printer,
    *,
    width: int,
    alone: bool,
) -> list[show.Line]:
    """Write an image's files, then tell of them; gives the lines that were told."""
    lines: list[show.Line] = []
    for result, files in zip(results, job.files, strict=True):
        if not files:
            sys.stdout.buffer.write(result.contents[0])
            sys.stdout.buffer.flush()
        for path, content in zip(files, result.contents, strict=False):
            redo = options.existing == "overwrite" or path in to_redo
            if redo or options.existing == "refuse":
                _write(path, content, overwrite=redo)
            elif not os.path.exists(path):
                _write_unless_there(path, content)
        paths = [str(path) for path in files]
        several = len(result.records) > 1
        for number, fields in enumerate(result.records):
            record = {**fields, "file": paths[0] if paths else None, "files": paths}
            line = show.Line(
                job.input.shown,
                record,
                width=width,
                alone=alone and len(results) == 1 and not several,
                names_method=several,
            )
            printer.result(record, line.render, () if number else paths)
            lines.append(line)
    for note in notes_of([record for result in results for record in result.records]):
        printer.note(f"note: {job.input.shown}: {note}")
    return lines


def notes_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The notes of an image's records, each once: of some of several methods, with their names before it."""
    methods = list(dict.fromkeys(record["method"] for record in records))
    by_note: dict[str, dict[str, None]] = {}
    for record in records:
        for note in record["notes"]:
            by_note.setdefault(note, {})[record["method"]] = None
    return [
        note
        if len(about) == len(methods) or any(method in note for method in about)
        else f"{', '.join(about)}: {note}"
        for note, about in by_note.items()
    ]


def _write_unless_there(path: Path, content: bytes) -> None:
    """Another run over the same folder may write the same file."""
    try:
        _write(path, content, overwrite=False)
    except CommandError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise


def _write(path: Path, content: bytes, *, overwrite: bool) -> None:
    try:
        write_whole(path, lambda file: file.write(content), overwrite=overwrite)
    except FileExistsError as error:
        raise CommandError(f"{path} exists", hint="--overwrite replaces it") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}") from error
