"""What `saliency-client explain` does: plan the files, ask the server, draw, write, tell."""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from saliency_client._files import write_whole
from saliency_client.cli import labels as names
from saliency_client.cli import pictures, show
from saliency_client.cli.batch import batch_exit_code, in_order, tell_failure
from saliency_client.cli.connection import Connection, connect
from saliency_client.cli.errors import CommandError, UsageError
from saliency_client.cli.inputs import STDIN, find_inputs, read_photo
from saliency_client.cli.model_input import ModelInput, class_scores, model_input
from saliency_client.cli.output import Output
from saliency_client.cli.outputs import (
    Job,
    check_absent,
    destination,
    is_done,
    make_folders,
    plan,
)
from saliency_client.cli.photos import allow_pixels
from saliency_client.cli.version import release
from saliency_client.images import DEFAULT_MAX_PIXELS, Photo, Resize

if TYPE_CHECKING:
    from saliency_client import Explanation, SaliencyClient, Signature

# A class is looked for by name among so many of an image's most probable ones, so many a request.
_NAME_SEARCH, _NAME_BATCH = 64, 16


@dataclass(frozen=True)
class Request:
    """The options of the command, as typed."""

    images: tuple[str, ...]
    connection: Connection
    existing: Literal["refuse", "overwrite", "skip"]
    method: str
    class_name: str | None
    class_index: int | None
    top: int | None
    num_samples: int | None
    noise_level: float | None
    seed: int | None
    out: str | None
    formats: tuple[str, ...]
    style: str
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
    def look(self) -> pictures.Look:
        """How pictures are drawn."""
        return pictures.Look(self.style, self.colormap, self.opacity, self.clip, self.signed)

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's parameters that were given."""
        given = {"num_samples": self.num_samples, "noise_level": self.noise_level, "seed": self.seed}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Result:
    """One explained class of one image: the record for JSON, and the bytes of its files."""

    record: Mapping[str, Any]
    contents: tuple[bytes, ...]


def run(request: Request, output: Output) -> int:
    """Explain all images; returns the exit code."""
    request.look.check()
    inputs = find_inputs(request.images, recursive=request.recursive)
    to = destination(request.out, request.formats, results=len(inputs) * (request.top or 1))
    if to.stdout:
        output = Output(output.mode, output.verbose, results_to_stderr=True)
    jobs = plan(inputs, _suffixes(request), to)
    waiting = _to_do(jobs, request, output)
    make_folders(waiting)
    class_names = names.read_labels(request.labels) if request.labels else None
    if class_names is None and request.connection.local:
        class_names = names.local_labels(request.connection.local)
    with connect(request.connection) as client, allow_pixels(request.max_pixels):
        width = show.name_width([job.input.shown for job in waiting])
        work = _Work(request, output, client, class_names, to.formats, width)
        if not any(job.input.is_array or job.input.source == STDIN for job in waiting):
            work.model.check_takes_photos()
        return _work_off(waiting, work, total=len(jobs))


def _suffixes(request: Request) -> list[str]:
    """What follows an image's name in the names of its files."""
    parts = [_slug(request.method)]
    if request.style != "overlay":
        parts.append(request.style)
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
            files = [str(path) for path in job.files[0]]
            record = {"image": job.input.source, "status": "skipped", "file": files[0], "files": files}
            output.result(record, lambda job=job: show.skipped(job.input.shown))  # type: ignore[misc]
    return [job for job in jobs if not is_done(job)]


def _work_off(jobs: list[Job], work: _Work, *, total: int) -> int:
    output, errors, done, started = work.output, list[Exception](), 0, time.monotonic()
    with output.progress(len(jobs), "explaining") as advance:
        for job, future in in_order(work.explain, jobs, workers=work.request.concurrency):
            error = future.exception()
            try:
                if error is not None:
                    raise error
                _finish(job, future.result(), work, alone=total == 1)
                done += 1
            except BrokenPipeError:
                raise
            except Exception as failure:
                errors.append(failure)
                tell_failure(job.input, failure, output, alone=total == 1)
                if work.request.fail_fast:
                    break
            advance()
    if total > 1:
        counts = {
            "explained": done,
            "skipped": total - len(jobs),
            "failed": len(errors),
            "not tried": len(jobs) - done - len(errors),
        }
        seconds = time.monotonic() - started
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "explained")
        output.note(f"{told} in {seconds:.1f} s")
    return batch_exit_code(errors, total)


def _finish(job: Job, results: list[Result], work: _Work, *, alone: bool) -> None:
    """Write an image's files, then tell of them."""
    for result, files in zip(results, job.files, strict=True):
        if not files:
            sys.stdout.buffer.write(result.contents[0])
            sys.stdout.buffer.flush()
        for path, content in zip(files, result.contents, strict=False):
            if not (work.request.existing == "skip" and path.exists()):
                _write(path, content, overwrite=work.request.existing == "overwrite")
        paths = [str(path) for path in files]
        record = {**result.record, "file": paths[0] if paths else None, "files": paths}
        line = show.Line(job.input.shown, record, width=work.name_width, alone=alone and len(results) == 1)
        work.output.result(record, line.render, paths)
    for note in dict.fromkeys(note for result in results for note in result.record["notes"]):
        work.output.note(f"note: {job.input.shown}: {note}")


