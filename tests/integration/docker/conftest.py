from __future__ import annotations

from pathlib import Path

import pytest
from docker_files import DOCKER


@pytest.fixture(scope="session")
def settings() -> dict[str, str]:
    """The variables of docker/.env."""
    lines = (DOCKER / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="session")
def server_flags() -> set[str]:
    """Flags of tensorflow_model_server."""
    lines = (Path(__file__).parent / "server_flags.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}
