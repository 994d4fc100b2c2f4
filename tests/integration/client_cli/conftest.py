from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import Cli, known_model
from PIL import Image
from scripted_server import MODEL, ScriptedServer, serving


@pytest.fixture(scope="session")
def _running() -> Iterator[ScriptedServer]:
    with serving(known_model()) as running:
        yield running


@pytest.fixture
def server(_running: ScriptedServer) -> ScriptedServer:
    """The scripted server, as new."""
    _running.reset(known_model())
    return _running


@pytest.fixture
def environment(server: ScriptedServer) -> dict[str, str]:
    return {"SALIENCY_SERVER": server.target, "SALIENCY_MODEL": MODEL}


@pytest.fixture
def cli(tmp_path: Path, environment: dict[str, str]) -> Cli:
    folder = tmp_path / "work"
    folder.mkdir()
    return Cli(folder, environment)


@pytest.fixture
def photo(cli: Cli) -> Path:
    """A blue photo of 60x40, which the model sees from column 10 to column 50."""
    path = cli.folder / "cat.png"
    Image.new("RGB", (60, 40), (10, 20, 250)).save(path)
    return path


@pytest.fixture
def program() -> list[str]:
    """The command in a process of its own."""
    return [sys.executable, "-m", "saliency_client"]
