"""The job: every image of a data set explained into shards of Parquet, resumed where it was left."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from saliency_client._bulk import ItemResult
from saliency_client._contract import RELATIVE_ERROR, TARGET_ERROR
from saliency_client._errors import InvalidArgument, OptionError, ServerError
from saliency_client._signatures import Metadata, Signature
from saliency_client.aio import AsyncSaliencyClient
from saliency_client.bulk.arrow import parquet
from saliency_client.bulk.asking import Asking, VersionChanged
from saliency_client.bulk.decoders import Decoders
from saliency_client.bulk.decoding import Decoding
from saliency_client.bulk.pipeline import Decode, Explained, Flow, Pipeline, Waiting, images_of
from saliency_client.bulk.plan import (
    JOB_FOLDER,
    LeftOut,
    Plan,
    check_inputs,
    find_entries,
    is_gone,
    listed_entries,
    write_plan,
)
from saliency_client.bulk.rows import Columns, Row, all_numbers
from saliency_client.bulk.shards import (
    DONE_FOLDER,
    OF_THE_INPUT,
    SHARD_FILE,
    Done,
    Shards,
    done_shards,
    missing_files,
    whole_units,
)
from saliency_client.bulk.sources.records import Fields, Kind
from saliency_client.bulk.step import ExplainBatch, asking_of
from saliency_client.bulk.storage import Place, StorageError, is_address, remove_temporary_parts

_ASKED, _PLAN, _MANIFEST = "job.json", "plan.parquet", "manifest.json"
_OF_THE_PLAN = ("inputs", "lists", "input_format", "shard_rows")
_ERRORS_TOLD = 3
_KINDS_OF_NOTES = 20
_ROUNDED = 1 + 1e-6
STDIN = "-"
"""As the name of a list: what is piped into the program."""
_THREADS = 32
"""For files: of a store behind a network, each waits most of the time."""


@dataclass(frozen=True)
class Job:
    """What a job is asked to do.

    Attributes:
        step: what is asked of which server, and how images are decoded and maps stored. Its `version` None is
            the latest when the job begins, for all of its rows; its `numbers` None are all of the method.
        inputs: folders, files, patterns and addresses of images, Parquet, TFRecord or tar.
        out: the folder of the output, or its address.
        lists: files with the names of inputs, one on each line; `-` is what is piped in.
        kind: what all input files hold; None: by their names.
        fields: names of columns or features.
        shard_rows: images in a shard, at most.
        concurrency: requests that are under way at a time.
        decoders: processes that decode pictures; 0: threads.
        worker: (i, n): this process does every n-th unit of the plan from the i-th on, counted from 0.
        resume: go on with the job that is there, if there is one.
        any_version: rows of several versions may stand side by side.
        redo_failed: files in which images have an error are made anew.
    """

    step: ExplainBatch
    inputs: tuple[str, ...]
    out: str
    lists: tuple[str, ...] = ()
    kind: Kind | None = None
    fields: Fields = field(default_factory=Fields)
    shard_rows: int = 1000
    concurrency: int = 4
    decoders: int = 1
    worker: tuple[int, int] = (0, 1)
    resume: bool = False
    any_version: bool = False
    redo_failed: bool = False

    def __post_init__(self) -> None:
        for name, value in (("shard_rows", self.shard_rows), ("concurrency", self.concurrency)):
            if value < 1:
                raise OptionError(f"{name} is {value}; it must be 1 or above")
        index, count = self.worker
        if not 0 <= index < count:
            raise OptionError(f"worker is {index} of {count}; workers are counted from 0")


@dataclass
class Extent:
    """How many rows there are to be: counted, or judged by what has been read of files that are not counted.

    Attributes:
        counted: images of the plan that are known.
        bytes: of the files whose images are not; None: not known.
        workers: that share all of it, about alike.
        rows_read, bytes_read: of those files, so far, in this run.
    """

    counted: int
    bytes: int | None
    workers: int = 1
    rows_read: int = 0
    bytes_read: int = 0
    _file: tuple[str, int, int] = ("", 0, 0)

    def take(self, waiting: Waiting) -> None:
        """Take in how far a file has been read."""
        if not waiting.read:
            return
        # Of a job that goes on, the first row of a file has those before it behind itself.
        rows, read = self._file[1:] if self._file[0] == waiting.path else (0, 0)
        self.rows_read += waiting.row + 1 - rows
        self.bytes_read += waiting.read - read
        self._file = waiting.path, waiting.row + 1, waiting.read

    @property
    def rows(self) -> int | None:
        """Of this worker, about; None where nothing is known yet."""
        if self.bytes is None or (self.bytes and not self.bytes_read):
            return None
        judged = round(self.bytes * self.rows_read / self.bytes_read) if self.bytes else 0
        return -(-(self.counted + judged) // self.workers)


@dataclass
class Progress:
    """How far a job is; it changes while the job runs.

    Attributes:
        before: rows that were done when it began.
        rows: rows since then.
        failed: of these, those with an error.
        extent: what `planned` comes from; None before the plan is read.
        shards: written since then.
        errors: of the first images that have one.
        above_target: rows whose relative error is above the target that was asked for.
        flow: at the server.
        started: by the monotonic clock.
        notes: what a person may want to know.
        picture_notes: the same of how pictures were read, by kind: the first, its image, and how many.
    """

    before: int = 0
    rows: int = 0
    failed: int = 0
    extent: Extent | None = None
    shards: int = 0
    errors: list[str] = field(default_factory=list)
    above_target: int = 0
    flow: Flow = field(default_factory=Flow)
    started: float = field(default_factory=time.monotonic)
    notes: list[str] = field(default_factory=list)
    picture_notes: dict[str, tuple[str, str, int]] = field(default_factory=dict)

    def take_notes(self, name: str, notes: tuple[str, ...]) -> None:
        """Count the notes on an image; those that differ in their numbers alone are of one kind."""
        for note in notes:
            kind = re.sub(r"[\d.e+-]+", "#", note)
            first, example, count = self.picture_notes.get(kind, (note, name, 0))
            # A file's own words could make any number of kinds.
            if count or len(self.picture_notes) < _KINDS_OF_NOTES:
                self.picture_notes[kind] = first, example, count + 1

    @property
    def planned(self) -> int | None:
        """Rows of this worker, those before included; about, where files of many are still to be read."""
        return None if self.extent is None else self.extent.rows

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Rows a second since it began."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At that rate; None where the number of rows, or the rate, is not known."""
        if self.planned is None or not self.rows:
            return None
        return max(0, self.planned - self.before - self.rows) / self.rate


