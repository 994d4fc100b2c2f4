"""What tests share: one real exported model, made once a session by the command that users type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def xla_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs that processes of this session share."""
    return tmp_path_factory.mktemp("xla-cache")


def export_classifier(model_dir: Path, *options: str) -> Path:
    """Export the small classifier of tests/models.py to a model base path by the command line."""
    labels = model_dir.parent / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\neel\n")
    command = [sys.executable, "-m", "saliency_exporter", "export", "models:classifier", str(model_dir)]
    command += ["--preprocessing", "tf", "--batch-sizes", "1,4", "--target", "cpu", "--labels", str(labels)]
    command += ["--max-samples", "200", *options]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return model_dir


@pytest.fixture(scope="session")
def exported_model(tmp_path_factory: pytest.TempPathFactory, xla_cache: Path) -> Path:
    """Model base path of a small compiled classifier with all signatures; version 1, batch sizes 1 and 4."""
    directory = tmp_path_factory.mktemp("models")
    return export_classifier(directory / "classifier", "--xla-cache", str(xla_cache))


@pytest.fixture(scope="session")
def exported_version(exported_model: Path) -> Path:
    """Version directory of the small exported classifier."""
    return exported_model / "1"


@pytest.fixture(scope="session")
def uncompiled_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version directory of the same classifier exported with --compile none: loads and runs at once."""
    directory = tmp_path_factory.mktemp("uncompiled-models")
    return export_classifier(directory / "classifier", "--compile", "none", "--no-verify") / "1"
