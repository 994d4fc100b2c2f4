from __future__ import annotations

import numpy as np
import pytest
from saliency_client import SaliencyClient
from scripted_server import MODEL, LinearModel, ScriptedServer, serving


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer):
    with SaliencyClient(server.target, model=MODEL, timeout=10) as connected:
        yield connected


@pytest.fixture
def images() -> np.ndarray:
    shape = (3, LinearModel.height, LinearModel.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
