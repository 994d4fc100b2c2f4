"""A job whose inputs, or outputs, or both lie behind an address: fsspec's memory, and a local S3 server."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from s3_server import Store, s3_server
from stand_in_server import MODEL, StandIn, numbered_png, standing_in
from waiting import until

from saliency_client.bulk import ExplainBatch, Job, StorageError, Summary, run_job
from saliency_client.bulk import job as job_module
from saliency_client.bulk import plan as plan_module

COUNT, SHARD_ROWS = 40, 7
KINDS = ("folder", "tar", "parquet")


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with standing_in(replicas=2) as running:
        yield running


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with s3_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _memory_is_empty() -> Iterator[None]:
    yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def pictures(kind: str, count: int = COUNT) -> dict[str, bytes]:
    """Numbered pictures in files of a kind, by their names."""
    numbered = [(f"{number:04d}.png", numbered_png(number)) for number in range(count)]
    if kind == "folder":
        return {f"in/{number % 3}/below/{name}": content for number, (name, content) in enumerate(numbered)}
    file = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in numbered:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        table = pyarrow.table({"image": [one for _, one in numbered], "key": [name for name, _ in numbered]})
        pyarrow.parquet.write_table(table, file, row_group_size=9)
    return {f"in/all.{kind}": file.getvalue()}


def explaining(server: StandIn, inputs: str, out: str, **options: object) -> Job:
    step = ExplainBatch(tuple(server.targets), MODEL, batch_size=3, patience=20)
    known = {"shard_rows": SHARD_ROWS, "concurrency": 2, "decoders": 0, **options}
    return Job(step, (inputs,), out, **known)


def check(files: dict[str, bytes], count: int = COUNT) -> None:
    """Every picture has one row, with its own answer; the manifest holds what is there."""
    rows = [
        row
        for name, content in files.items()
        if name.rpartition("/")[2].startswith("part-")
        for row in pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    ]
    numbers = [int(Path(row["key"] or row["path"]).stem) for row in rows]
    assert sorted(numbers) == list(range(count))
    assert [(row["score"], row["error"]) for row in rows] == [(number, None) for number in numbers]
    (manifest,) = (json.loads(content) for name, content in files.items() if name.endswith("manifest.json"))
    assert manifest["rows"] == count
    assert {one["file"]: one["sha256"] for one in manifest["shards"]} == shards(files)


def shards(files: dict[str, bytes]) -> dict[str, str]:
    return {
        name.rpartition("/")[2]: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name.rpartition("/")[2].startswith("part-")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_outputs_in_memory(server: StandIn, kind: str) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in pictures(kind).items():
        memory.pipe_file(f"/{kind}/{name}", content)
    summary = run_job(explaining(server, f"memory://{kind}/in", "memory://maps"))
    assert (summary.rows, summary.failed, summary.complete) == (COUNT, 0, True)
    check({path: memory.cat_file(path) for path in memory.find("/maps")})


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_outputs_on_s3(server: StandIn, store: Store, kind: str) -> None:
    bucket = store.new_bucket()
    store.put(bucket, pictures(kind))
    summary = run_job(explaining(server, f"s3://{bucket}/in", f"s3://{bucket}/maps"))
    assert (summary.rows, summary.failed, summary.complete) == (COUNT, 0, True)
    files = store.files(bucket)
    check({name: content for name, content in files.items() if name.startswith("maps/")})
    assert {name for name in files if not name.startswith("maps/")} == set(pictures(kind))


@pytest.mark.slow
def test_paths_on_s3_are_addresses_that_a_list_takes(server: StandIn, store: Store, tmp_path: Path) -> None:
    bucket = store.new_bucket()
    store.put(bucket, pictures("folder"))
    run_job(explaining(server, f"s3://{bucket}/in", str(tmp_path / "first")))
    table = pyarrow.parquet.read_table([str(path) for path in (tmp_path / "first").glob("*.parquet")])
    paths = table.column("path").to_pylist()
    assert all(path.startswith(f"s3://{bucket}/in/") for path in paths)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(paths))
    job = replace(explaining(server, "", str(tmp_path / "second")), inputs=(), lists=(str(names),))
    assert run_job(job).rows == COUNT
    check({path.name: path.read_bytes() for path in (tmp_path / "second").rglob("*.*") if path.is_file()})


@pytest.mark.slow
def test_a_pattern_on_s3(server: StandIn, store: Store) -> None:
    bucket = store.new_bucket()
    store.put(bucket, pictures("folder"))
    summary = run_job(explaining(server, f"s3://{bucket}/in/*/below/*.png", f"s3://{bucket}/maps"))
    assert (summary.rows, summary.failed) == (COUNT, 0)


def test_a_job_on_s3_goes_on_where_a_shard_and_its_record_were_lost(server: StandIn, store: Store) -> None:
    bucket = store.new_bucket()
    store.put(bucket, pictures("tar"))
    job = explaining(server, f"s3://{bucket}/in", f"s3://{bucket}/maps", resume=True)
    run_job(job)
    before = shards(store.files(bucket))
    records = sorted(name for name in store.files(bucket) if "/shards/" in name)
    # As if it had been killed: the last two shards are not done, and of one the file is there all the same.
    for name in [*records[-2:], "maps/_job/manifest.json", f"maps/{sorted(before)[-1]}"]:
        store.client.delete_object(Bucket=bucket, Key=name)
    summary = run_job(job)
    assert (summary.before, summary.rows) == (COUNT // SHARD_ROWS * SHARD_ROWS - SHARD_ROWS, 12)
    check({name: content for name, content in store.files(bucket).items() if name.startswith("maps/")})
    after = shards(store.files(bucket))
    assert {name: after[name] for name in sorted(before)[:-2]} == {
        name: before[name] for name in sorted(before)[:-2]
    }


@pytest.mark.parametrize("address", ["s3", "memory"])
def test_two_workers_that_begin_at_once_share_one_plan(
    server: StandIn, store: Store, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = store.new_bucket()
    folder = f"{address}://{bucket}"
    files, more = (
        pictures("folder"),
        {"in/0/below/9999.txt": b"left out", "in/9/9998.png": numbered_png(9998)},
    )
    filesystem = fsspec.filesystem(address)
    for name, content in files.items():
        filesystem.pipe_file(f"{bucket}/{name}", content)
    both = threading.Barrier(2, timeout=30)
    turn = threading.Lock()
    found = plan_module.find_entries
    seconds: list[int] = []

    def at_once(*arguments: object, **options: object) -> Iterator[object]:
        """Both find no plan; the second one finds more files, and has its plan when the first one works."""
        both.wait()
        with turn:
            entries = list(found(*arguments, **options))
            is_second = bool(seconds)
            seconds.append(1)
            for name, content in more.items():
                filesystem.pipe_file(f"{bucket}/{name}", content)
        end = time.monotonic() + 30
        while is_second and not filesystem.exists(f"{bucket}/maps/_job/shards/0000000-00000.json"):
            if time.monotonic() > end or filesystem.exists(f"{bucket}/maps/_job/shards/0000001-00000.json"):
                break
            time.sleep(0.01)
        yield from entries

    monkeypatch.setattr(job_module, "find_entries", at_once)
    jobs = [
        explaining(server, f"{folder}/in", f"{folder}/maps", resume=True, worker=(index, 2))
        for index in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        summaries = list(pool.map(run_job, jobs))
    if not any(summary.complete for summary in summaries):  # each saw the other one's last shard missing
        summaries.append(run_job(jobs[0]))
    rows = [
        row
        for path in filesystem.glob(f"{bucket}/maps/part-*.parquet")
        for row in pyarrow.parquet.read_table(io.BytesIO(filesystem.cat_file(path))).to_pylist()
    ]
    numbers = sorted(int(Path(row["path"]).stem) for row in rows)
    assert numbers == list(range(COUNT))
    assert sum(summary.rows for summary in summaries[:2]) == len(numbers)
    assert all(summary.rows for summary in summaries[:2])
    assert summaries[-1].complete or summaries[0].complete


QUICK = {("inputs", "folder")}


@pytest.mark.parametrize(
    ("lost", "kind"),
    [
        pytest.param(lost, kind, marks=() if (lost, kind) in QUICK else pytest.mark.slow)
        for lost in ("inputs", "outputs", "both")
        for kind in KINDS
    ],
)
def test_a_job_whose_credentials_end_stops_and_goes_on_with_new_ones(
    server: StandIn, store: Store, lost: str, kind: str, tmp_path: Path
) -> None:
    bucket = store.new_bucket()
    inputs, out = f"s3://{bucket}/in", f"s3://{bucket}/maps"
    store.put(bucket, pictures(kind))
    if lost == "inputs":
        out = str(tmp_path / "maps")
    if lost == "outputs":
        for name, content in pictures(kind).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        inputs = str(tmp_path / "in")
    job = explaining(server, inputs, out, resume=True)
    whole = requests_of(store, replace(job, out=out + "-whole"))
    store.door.denies = lost == "both"
    stops = 0
    for part in (0.3, 0.6, 0.9):
        store.door.after = int(part * whole) if stops == 0 else int(part * whole / 2)
        stopped = run_until_it_stops(store, job)
        if stopped is not None:
            stops += 1
            # An answer without a body, as to HEAD, has no reason.
            assert re.search("expired|bad request|denied|forbidden", str(stopped).lower())
            assert f"s3://{bucket}/" in str(stopped)
            assert "credentials" in (stopped.hint or "")
        assert not failed_rows(store, bucket, tmp_path), "an image got an error that is not its own"
    assert stops
    summary = run_job(job)
    assert (summary.failed + summary.failed_before, summary.complete) == (0, True)
    check(outputs(store, bucket, tmp_path))


def run_until_it_stops(store: Store, job: Job) -> StorageError | None:
    """What it stops with; afterwards the credentials hold again."""
    try:
        run_job(job)
        return None
    except StorageError as error:
        return error
    finally:
        store.door.refuses, store.door.after = False, None


def requests_of(store: Store, job: Job) -> int:
    """How many the store gets by a whole job."""
    before = store.door.answered
    run_job(job)
    return store.door.answered - before


def outputs(store: Store, bucket: str, folder: Path) -> dict[str, bytes]:
    """The files of the job, wherever it writes them."""
    behind = {name: one for name, one in store.files(bucket).items() if name.startswith("maps/")}
    here = folder / "maps"
    return behind or {str(path): path.read_bytes() for path in here.rglob("*") if path.is_file()}


def failed_rows(store: Store, bucket: str, folder: Path) -> list[str]:
    return [
        row["error"]
        for name, content in outputs(store, bucket, folder).items()
        if name.rpartition("/")[2].startswith("part-")
        for row in pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
        if row["error"]
    ]


def resuming(server: StandIn, bucket: str) -> list[str]:
    """The command of a job on S3 that goes on where it was."""
    command = [
        sys.executable,
        "-m",
        "saliency_client",
        "job",
        f"s3://{bucket}/in",
        "-o",
        f"s3://{bucket}/maps",
    ]
    command += ["--server", ",".join(server.targets), "--model", MODEL, "--shard-rows", str(SHARD_ROWS)]
    return [*command, "--decoders", "0", "--resume"]


def test_the_command_ends_with_3_where_credentials_end(server: StandIn, store: Store) -> None:
    bucket = store.new_bucket()
    store.put(bucket, pictures("folder"))
    command = resuming(server, bucket)
    whole = requests_of(store, explaining(server, f"s3://{bucket}/in", f"s3://{bucket}/other"))
    store.door.denies, store.door.after = False, whole // 2
    try:
        stopped = subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        store.door.refuses, store.door.after = False, None
    assert stopped.returncode == 3, stopped.stderr
    first = stopped.stderr.splitlines()[0]
    assert first.startswith("error: s3://")
    assert re.search("expired|bad request", first.lower())
    assert "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    check({name: content for name, content in store.files(bucket).items() if name.startswith("maps/")})


def test_a_job_that_is_killed_leaves_no_temporary_file_behind_the_one_that_goes_on(
    server: StandIn, store: Store, tmp_path: Path
) -> None:
    bucket = store.new_bucket()
    store.put(bucket, pictures("tar"))
    command = resuming(server, bucket)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as killed:
        until(lambda: list(tmp_path.glob("*.part")))
        killed.kill()
    assert list(tmp_path.glob("*.part"))
    # As of a job that is at work.
    living = tmp_path / "saliency-job-living.part"
    with open(living, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        again = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert again.returncode == 0, again.stderr
    assert list(tmp_path.glob("*.part")) == [living]
    check({name: content for name, content in store.files(bucket).items() if name.startswith("maps/")})


@pytest.mark.slow  # a store is asked again for half a minute
def test_a_job_whose_store_stops_answering_ends_in_words_and_goes_on_when_it_is_back(
    server: StandIn, store: Store
) -> None:
    bucket = store.new_bucket()
    store.put(bucket, pictures("folder"))
    job = explaining(server, f"s3://{bucket}/in", f"s3://{bucket}/maps", resume=True)
    whole = requests_of(store, replace(job, out=job.out + "-whole"))
    store.stop_after(whole // 2)
    try:
        with pytest.raises(StorageError) as caught:
            run_job(job)
    finally:
        store.start_again()
    assert f"s3://{bucket}/" in str(caught.value)
    assert "can be reached" in (caught.value.hint or "")
    assert not failed_rows(store, bucket, Path("none"))
    summary = run_job(job)
    assert (summary.failed + summary.failed_before, summary.complete) == (0, True)
    check({name: one for name, one in store.files(bucket).items() if name.startswith("maps/")})


def test_a_picture_that_is_gone_is_a_row_with_an_error_and_the_job_goes_on(
    server: StandIn, store: Store, tmp_path: Path
) -> None:
    bucket = store.new_bucket()
    store.put(bucket, pictures("folder"))
    names = tmp_path / "names.txt"
    names.write_text(f"s3://{bucket}/in/0/below/0000.png\ns3://{bucket}/in/none.png\n")
    job = replace(explaining(server, "", f"s3://{bucket}/maps"), inputs=(), lists=(str(names),))
    summary: Summary = run_job(job)
    assert (summary.rows, summary.failed) == (2, 1)
    (error,) = failed_rows(store, bucket, tmp_path)
    assert error == f"s3://{bucket}/in/none.png does not exist"
