"""The export command as tests run it: the small classifiers of tests/models.py, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def export_classifier(model_dir: Path, *options: str, model: str = "models:classifier") -> Path:
    """Export a small classifier of tests/models.py to a model base path by the command line."""
    model_dir.parent.mkdir(parents=True, exist_ok=True)
    labels = model_dir.parent / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\neel\n")
    command = [sys.executable, "-m", "saliency_exporter", "export", model, str(model_dir)]
    command += ["--preprocessing", "tf", "--batch-sizes", "1,4", "--target", "cpu", "--labels", str(labels)]
    command += ["--max-samples", "200", *options]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return model_dir
