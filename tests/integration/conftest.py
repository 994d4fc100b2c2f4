"""Servers in processes of their own, for tests of any module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts server processes; what still runs at the end of the test is killed."""
    started: list[ServerProcess] = []

    def start(*arguments: str | Path, env: dict[str, str] | None = None) -> ServerProcess:
        started.append(ServerProcess(*arguments, env=env))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait(10)
        server.process.stderr.close()