def _write(path: Path, content: bytes, *, overwrite: bool) -> None:
    try:
        write_whole(path, lambda file: file.write(content), overwrite=overwrite)
    except FileExistsError as error:
        raise CommandError(f"{path} exists", hint="--overwrite replaces it") from error
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}") from error


@dataclass
class _Work:
    """What all images of a run share; `explain` is called from several threads."""

    request: Request
    output: Output
    client: SaliencyClient
    class_names: names.Labels | None
    formats: tuple[str, ...]
    name_width: int = 0
    model: ModelInput = field(init=False)
    signature: Signature = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _class_index: int | None = None

    def __post_init__(self) -> None:
        signatures = self.client.signatures()
        signature = signatures.get(f"explain_{self.request.method}")
        if signature is None:
            offered = ", ".join(self.client.methods()) or "none"
            raise CommandError(
                f"the model offers no method {self.request.method!r}; it offers {offered}",
                hint="choose one with --method"
                if self.client.methods()
                else "export it with saliency-exporter",
            )
        self.signature, self.model = signature, model_input(signature)
        for name in self.request.parameters:
            if name not in signature.inputs:
                takes = ", ".join(f"--{key.replace('_', '-')}" for key in signature.inputs if key != "images")
                raise UsageError(
                    f"method {self.request.method} takes no --{name.replace('_', '-')}",
                    hint=f"it takes {takes}",
                )
        self._class_index = self._given_class()
        self.output.detail(f"signature {signature.name} takes images {signature.inputs['images']}")

    def explain(self, job: Job) -> list[Result]:
        """Read an image, explain the classes asked for, and draw them."""
        request = self.request
        photo = read_photo(
            job.input, self.model, resize=request.resize, max_pixels=request.max_pixels or DEFAULT_MAX_PIXELS
        )
        self.output.detail(f"{job.input.shown}: {photo.picture.size} pixels, the model sees {photo.box}")
        classes = self._classes(photo)
        return [
            self._one(job, photo, class_index, rank if request.top else None)
            for rank, class_index in enumerate(classes, 1)
        ]

    def _one(self, job: Job, photo: Photo, class_index: int | None, rank: int | None) -> Result:
        request = self.request
        outputs = pictures.needed_outputs(request.look, self.formats)
        started = time.perf_counter()
        explanation = self.client.explain(
            photo.array[None],
            method=request.method,
            class_index=class_index,
            outputs=outputs,
            **request.parameters,
        )
        milliseconds = (time.perf_counter() - started) * 1000
        facts = self._facts(explanation, rank)
        software = f"saliency-client {release()}"
        contents = tuple(
            pictures.encode(explanation, photo, request.look, format, facts, software)
            for format in self.formats
        )
        record = {"image": job.input.source, "status": "ok", **facts, "milliseconds": round(milliseconds, 3)}
        return Result({**record, "notes": list(photo.notes)}, contents)

    def _facts(self, explanation: Explanation, rank: int | None) -> dict[str, Any]:
        index = _first(explanation.class_index)
        label = _first(explanation.label) or None
        if label is None and index is not None and self.class_names and index < len(self.class_names):
            label = self.class_names[index]
        return {
            "method": explanation.method,
            "model": explanation.model,
            "version": explanation.version,
            "rank": rank,
            "class_index": index,
            "label": label,
            "probability": _first(explanation.probability),
            "score": _first(explanation.score),
            "relative_error": _first(explanation.relative_error),
        }

    def _classes(self, photo: Photo) -> list[int | None]:
        """The classes to explain, None for the predicted one."""
        if self.request.top is not None:
            ranked = self._ranked(photo)
            if self.request.top > len(ranked):
                raise CommandError(f"--top is {self.request.top}, and the model has {len(ranked)} classes")
            return list(ranked[: self.request.top])
        if self.request.class_name is not None and self._class_index is None:
            with self._lock:
                if self._class_index is None:
                    self._class_index = self._find_by_asking(self.request.class_name, photo)
        return [self._class_index]

    def _given_class(self) -> int | None:
        name = self.request.class_name
        if self.request.class_index is not None or name is None:
            return self.request.class_index
        if name.isdecimal():
            return int(name)
        return names.find_class(name, self.class_names) if self.class_names else None

    def _ranked(self, photo: Photo) -> list[int]:
        scores, probabilities = class_scores(self.client.predict(photo.array[None]))
        order = np.argsort(-(scores if probabilities is None else probabilities), kind="stable")
        return [int(index) for index in order]

    def _find_by_asking(self, name: str, photo: Photo) -> int:
        """The class of a name, looked for among the image's most probable ones."""
        ranked = self._ranked(photo)[:_NAME_SEARCH]
        for start in range(0, len(ranked), _NAME_BATCH):
            classes = ranked[start : start + _NAME_BATCH]
            labels = names.served_labels(self.client, photo.array, classes)
            if labels is None:
                raise CommandError(
                    "the served model has no class names",
                    hint="give --class an index, or the names with --labels FILE",
                )
            found = names.matching(name, labels)
            if found:
                return classes[found[0]]
        raise CommandError(
            f"none of the {len(ranked)} most probable classes is named {name!r}",
            hint="give --class an index, or all class names with --labels FILE",
        )


def _first(values: Any) -> Any:
    """The value for the one image, as Python's own type; None where it is unknown or not finite."""
    if values is None or len(values) == 0:
        return None
    value = values[0].item() if isinstance(values[0], np.generic) else values[0]
    return None if isinstance(value, float) and not math.isfinite(value) else value