@dataclass(frozen=True)
class Summary:
    """What a run of a job came to.

    Attributes:
        rows: of this run, and with an error: `failed`.
        before: rows that were done before it.
        failed_before: of these, with an error.
        complete: no unit of the plan is left, of any worker.
        version: of the model; None where versions mix.
        seconds: of this run.
        units: what workers share, of all of them.
    """

    rows: int
    failed: int
    before: int
    failed_before: int
    complete: bool
    version: int | None
    seconds: float
    units: int


def run_job(job: Job, progress: Progress | None = None) -> Summary:
    """Explain every image that is not done yet.

    Shards appear whole; what is done stays done, whatever ends this. Rows of images that cannot be read, or
    that the server refuses, have an `error`.

    Args:
        job: what to do.
        progress: is kept up to date.

    Raises:
        OptionError: an option cannot work, or is another than the job was begun with.
        Missing: an input is not there.
        VersionChanged: another version answers than the rows so far are of.
        StorageError: inputs cannot be read any more, or outputs not written.
        SaliencyError: the server stayed away, or refuses what is asked.

    Example:
        >>> from saliency_client.bulk import ExplainBatch, Job, run_job
        >>> step = ExplainBatch("localhost:8500", "efficientnet-lite0", numbers=None)
        >>> summary = run_job(Job(step, ("photos/",), "maps/"))
        >>> summary.rows, summary.failed, summary.complete
        (2, 0, True)
    """
    parquet()
    progress = Progress() if progress is None else progress
    out = Place(job.out)
    _check_out(out, job)
    if not (out / JOB_FOLDER / _ASKED).exists():
        check_inputs(job.inputs, job.fields, kind=job.kind)
        for text in job.lists:
            if not is_address(text):
                _check_list(text)
    folders = (out, out / JOB_FOLDER, out / JOB_FOLDER / DONE_FOLDER)
    for folder in folders:
        folder.make_folder()
    try:
        with _alone(out, job.worker):
            run = _Run(job, out, progress)
            try:
                return asyncio.run(run.run())
            # Of TFRecords it is seen in the middle that they hold no such feature.
            except OptionError:
                run.forget_what_did_not_begin()
                raise
    finally:
        # Of a job that could not begin nothing is left.
        if not (folders[1] / _ASKED).exists():
            for path in folders[1].local_files("worker-*.lock"):
                path.unlink()
            for folder in reversed(folders):
                folder.remove_if_empty()


