"""The export command as tests run it: the small classifiers of tests/models.py, in a process of its own."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable
from pathlib import Path

import preloaded

TESTS = Path(__file__).parent
THREE = ("gradients", "guided", "smooth")
"""Methods of three sorts: what tests export that are not about methods."""


def once(folder: Path, make: Callable[[Path], Path]) -> Path:
    """What make(folder) gives; the first worker of a run that asks makes it, the others wait for it.

    The answer is a path below `folder`.
    """
    folder.mkdir(exist_ok=True)
    done = folder / ".made"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            done.write_text(str(make(folder)))
    return Path(done.read_text())


def export_classifier(model_dir: Path, *options: str, model: str = "models:classifier") -> Path:
    """Export a small classifier of tests/models.py to a model base path by the command line."""
    model_dir.parent.mkdir(parents=True, exist_ok=True)
    labels = model_dir.parent / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\neel\n")
    command = [sys.executable, "-m", "saliency_exporter", "export", model, str(model_dir)]
    command += ["--preprocessing", "tf", "--batch-sizes", "1,4", "--target", "cpu", "--labels", str(labels)]
    command += ["--max-samples", "200", "--methods", ",".join(THREE), *options]
    done = preloaded.run(command, cwd=TESTS)
    assert done.returncode == 0, done.stderr
    return model_dir
