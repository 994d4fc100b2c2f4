"""A job that is killed, again and again, and goes on: every row once, and what was done untouched."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from stand_in_server import MODEL, StandIn, numbered_png, standing_in

SHARD_ROWS = 24
SIDE = 16


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    """About 300 images a second, so that a job of some hundred lasts as long as its beginning."""
    with standing_in(replicas=2, milliseconds=40, at_a_time=1, side=SIDE) as running:
        yield running


@pytest.fixture(params=["tar", "folder"])
def inputs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Numbered pictures, 400."""
    return write_pictures(tmp_path / "in", 400, request.param)


def write_pictures(folder: Path, count: int, kind: str) -> Path:
    """Numbered pictures in two tar files, or in folders."""
    folder.mkdir()
    pictures = [(f"{number:06d}.png", numbered_png(number, SIDE)) for number in range(count)]
    for half, some in enumerate((pictures[: count // 2 + 5], pictures[count // 2 + 5 :])):
        if kind == "tar":
            with tarfile.open(folder / f"{half}.tar", "w") as tar:
                for name, content in some:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            continue
        (folder / str(half)).mkdir()
        for name, content in some:
            (folder / str(half) / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _imported_from_bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Wherever Python was told to write none: each start of a job would compile all that it imports."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


def start_job(server: StandIn, inputs: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command, as a person types it who does not know whether there is a job already."""
    command = [sys.executable, "-m", "saliency_client", "job", str(inputs), "-o", str(out), "--resume"]
    command += ["--server", ",".join(server.targets), "--model", MODEL, "--batch-size", "4"]
    command += ["--shard-rows", str(SHARD_ROWS), "--decoders", "1", "--concurrency", "2", *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def descendants(pid: int) -> set[tuple[int, str]]:
    """Processes that a process has started, and those of theirs: number and time of start."""
    children: dict[int, set[tuple[int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (known := state_of(int(entry.name))) is not None:
            children.setdefault(int(known[1]), set()).add((int(entry.name), known[19]))
    found: set[tuple[int, str]] = set()
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.add(child)
            todo.append(child[0])
    return found


def state_of(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name: state, parent, …; None: it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields


def wait_for_the_end_of(processes: set[tuple[int, str]], seconds: float = 20) -> None:
    """Fail if one of them still runs after so long."""
    end = time.monotonic() + seconds
    while True:
        alive = [
            pid for pid, since in processes if (state := state_of(pid)) is not None and state[19] == since
        ]
        if not alive:
            return
        assert time.monotonic() < end, f"{len(alive)} processes outlived the job that started them"
        time.sleep(0.02)


def done_digests(out: Path) -> dict[str, str]:
    """Of every shard whose record is there, what its bytes are; they are as the record says."""
    digests = {}
    for record in (out / "_job" / "shards").glob("[0-9]*.json"):
        known = json.loads(record.read_text())
        if known["file"] is not None:
            content = (out / known["file"]).read_bytes()
            digests[known["file"]] = hashlib.sha256(content).hexdigest()
            assert (known["sha256"], known["bytes"]) == (digests[known["file"]], len(content))
    return digests


def check_rows(out: Path, count: int) -> None:
    """Every picture has one row, with the answer that belongs to it."""
    rows = [
        row
        for file in sorted(out.glob("*.parquet"))
        for row in pyarrow.parquet.read_table(file, columns=["path", "key", "score", "error"]).to_pylist()
    ]
    assert not [row["error"] for row in rows if row["error"] is not None]
    numbers = [int(Path(row["key"] or row["path"]).stem) for row in rows]
    assert sorted(numbers) == list(range(count))
    assert [row["score"] for row in rows] == numbers


def kill_again_and_again(server: StandIn, inputs: Path, out: Path, count: int, kills: int, seed: int) -> int:
    """Kill a job at random moments until that was done so often; returns how often it came to its end.

    The moments lie between its start and half as long again as it takes to write its first shard.
    """
    moments = random.Random(seed)
    longest = 1.5 * seconds_to_the_first_shard(server, inputs, out.with_name("first"))
    done: dict[str, str] = {}
    ended = killed = 0
    while killed < kills:
        process = start_job(server, inputs, out)
        try:
            process.wait(moments.uniform(0, longest))
        except subprocess.TimeoutExpired:
            family = descendants(process.pid)
            process.kill()
            process.wait(10)
            wait_for_the_end_of(family)
            killed += 1
        else:
            assert process.returncode == 0, process.stderr.read().decode()
            ended += 1
            check_whole(out, count)
            # Another job: there are kills left.
            out, done = out.with_name(f"maps-{ended}"), {}
        finally:
            process.stderr.close()
        now = done_digests(out)
        assert now.items() >= done.items(), "a shard that was done has changed"
        done = now
    process = start_job(server, inputs, out)
    message = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, message
    assert done_digests(out).items() >= done.items(), "a shard that was done has changed"
    check_whole(out, count)
    return ended


def check_whole(out: Path, count: int) -> None:
    """A job that has ended: all rows, its manifest, and no file of a killed writer."""
    check_rows(out, count)
    manifest = json.loads((out / "_job" / "manifest.json").read_text())
    assert {one["file"]: one["sha256"] for one in manifest["shards"]} == done_digests(out)
    assert manifest["rows"] == count
    assert {path.name for path in out.glob("*.parquet")} == set(done_digests(out))
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


def seconds_to_the_first_shard(server: StandIn, inputs: Path, out: Path) -> float:
    """How long the command takes here to begin."""
    begun = time.monotonic()
    process = start_job(server, inputs, out)
    try:
        while not list(out.glob("part-*.parquet")):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < begun + 60
            time.sleep(0.01)
        return time.monotonic() - begun
    finally:
        family = descendants(process.pid)
        process.kill()
        process.wait(10)
        process.stderr.close()
        wait_for_the_end_of(family)


def test_a_job_killed_five_times_has_every_row_once(server: StandIn, tmp_path: Path) -> None:
    inputs = write_pictures(tmp_path / "in", 240, "tar")
    kill_again_and_again(server, inputs, tmp_path / "maps", 240, kills=5, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_killed_at_fifty_random_moments_has_every_row_once(
    server: StandIn, inputs: Path, tmp_path: Path
) -> None:
    kill_again_and_again(server, inputs, tmp_path / "maps", 400, kills=50, seed=24)


def test_what_a_killed_writer_left_is_gone_at_the_end(server: StandIn, tmp_path: Path) -> None:
    inputs = write_pictures(tmp_path / "in", 60, "tar")
    out = tmp_path / "maps"
    first = start_job(server, inputs, out)
    assert first.wait(120) == 0
    first.stderr.close()
    (out / "_job" / "manifest.json").unlink()
    left = (
        ".part-0000000-00000.parquet.1a2b3c4d.part",
        "_job/.plan.parquet.1a2b3c4d.part",
        "_job/.job.json.1a2b3c4d.part",
        "_job/.manifest.json.1a2b3c4d.part",
        "_job/shards/.0000000-00000.json.1a2b3c4d.part",
    )
    for name in left:
        (out / name).write_bytes(b"PAR1")
    process = start_job(server, inputs, out)
    message = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, message
    check_whole(out, 60)


def test_decoders_end_with_a_job_that_is_killed_while_it_works(server: StandIn, tmp_path: Path) -> None:
    inputs = write_pictures(tmp_path / "in", 400, "folder")
    out = tmp_path / "maps"
    process = start_job(server, inputs, out, "--decoders", "2")
    try:
        while not list(out.glob("part-*.parquet")):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.01)
        family = descendants(process.pid)
        assert len(family) >= 2
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()
    wait_for_the_end_of(family, seconds=10)
    assert os.path.exists(f"/proc/{server.process.pid}")