class _Run:
    def __init__(self, job: Job, out: Place, progress: Progress) -> None:
        self.job, self.out, self.progress = job, out, progress

    async def run(self) -> Summary:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        with Decoders(self.job.decoders) as decoders:
            return await self._run(decoders)

    async def _run(self, decoders: Decoders) -> Summary:
        job = self.job
        async with AsyncSaliencyClient(**job.step.client_options()) as client:
            asking = asking_of(job.step)
            signature = await client._converse(asking.signature)
            metadata: Metadata = await client._converse(lambda calls: calls.metadata())
        step = replace(
            job.step,
            numbers=all_numbers(signature) if job.step.numbers is None else job.step.numbers,
        )
        step.columns.check(signature)
        await asyncio.to_thread(self.forget_what_did_not_begin)
        asked = await asyncio.to_thread(self._agreed, self._asked(step, signature, metadata.version))
        plan = Plan(self.out / JOB_FOLDER / _PLAN, job.shard_rows)
        self.progress.extent = Extent(*await asyncio.to_thread(plan.size), job.worker[1])
        digest = await asyncio.to_thread(plan.digest)
        done = await asyncio.to_thread(self._done, digest)
        await asyncio.to_thread(self._check_still_there, plan, done)
        version = None if job.any_version else asked["version"]
        asking = replace(asking, version=version)
        if self.progress.before > self._failed_before:
            asking.trust()
        shards = self._shards(step, asked, digest)
        work = self._images(plan, done)
        # By its number, a version is answered for by a server that has loaded another one beside it.
        by_number = {} if "label" in step.options else {"version": version}
        options = {**step.client_options(), **by_number}
        decode = partial(decoders.decode, self._decoding(step, signature))
        async with AsyncSaliencyClient(**options) as client:
            await self._work_off(client, asking, decode, shards, work, step)
        return await asyncio.to_thread(self._ended, plan, digest, asked, version)

    def _decoding(self, step: ExplainBatch, signature: Signature) -> Decoding:
        return Decoding.of(signature, resize=step.resize, max_pixels=step.max_pixels, draft=step.draft)

    async def _work_off(
        self,
        client: AsyncSaliencyClient,
        asking: Asking,
        decode: Decode,
        shards: Shards,
        work: Iterator[Waiting],
        step: ExplainBatch,
    ) -> None:
        job, progress, columns = self.job, self.progress, step.columns
        self._target = step.parameters.get(TARGET_ERROR) or None

        async def explain(images: Any) -> list[ItemResult]:
            return await client._converse(lambda calls: asking.explain(calls, images))

        pipeline = Pipeline(
            decode,
            explain,
            batch_size=job.step.batch_size,
            concurrency=job.concurrency,
            # Enough that the server never waits for pictures while there are decoders, and no more.
            ahead=job.concurrency + 2 * max(1, job.decoders),
        )
        progress.flow = pipeline.flow
        progress.started = time.monotonic()
        batches = pipeline.run(work)
        held: Explained = []
        loop = asyncio.get_running_loop()
        # In a thread of its own: what Arrow's and C's allocators keep, they keep for each thread.
        with ThreadPoolExecutor(1) as writer:
            try:
                async for batch in batches:
                    # What is refused from the first image on may be the request's fault: it waits.
                    held += batch
                    if not asking.doubtful:
                        await loop.run_in_executor(writer, self._write, held, shards, columns)
                        held = []
                if asking.doubtful:
                    _raise_first_error(held)
                await loop.run_in_executor(writer, self._write, held, shards, columns)
            finally:
                await batches.aclose()
                await loop.run_in_executor(writer, shards.drop)

    def _write(self, batch: Explained, shards: Shards, columns: Columns) -> None:
        for waiting, result in batch:
            if shards.open_name not in (None, waiting.shard):
                self._finished(shards.finish(shards.open_name, last=False))
            if result is not None:
                row: Row = {
                    "path": waiting.path,
                    "row": waiting.row,
                    "key": waiting.key,
                    **columns.row(result),
                }
                shards.add(waiting.shard, [row])
                if self.progress.extent is not None:
                    self.progress.extent.take(waiting)
                self.progress.rows += 1
                self._count(row)
                self.progress.take_notes(_named(waiting.path, waiting.key), waiting.notes)
            if waiting.no_row and waiting.row == 0:
                self.progress.notes.append(f"there is no image in {waiting.path}")
            if waiting.ends:
                self._finished(shards.finish(waiting.shard, last=True))

    def _count(self, row: Row) -> None:
        progress, error = self.progress, row["error"]
        if error is not None:
            progress.failed += 1
            if len(progress.errors) < _ERRORS_TOLD:
                progress.errors.append(_about(row["path"], row["key"], error))
        reached = row.get(RELATIVE_ERROR)
        if self._target is not None and reached is not None and not reached <= self._target * _ROUNDED:
            progress.above_target += 1

    def _finished(self, done: Done) -> None:
        self.progress.shards += done.file is not None

    # What the job is, once and for all who work on it.

    def _asked(self, step: ExplainBatch, signature: Signature, version: int) -> dict[str, Any]:
        job = self.job
        defaults = {
            name: value[()].item()
            for name, value in signature.defaults.items()
            if value.ndim == 0 and value.dtype != object
        }
        return {
            "format": 1,
            "inputs": [text.rstrip("/") or text for text in job.inputs],
            "lists": list(job.lists),
            "input_format": job.kind,
            "fields": asdict(job.fields),
            "model": step.model,
            "version": version,
            "method": step.method,
            "parameters": {**defaults, **step.parameters},
            "resize": step.resize,
            "max_pixels": step.max_pixels,
            "draft": step.draft,
            "map": step.map,
            "map_format": step.map_format if step.map is not None else None,
            "numbers": list(step.numbers or ()),
            "shard_rows": job.shard_rows,
        }

    def _agreed(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What is written down of the job; it is written where nobody has yet.

        Raises:
            OptionError: it is another job.
            VersionChanged: it is of another version.
        """
        place = self.out / JOB_FOLDER / _ASKED
        if not place.exists():
            # First the plan: what cannot be planned is no job.
            self._plan(json.dumps({name: asked[name] for name in _OF_THE_PLAN}))
            try:
                place.write(json.dumps(asked, indent=1).encode(), anew=True)
                return asked
            except FileExistsError:
                pass
        before = _read_json(place)
        for name, was, now in _differences(before, asked):
            raise OptionError(
                f"the job in {self.out} was begun with {name} {was}, not {now}",
                hint="give what it was begun with, as it was typed; or begin another job in another folder",
            )
        if before["version"] != asked["version"] and self.job.step.version is not None:
            raise VersionChanged(
                f"the job in {self.out} was begun with version {before['version']} of the model, not "
                f"{asked['version']}",
                hint="leave --version out, or begin another job in another folder",
            )
        return before

    def forget_what_did_not_begin(self) -> None:
        """Forget a job on this machine of which nothing is done: it is begun anew, whatever it was to be."""
        folder = self.out / JOB_FOLDER
        if self.job.worker[1] == 1 and self.out.is_local and not done_shards(self.out):
            for name in (_ASKED, _PLAN):
                for path in folder.local_files(name):
                    path.unlink()

    def _plan(self, of: str) -> None:
        left_out = LeftOut()
        try:
            write_plan(self.out / JOB_FOLDER / _PLAN, self._entries(left_out), of)
        finally:
            self.progress.notes += left_out.notes()

    def _entries(self, left_out: LeftOut) -> Iterator[Any]:
        job = self.job
        how: dict[str, Any] = {"kind": job.kind, "shard_rows": job.shard_rows, "fields": job.fields}
        yield from find_entries(job.inputs, left_out, **how)
        for text in job.lists:
            content, beside = _read_list(text)
            try:
                # As find -print0 ends names, or as lines.
                listed = content.decode("utf-8-sig")
                lines = listed.split("\0") if "\0" in listed else listed.splitlines()
            except UnicodeDecodeError as error:
                raise OptionError(
                    f"{text} is no list of names: it is not UTF-8 ({error.reason} at byte {error.start})",
                    hint="--list takes a file with one path or address on each line",
                ) from error
            yield from listed_entries(lines, beside=beside, **how)

    def _shards(self, step: ExplainBatch, asked: Mapping[str, Any], digest: str) -> Shards:
        kinds = {**OF_THE_INPUT, **step.columns.kinds}
        about = {"saliency_job": json.dumps({**asked, "plan": digest})}
        # A PNG is compressed already.
        compression = dict.fromkeys(kinds, "zstd")
        if step.map_format == "png" and "map" in compression:
            compression["map"] = "none"
        return Shards(self.out, kinds, digest, about, compression)

    def _done(self, digest: str) -> dict[int, list[Done]]:
        """The shards that are done, of each unit."""
        done = done_shards(self.out)
        others = {one.plan for one in done} - {digest}
        if others:
            raise OptionError(
                f"{self.out} holds shards of another plan ({', '.join(sorted(others))}, not {digest})",
                hint="begin another job in another folder",
            )
        index, count = self.job.worker
        lost = missing_files(self.out, done)
        again = [one for one in done if self.job.redo_failed and one.failed]
        gone = [one for one in lost if one.unit % count == index]
        if gone:
            self.progress.notes.append(
                f"{len(gone)} shards were done and their files are gone or have another size, such as "
                f"{gone[0].file}; they are made again"
            )
        of_units = whole_units(done, [*lost, *again])
        own = [one for unit, chunks in of_units.items() if unit % count == index for one in chunks]
        self.progress.before = sum(one.rows for one in own)
        self._failed_before = sum(one.failed for one in own)
        return of_units

    def _images(self, plan: Plan, done: Mapping[int, list[Done]]) -> Iterator[Waiting]:
        index, count = self.job.worker
        for unit in plan.units():
            chunks = done.get(unit.number, [])
            if unit.number % count == index and not (chunks and chunks[-1].last):
                yield from images_of(unit, self.job.fields, self.job.shard_rows, len(chunks))

    def _check_still_there(self, plan: Plan, done: Mapping[int, list[Done]]) -> None:
        """Raise OptionError where images are left to do and the folder or file that they were in is gone.

        Else each would get a row that says so, as where a job goes on in another folder, from which the paths
        lead nowhere, or without the disk.
        """
        index, count = self.job.worker
        own = (unit.number for unit in plan.units() if unit.number % count == index)
        if all(number in done and done[number][-1].last for number in own):
            return
        folders = (one.rpartition("/")[0] for one in self.job.lists if one != STDIN)
        for text in (*self.job.inputs, *filter(None, folders)):
            if is_gone(text):
                raise OptionError(
                    f"{text} does not exist, and images in it are left to do",
                    hint="paths count from the folder in which a command runs: go on where the job was "
                    "begun, and see whether the disk is there",
                )

    def _ended(self, plan: Plan, digest: str, asked: Mapping[str, Any], version: int | None) -> Summary:
        """Write the manifest where nothing is left of any worker."""
        done = done_shards(self.out)
        of_units = whole_units(done, missing_files(self.out, done))
        ended = [unit.number in of_units and of_units[unit.number][-1].last for unit in plan.units()]
        complete = all(ended)
        if complete:
            manifest = {
                **asked,
                "version": sorted({number for one in done for number in one.versions}),
                "plan": digest,
                "rows": sum(one.rows for one in done),
                "failed": sum(one.failed for one in done),
                "shards": [asdict(one) for one in done if one.file is not None],
            }
            (self.out / JOB_FOLDER / _MANIFEST).write(json.dumps(manifest, indent=1).encode())
        progress = self.progress
        return Summary(
            progress.rows,
            progress.failed,
            progress.before,
            self._failed_before,
            complete,
            version,
            progress.seconds,
            len(ended),
        )


def _named(path: str, key: str | None) -> str:
    return path if key is None else f"{path}, {key}"


def _about(path: str, key: str | None, error: str) -> str:
    """An image's error with its name, which the error may say itself."""
    names = [name for name in (path, key) if name is not None and name not in error]
    return f"{', '.join(names)}: {error}" if names else error


def _read_list(text: str) -> tuple[bytes, str]:
    """The bytes of a list, and the folder that its paths count from: its own, or this one of a pipe."""
    if text == STDIN:
        return sys.stdin.buffer.read(), ""
    _check_list(text)
    place = Place(text)
    return place.read(pipes=True), "" if place.is_pipe else text.rpartition("/")[0]


def _check_list(text: str) -> None:
    """Raise OptionError for a list that is not there, or is a folder."""
    if text == STDIN:
        return
    place = Place(text)
    if place.is_folder():
        raise OptionError(
            f"--list takes a file of names, and {text} is a folder",
            hint="a folder is an input without --list",
        )
    if not place.exists():
        raise OptionError(f"{text} does not exist", hint="--list takes a file with one path on each line")


def _differences(before: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is asked otherwise than a job was begun with, each parameter by its own name."""
    for name, now in asked.items():
        was = before.get(name)
        if name == "version" or was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            for inner in sorted({*was, *now}):
                if was.get(inner) != now.get(inner):
                    yield inner, _shown(was.get(inner)), _shown(now.get(inner))
        else:
            yield name, _shown(was), _shown(now)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _raise_first_error(held: Explained) -> None:
    """Raise the server's refusal: all that it said was no, and there is no image left to ask about."""
    for _, result in held:
        if result is not None and isinstance(result.error, (InvalidArgument, ServerError)):
            raise result.error


def _check_out(out: Place, job: Job) -> None:
    if not job.out:
        raise OptionError("the output is named by nothing", hint="a variable of the shell may be unset")
    if (out / JOB_FOLDER / _ASKED).exists():
        if not job.resume and done_shards(out):
            raise OptionError(f"{out} holds a job", hint="--resume goes on with it; or name another folder")
        return
    if out.exists() and not out.is_folder():
        raise OptionError(f"{out} is a file; a job writes a folder")
    if out.exists() and any(name != JOB_FOLDER for name, _, _ in out.entries()):
        raise OptionError(f"{out} holds other files", hint="name a folder that is new or empty")


def _read_json(place: Place) -> dict[str, Any]:
    try:
        content = json.loads(place.read())
    except ValueError as error:
        raise OptionError(f"{place} is damaged: {error}", hint="begin the job in another folder") from error
    assert isinstance(content, dict)
    return content


@contextmanager
def _alone(out: Place, worker: tuple[int, int]) -> Iterator[None]:
    """Refuse a second process for the same share, on this machine; what a killed one left is removed."""
    if not out.is_local:
        remove_temporary_parts()
        yield
        return
    index, count = worker
    path = (out / JOB_FOLDER).path / f"worker-{index}-of-{count}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # It may be one whose machine was lost: a lock across a network is let go of after a while.
            raise StorageError(
                f"another process works on {out}", hint="wait for it, or give each its share: --worker I/N"
            ) from None
        _remove_parts(out, index, count)
        yield
    finally:
        os.close(lock)


def _remove_parts(out: Place, index: int, count: int) -> None:
    """Remove what a killed process of the same share was about to write."""

    def own(rest: str) -> bool:
        return int(rest.partition("-")[0]) % count == index

    out.remove_parts(SHARD_FILE, own)
    (out / JOB_FOLDER / DONE_FOLDER).remove_parts("", own)
    # Where shares are several, another one may write these at this moment.
    if count == 1:
        (out / JOB_FOLDER).remove_parts("", lambda rest: True)
