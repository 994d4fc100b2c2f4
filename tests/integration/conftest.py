"""Servers in processes of their own, for tests of any module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess

from saliency_client import RetryPolicy


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


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client waits a hundredth of the time between two attempts: for tests that are not about that time."""
    delay = RetryPolicy.delay

    def soon(*args: object, **kwargs: object) -> float | None:
        seconds = delay(*args, **kwargs)
        return None if seconds is None else seconds / 100

    monkeypatch.setattr(RetryPolicy, "delay", soon)
