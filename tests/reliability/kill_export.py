"""Exports killed at random moments, and exports onto a full disk.

The model base path never shows a version that is not complete; the next export cleans up what was left and
works. Four of five exports that are killed do without verification, which is a process of its own, takes most
of the time and writes nothing.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lab import TESTS, Lab, Outcome, main

from saliency_exporter.version.manifest import manifest_path

START = "started"
VERIFIED_EVERY = 5


def _export(model_dir: str, pipe: object, file_bytes: int, verified: bool) -> None:
    """In a process that has everything imported: say so, then export."""
    from saliency_exporter.cli import main as export

    os.setsid()  # so that what it starts can be ended with it
    os.chdir(TESTS)
    if file_bytes:
        # Python ignores SIGXFSZ, so that a write beyond the bound fails as on a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    options = ["--preprocessing", "tf", "--batch-sizes", "1", "--target", "cpu", "--compile", "none"]
    sys.argv = [
        "saliency-exporter",
        "export",
        "models:classifier",
        model_dir,
        *options,
        "--methods",
        "gradients",
        "--verify" if verified else "--no-verify",
    ]
    pipe.send(START)
    export()


class Exports:
    """Starts exports in processes forked from one that has TensorFlow imported."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["saliency_exporter.version.write", "saliency_exporter.cli"])

    def start(self, model_dir: Path, file_bytes: int = 0, verified: bool = True) -> multiprocessing.Process:
        """A process that has just begun to export."""
        here, there = self._context.Pipe()
        process = self._context.Process(target=_export, args=(str(model_dir), there, file_bytes, verified))
        process.start()
        there.close()
        if not here.poll(120) or here.recv() != START:
            raise AssertionError("the export did not start")
        return process


def complete(version: Path, whole: Path) -> bool:
    """Whether a version has every file that an undisturbed one has, as long as there, and a manifest."""
    try:
        manifest = json.loads(manifest_path(version).read_text())
    except (OSError, ValueError):
        return False
    return "verification" in manifest and lengths(version) == lengths(whole)


def lengths(version: Path) -> dict[str, int]:
    """The bytes of each file; 1 for those that vary: times in the manifest, hashes in the fingerprint."""
    files = {path.relative_to(version): path for path in version.rglob("*") if path.is_file()}
    varies = ("saliency.json", "fingerprint.pb")
    return {
        str(name): min(path.stat().st_size, 1) if name.name in varies else path.stat().st_size
        for name, path in files.items()
    }


def shown(model_dir: Path) -> list[Path]:
    """The versions that a server would find."""
    return [path for path in model_dir.iterdir() if path.name.isdigit()] if model_dir.is_dir() else []


def campaign(
    lab: Lab, *, count: int = 50, seconds: float = 3600.0, file_system: int = 1, seed: int = 7
) -> Outcome:
    """Kill so many exports, or as many as the time allows; fail one for want of room; then run one.

    With `file_system`, the same on a file system of its own that is full.
    """
    outcome = Outcome("kill -9 of an export")
    rng = random.Random(seed)
    exports = Exports()
    with tempfile.TemporaryDirectory() as scratch:
        end = time.monotonic() + seconds
        timed = Path(scratch, "timed", "model")  # the name of the folder goes into the version
        whole = timed / "1"
        durations = {
            verified: statistics.median(
                _whole(outcome, exports, timed, whole, what, verified=verified) for _ in range(times)
            )
            for verified, times, what in (
                (True, 1, "an undisturbed export"),
                (False, 3, "an undisturbed export, not verified"),
            )
        }
        model_dir = Path(scratch, "killed", "model")
        broken: list[str] = []
        moments: list[float] = []
        left = 0
        while len(moments) < count and time.monotonic() < end:
            verified = len(moments) % VERIFIED_EVERY == 0
            process = exports.start(model_dir, verified=verified)
            moments.append(rng.random())
            process.join(moments[-1] * durations[verified])
            _kill(process)
            broken += [str(version) for version in shown(model_dir) if not complete(version, whole)]
            left += any(model_dir.glob(".*"))
        late = len(shown(model_dir))
        parts = " / ".join(
            str(sum(low <= one < low + 0.25 for one in moments)) for low in (0, 0.25, 0.5, 0.75)
        )
        outcome.check("exports killed", len(moments), f"{count}", len(moments) == count)
        outcome.fact("in each quarter of an undisturbed one's time", parts)
        outcome.fact("too late, so that the version was there", late)
        outcome.fact("kills that left a partial directory, which no server reads", left)
        outcome.check("versions shown that are not complete", broken or "none", "none", not broken)
        _no_room(outcome, exports, model_dir, bound=20_000)
        _whole(outcome, exports, model_dir, whole, "the next export")
        rest = [path.name for path in model_dir.iterdir() if not path.name.isdigit()]
        outcome.check("left over after it", rest or "none", "none", not rest)
        if file_system:
            _tmpfs(outcome, exports, Path(scratch, "small"), whole)
    return outcome


def _kill(process: multiprocessing.Process) -> None:
    """Kill an export at once, and then what it had started, lest that keeps the machine busy."""
    process.kill()
    process.join(30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _whole(
    outcome: Outcome,
    exports: Exports,
    model_dir: Path,
    whole: Path,
    what: str,
    *,
    verified: bool = True,
) -> float:
    before = len(shown(model_dir))
    process = exports.start(model_dir, verified=verified)
    started = time.monotonic()
    process.join(300)
    seconds = time.monotonic() - started
    versions = shown(model_dir)
    works = process.exitcode == 0 and len(versions) == before + 1
    works = works and all(complete(version, whole) for version in versions)
    outcome.check(what, f"exit {process.exitcode}, {seconds:.1f} s", "works", works)
    return seconds


def _no_room(outcome: Outcome, exports: Exports, model_dir: Path, bound: int) -> None:
    before = len(shown(model_dir))
    process = exports.start(model_dir, file_bytes=bound)
    process.join(300)
    partial = [path.name for path in model_dir.iterdir() if not path.name.isdigit()]
    held = process.exitcode not in (0, None) and not partial and len(shown(model_dir)) == before
    outcome.check(
        f"files of at most {bound} bytes", f"exit {process.exitcode}, left {partial}", "refused", held
    )


def _tmpfs(outcome: Outcome, exports: Exports, mount: Path, whole: Path) -> None:
    mount.mkdir()
    if shutil.which("mount") is None or os.system(f"mount -t tmpfs -o size=64k tmpfs {mount} 2>/dev/null"):
        outcome.fact("a full file system of 64 KiB", "not tried: mounting a tmpfs needs root")
        return
    try:
        process = exports.start(mount / "model")
        process.join(300)
        inside = [path.name for path in mount.iterdir()]  # a failed export leaves not even the base path
        held = process.exitcode not in (0, None) and not inside
        outcome.check(
            "a full file system of 64 KiB", f"exit {process.exitcode}, left {inside}", "refused", held
        )
        if not os.system(f"mount -o remount,size=64m {mount}"):
            _whole(outcome, exports, mount / "model", whole, "the export once there is room")
    finally:
        with contextlib.suppress(OSError):
            os.system(f"umount {mount}")


if __name__ == "__main__":
    main(campaign)
