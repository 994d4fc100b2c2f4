"""Runs of an engine's example as a process of the engine's own Python, and what is killed in their middle.

A server is stopped (SIGSTOP) once the run has written something. What the workers send it then waits in its
sockets, so that a worker, or that server, can be killed with a request on its way for certain, and not
perhaps, as after a pause.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import skimage.data
from PIL import Image
from rounding import ROUNDING, ULP, assert_equal_to_rounding
from server_process import ServerProcess
from waiting import until

from saliency_client import SaliencyClient
from saliency_client.bulk import read_map
from saliency_client.images import load_image

ROOT = Path(__file__).parents[3]
BROKEN = "broken.jpg"
SECONDS = 150.0
_A_REQUEST = 4096
"""Bytes that no ping or setting of a connection has, and every request with images."""


def write_photos(folder: Path, count: int) -> Path:
    """Crops of three photos as JPEG files, no two alike, and one file that is no picture."""
    folder.mkdir()
    sources = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut()]
    generator = np.random.default_rng(5)
    for index in range(count):
        photo = sources[index % len(sources)]
        top, left = (int(generator.integers(0, size - 160)) for size in photo.shape[:2])
        crop = photo[top : top + 160, left : left + 160]
        Image.fromarray(crop).save(folder / f"{index:04d}.jpg", quality=92)
    (folder / BROKEN).write_text("no picture")
    return folder


@contextmanager
def running(command: list[str | Path], folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """An example on its way, with this working tree's client; all that it started ends with the test."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "client"),
        "HOME": str(folder),
        "TMPDIR": "/tmp",  # Ray's sockets lie below it, and their paths have to be short.
        **variables,
    }
    log = folder / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        for pid in [process.pid, *descendants(process.pid)]:
            _kill(pid)
        process.wait(30)


def succeeded(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait for a run, which must succeed."""
    code = process.wait(SECONDS)
    assert code == 0, (folder / "log.txt").read_text()[-6000:]


def stop_in_the_middle(server: ServerProcess, output: Path) -> None:
    """Stop a server when a first file is being written; return when a request waits for it in vain."""
    until(lambda: any(output.rglob("*.parquet")), SECONDS)
    until(lambda: _stopped_with_a_request(server), SECONDS)


def waiting_clients(server: ServerProcess) -> list[int]:
    """Processes with a request that a server has not read."""
    port = int(server.target.rpartition(":")[2])
    sockets = list(_sockets())
    remote = {one.remote for one in sockets if one.local == port and one.unread >= _A_REQUEST}
    inodes = {one.inode for one in sockets if one.remote == port and one.local in remote}
    return [pid for pid in _processes() if inodes & _socket_inodes(pid)] if inodes else []


def kill_a_waiting_client(server: ServerProcess, process: subprocess.Popen[str]) -> str:
    """Kill a worker of a run that waits for a stopped server; the command that it was."""
    (pid, *_) = [one for one in waiting_clients(server) if one in descendants(process.pid)]
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    os.kill(pid, signal.SIGKILL)
    return command


def descendants(pid: int) -> list[int]:
    """Processes that one has started, and those that they have."""
    parents = {one: _parent(one) for one in _processes()}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def assert_each_photo_once(rows: list[dict[str, Any]], photos: Path, server: str, method: str) -> None:
    """A row for each file; with what `explain` gives of the photo, to the precision of float16 maps."""
    by_name = {Path(unquote(urlparse(row["path"]).path)).name: row for row in rows}
    times = Counter(Path(row["path"]).name for row in rows)
    files = Counter(path.name for path in photos.iterdir())
    assert times == files, f"missing: {files - times}, too many: {times - files}"

    broken = by_name.pop(BROKEN)
    assert broken["error"] == "the file is not an image", broken
    assert {name for name, value in broken.items() if value is not None} == {"path", "error"}, broken

    with SaliencyClient(server, model="classifier") as client:
        for name, row in by_name.items():
            assert row["error"] is None, name
            photo = load_image(photos / name, (32, 32))
            want = client.explain(photo.array, method=method)
            assert (row["class_index"], row["label"]) == (want.class_index[0], want.label[0]), name
            assert row["version"] == want.version
            for number in ("score", "probability"):
                got = np.array([row[number]], np.float32)
                assert_equal_to_rounding(got, want[number], name=f"{name}: {number}")
            assert_stored(row, want["saliency"][0])


def assert_stored(row: dict[str, Any], want: np.ndarray) -> None:
    """The float16 map of a row: 11 bits of each value, beside the rounding of another call."""
    got = read_map(row["map"], row["map_scale"], row["map_shape"], "float16")
    assert got.shape == want.shape
    largest = np.abs(want).max()
    # Half a unit of float16's 11 bits, or of its smallest number where the scaled value is below 2⁻¹⁴.
    bound = 2.0**-11 * np.abs(want) + 2.0**-25 * row["map_scale"] + ROUNDING * ULP * largest
    assert (np.abs(got - want) <= bound).all(), row["path"]


def _stopped_with_a_request(server: ServerProcess) -> bool:
    """Stop a server; where no request comes, as while workers connect or decode, let it go on."""
    server.process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        if waiting_clients(server):
            return True
        time.sleep(0.02)
    server.process.send_signal(signal.SIGCONT)
    return False


class _Socket:
    """A line of /proc/net/tcp."""

    def __init__(self, line: str) -> None:
        fields = line.split()
        self.local, self.remote = (int(field.rpartition(":")[2], 16) for field in fields[1:3])
        self.unread = int(fields[4].rpartition(":")[2], 16)
        self.inode = fields[9]


def _sockets() -> Iterator[_Socket]:
    # gRPC's connections to 127.0.0.1 may be of either family.
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            yield _Socket(line)


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                kind, _, inode = os.readlink(link).partition(":")
            except OSError:
                continue
            if kind == "socket":
                inodes.add(inode.strip("[]"))
    except OSError:  # It has ended, or is another user's.
        pass
    return inodes


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
