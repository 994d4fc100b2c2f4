"""What `saliency-client explain` does: plan the files, explain the images, write, tell."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from saliency_client._files import write_whole
from saliency_client.cli import labels as names
from saliency_client.cli import show
from saliency_client.cli.batch import batch_exit_code, in_order, tell_failure
from saliency_client.cli.connection import connect
from saliency_client.cli.errors import CommandError
from saliency_client.cli.explainer import Explainer, Request, Result
from saliency_client.cli.inputs import STDIN, find_inputs
from saliency_client.cli.output import Output
from saliency_client.cli.outputs import Job, check_absent, destination, is_done, make_folders, plan, together
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.pictures import files_of

if TYPE_CHECKING:
    from saliency_client import SaliencyClient


def run(request: Request, output: Output) -> int:
    """Explain all images; returns the exit code."""
    for look in request.looks:
        look.check()
    inputs = find_inputs(request.images, recursive=request.recursive)
    results = len(inputs) * (request.top or 1) * len(request.looks)
    to = destination(request.out, request.formats, results=results)
    if to.stdout:
        output = Output(output.mode, output.verbose, results_to_stderr=True)
    jobs = together(
        [
            plan(inputs, _suffixes(request, look.style), replace(to, formats=formats))
            for look, formats in files_of(request.looks, to.formats)
        ]
    )
    waiting = _to_do(jobs, request, output)
    if not waiting:
        return _summarize(0, [], waiting=0, total=len(jobs), seconds=0.0, output=output)
    make_folders(waiting)
    with connect(request.connection) as client, allow_pixels(request.max_pixels):
        class_names = names.class_names(request.labels, client) if _needs_names(request, client) else None
        explainer = Explainer(request, output, client, class_names, to.formats)
        if not any(job.input.is_array or job.input.source == STDIN for job in waiting):
            explainer.model.check_takes_photos()
        return _work_off(waiting, explainer, output, total=len(jobs))


def _needs_names(request: Request, client: SaliencyClient) -> bool:
    """Whether names are wanted that do not come with the answers: some servers take a call for them."""
    signature = client.signatures().get(f"explain_{request.method}")
    labelled = signature is not None and "label" in signature.outputs
    by_name = request.class_name is not None and not request.class_name.isdecimal()
    return request.labels is not None or by_name or not labelled


def _suffixes(request: Request, style: str) -> list[str]:
    """What follows an image's name in the names of its files, one for each of its results."""
    parts = [_slug(request.method)]
    if style != "overlay":
        parts.append(style)
    if request.signed:
        parts.append("signed")
    if request.class_index is not None:
        parts.append(f"class{request.class_index}")
    elif request.class_name is not None:
        name = request.class_name
        parts.append(f"class{int(name)}" if name.isdecimal() else _slug(name))
    if request.top is None:
        return ["-" + "-".join(parts)]
    return ["-" + "-".join([*parts, f"top{rank}"]) for rank in range(1, request.top + 1)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "other"


def _to_do(jobs: list[Job], request: Request, output: Output) -> list[Job]:
    """The jobs left after those that are done, which are reported."""
    if request.existing == "refuse":
        check_absent(jobs)
    if request.existing != "skip":
        return jobs
    for job in jobs:
        if is_done(job):
            files = [str(path) for paths in job.files for path in paths]
            record = {"image": job.input.source, "status": "skipped", "file": files[0], "files": files}
            output.result(record, lambda job=job: show.skipped(job.input.shown))  # type: ignore[misc]
    return [job for job in jobs if not is_done(job)]


def _work_off(jobs: list[Job], explainer: Explainer, output: Output, *, total: int) -> int:
    """Explain the images and write their files; an image that fails is told, and the others go on."""
    request, started = explainer.request, time.monotonic()
    errors: list[Exception] = []
    done, width = 0, show.name_width([job.input.shown for job in jobs])
    with output.progress(len(jobs), "explaining") as advance:
        results = in_order(lambda job: explainer.explain(job.input), jobs, workers=request.concurrency)
        for job, future in results:
            try:
                _finish(job, future.result(), request, output, width=width, alone=total == 1)
                done += 1
            except BrokenPipeError:
                raise
            except Exception as failure:
                errors.append(failure)
                tell_failure(job.input, failure, output, alone=total == 1)
                if request.fail_fast:
                    results.close()
                    break
            advance()
    seconds = time.monotonic() - started
    return _summarize(done, errors, waiting=len(jobs), total=total, seconds=seconds, output=output)


def _summarize(
    done: int, errors: list[Exception], *, waiting: int, total: int, seconds: float, output: Output
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
        output.note(f"{told} in {seconds:.1f} s")
    return batch_exit_code(errors, total)


def _finish(
    job: Job, results: list[Result], request: Request, output: Output, *, width: int, alone: bool
) -> None:
    """Write an image's files, then tell of them."""
    for result, files in zip(results, job.files, strict=True):
        if not files:
            sys.stdout.buffer.write(result.contents[0])
            sys.stdout.buffer.flush()
        for path, content in zip(files, result.contents, strict=False):
            if not (request.existing == "skip" and path.exists()):
                _write(path, content, overwrite=request.existing == "overwrite")
        paths = [str(path) for path in files]
        record = {**result.record, "file": paths[0] if paths else None, "files": paths}
        line = show.Line(job.input.shown, record, width=width, alone=alone and len(results) == 1)
        output.result(record, line.render, paths)
    for note in dict.fromkeys(note for result in results for note in result.record["notes"]):
        output.note(f"note: {job.input.shown}: {note}")


def _write(path: Path, content: bytes, *, overwrite: bool) -> None:
    try:
        write_whole(path, lambda file: file.write(content), overwrite=overwrite)
    except FileExistsError as error:
        raise CommandError(f"{path} exists", hint="--overwrite replaces it") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}") from error
