from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scripted_server import MODEL, LinearModel, ScriptedServer, serving

from saliency_client import AsyncSaliencyClient, SaliencyClient

# What these files show, both clients do by the same code (`saliency_client._calls`): each test is quick with
# one of them. Files about connections, threads and time are quick with both.
SHARED = {
    "test_client_bounds.py",
    "test_client_calls.py",
    "test_client_local_server.py",
    "test_client_until.py",
    "test_client_until_local.py",
    "test_client_withheld_defaults.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        kind = getattr(item, "callspec", None) and item.callspec.params.get("connect")
        if kind and item.path.name in SHARED:
            # They take turns, so that each file has as many of either.
            first = seen.setdefault(item.location[2].partition("[")[0], len(seen)) % 2
            if kind is (SaliencyClient, Awaited)[first]:
                item.add_marker(pytest.mark.slow)


class Awaited:
    """An AsyncSaliencyClient with its calls awaited, so that one test holds for both clients."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncSaliencyClient(*args, **kwargs)
        self._calls = self.client._calls
        self._channels = self.client._channels

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        return lambda *args, **kwargs: self.loop.run_until_complete(method(*args, **kwargs))

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def explain_many(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._pulled(self.client.explain_many(*args, **kwargs))

    def explain_until(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return self._pulled(self.client.explain_until(*args, **kwargs))

    def _pulled(self, results: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self.loop.run_until_complete(anext(results))
                except StopAsyncIteration:
                    return
        finally:
            self.loop.run_until_complete(results.aclose())


@pytest.fixture
def each_kind() -> tuple[Callable[..., Any], ...]:
    """Makes a client of each kind, for tests that want them side by side; each is closed by `with`."""
    return SaliencyClient, Awaited


@pytest.fixture(params=[SaliencyClient, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes a client of either kind for a server; it is closed after the test."""
    opened = []

    def make(target: ScriptedServer | str | list[str], **options: Any) -> Any:
        address = target.target if isinstance(target, ScriptedServer) else target
        client = request.param(address, **{"model": MODEL, "timeout": 10, **options})
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving() as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer, connect: Callable[..., Any]) -> Any:
    return connect(server)


@pytest.fixture
def images() -> np.ndarray:
    shape = (3, LinearModel.height, LinearModel.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
