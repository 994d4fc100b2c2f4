"""Where trained models are kept between runs, and how tests export them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import packages
import preloaded
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """The folder of unpacked packages: in pytest's own cache, which `pytest --cache-clear` empties."""
    return Path(request.config.cache.mkdir("real-models"))


@pytest.fixture
def package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The folder of a package, by its name; it is importable here and in the processes of this test."""

    def get(name: str) -> Path:
        unpacked = packages.unpacked(name, cache)
        monkeypatch.setenv("REAL_MODELS", str(cache))
        before = os.environ.get("PYTHONPATH")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(unpacked), before))))
        monkeypatch.syspath_prepend(unpacked)
        return unpacked

    return get


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """Exports MODEL with options, as a user types it; the version's directory."""

    def run(model: str | Path, *options: str, name: str = "real") -> Path:
        base = tmp_path / "models" / name
        command = [sys.executable, "-m", "saliency_exporter", "export", str(model), str(base)]
        command += ["--target", "cpu", "--compile", "none", "--batch-sizes", "1", *options]
        done = preloaded.run(command, cwd=HERE, timeout=600)
        assert done.returncode == 0, done.stderr
        return base / "1"

    return run
