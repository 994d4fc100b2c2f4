"""Exports killed at random moments, and exports onto a full disk.

The model base path never shows a version that is not complete; the next export cleans up what was left and
works.
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
import sys
import tempfile
import time
from pathlib import Path

from lab import TESTS, Lab, Outcome, main

START = "started"


def _export(model_dir: str, pipe: object, file_bytes: int) -> None:
    """In a process that has everything imported: say so, then export."""
    from saliency_exporter.cli import main as export

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
    ]
    pipe.send(START)
    export()


class Exports:
    """Starts exports in processes forked from one that has TensorFlow imported."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["saliency_exporter.saved_model", "saliency_exporter.cli"])

    def start(self, model_dir: Path, file_bytes: int = 0) -> multiprocessing.Process:
        """A process that has just begun to export."""
        here, there = self._context.Pipe()
        process = self._context.Process(target=_export, args=(str(model_dir), there, file_bytes))
        process.start()
        there.close()
        if not here.poll(120) or here.recv() != START:
            raise AssertionError("the export did not start")
        return process


def complete(version: Path) -> bool:
    """Whether a version directory has everything, its manifest's verification the last of it."""
    try:
        manifest = json.loads((version / "assets.extra" / "saliency.json").read_text())
    except (OSError, ValueError):
        return False
    names = ("saved_model.pb", "variables/variables.index", "assets.extra/tf_serving_warmup_requests")
    return manifest["verification"] is not None and all((version / name).stat().st_size for name in names)


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
        whole = _whole(outcome, exports, Path(scratch, "timed"), "an undisturbed export")
        model_dir = Path(scratch, "killed")
        broken: list[str] = []
        left = killed = 0
        while killed < count and time.monotonic() < end:
            killed += 1
            process = exports.start(model_dir)
            # Mostly while it works, sometimes in its last moments, when files move.
            moment = rng.uniform(0, whole) if rng.random() < 0.7 else whole * rng.uniform(0.85, 1.1)
            process.join(moment)
            process.kill()
            process.join(30)
            broken += [str(version) for version in shown(model_dir) if not complete(version)]
            left += (
                any(path.name.startswith(".") for path in model_dir.glob(".*")) if model_dir.is_dir() else 0
            )
        outcome.fact("exports killed, of these too late", f"{killed}, {len(shown(model_dir))}")
        outcome.fact("kills that left a partial directory, which no server reads", left)
        outcome.check("versions shown that are not complete", broken or "none", "none", not broken)
        _no_room(outcome, exports, model_dir, bound=20_000)
        _whole(outcome, exports, model_dir, "the next export")
        rest = [path.name for path in model_dir.iterdir() if not path.name.isdigit()]
        outcome.check("left over after it", rest or "none", "none", not rest)
        if file_system:
            _tmpfs(outcome, exports, Path(scratch, "small"))
    return outcome


def _whole(outcome: Outcome, exports: Exports, model_dir: Path, what: str) -> float:
    before = len(shown(model_dir))
    started = time.monotonic()
    process = exports.start(model_dir)
    process.join(120)
    seconds = time.monotonic() - started
    versions = shown(model_dir)
    works = process.exitcode == 0 and len(versions) == before + 1 and all(map(complete, versions))
    outcome.check(what, f"exit {process.exitcode}, {seconds:.1f} s", "works", works)
    return seconds


def _no_room(outcome: Outcome, exports: Exports, model_dir: Path, bound: int) -> None:
    before = len(shown(model_dir))
    process = exports.start(model_dir, file_bytes=bound)
    process.join(120)
    partial = [path.name for path in model_dir.iterdir() if not path.name.isdigit()]
    held = process.exitcode not in (0, None) and not partial and len(shown(model_dir)) == before
    outcome.check(
        f"files of at most {bound} bytes", f"exit {process.exitcode}, left {partial}", "refused", held
    )


def _tmpfs(outcome: Outcome, exports: Exports, mount: Path) -> None:
    mount.mkdir()
    if shutil.which("mount") is None or os.system(f"mount -t tmpfs -o size=64k tmpfs {mount} 2>/dev/null"):
        outcome.fact("a full file system of 64 KiB", "not tried: mounting a tmpfs needs root")
        return
    try:
        process = exports.start(mount / "model")
        process.join(120)
        inside = [path.name for path in (mount / "model").iterdir()]
        held = process.exitcode not in (0, None) and not inside
        outcome.check(
            "a full file system of 64 KiB", f"exit {process.exitcode}, left {inside}", "refused", held
        )
        if not os.system(f"mount -o remount,size=64m {mount}"):
            _whole(outcome, exports, mount / "model", "the export once there is room")
    finally:
        with contextlib.suppress(OSError):
            os.system(f"umount {mount}")


if __name__ == "__main__":
    main(campaign)
