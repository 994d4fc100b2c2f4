"""What the engines' tests share: photos, and servers that they stop and kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bulk_engines import write_photos
from server_process import ServerProcess


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("engine") / "photos", 120)


@pytest.fixture
def serve(start_server, uncompiled_version) -> Callable[[], ServerProcess]:
    """Starts a replica."""

    def start() -> ServerProcess:
        return start_server(f"classifier={uncompiled_version.parent}", "--no-warmup")

    return start
