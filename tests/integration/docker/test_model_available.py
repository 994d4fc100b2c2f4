"""The health check, run by bash as in the serving image, against the REST port's JSON."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from docker_files import DOCKER
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_status_pb2

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


def answer(*states: str) -> str:
    """What the server's REST port says of a model's versions, in its own form of JSON."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in enumerate(states, start=1):
        value = get_model_status_pb2.ModelVersionStatus.State.Value(state)
        response.model_version_status.add(version=version, state=value)
    return json_format.MessageToJson(
        response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


class Rest(BaseHTTPRequestHandler):
    models: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        text = self.models.get(self.path.removeprefix("/v1/models/"))
        body = (text or '{ "error": "Could not find any versions of model x" }').encode()
        self.send_response(200 if text else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def rest() -> Iterator[int]:
    """Port of a server that answers as TensorFlow Serving's REST port does."""
    Rest.models = {
        "ready": answer("AVAILABLE"),
        "swapping": answer("AVAILABLE", "LOADING"),
        "loading": answer("START", "LOADING"),
        "ended": answer("END"),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(5)


def check(port: int, *models: str, health_models: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "REST_PORT": str(port), "HEALTH_MODELS": health_models}
    command = [BASH, str(DOCKER / "model-available"), *models]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("models", [["ready"], ["swapping"], ["ready", "swapping"]])
def test_healthy_when_every_model_has_a_version_that_is_available(rest, models):
    assert check(rest, *models).returncode == 0


@pytest.mark.parametrize(
    "models", [["loading"], ["ended"], ["unknown"], ["ready", "loading"], ["loading", "ready"]]
)
def test_unhealthy_when_any_has_none(rest, models):
    done = check(rest, *models)
    assert done.returncode == 1
    assert "has no version that is AVAILABLE" in done.stderr


def test_models_come_from_the_environment_of_the_container(rest):
    assert check(rest, health_models="ready swapping").returncode == 0
    assert check(rest, health_models="ready ended").returncode == 1


def test_unhealthy_while_the_port_is_closed():
    with ThreadingHTTPServer(("127.0.0.1", 0), Rest) as closed:
        port = closed.server_port
    assert check(port, "ready").returncode == 1


def test_with_no_model_to_ask_for_it_says_so(rest):
    done = check(rest)
    assert done.returncode == 2
    assert "HEALTH_MODELS" in done.stderr


def test_the_script_is_executable():
    assert os.access(DOCKER / "model-available", os.X_OK)
