from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from saliency_exporter.quiet import import_tensorflow
from saliency_exporter.serving import LocalServer
from serving_models import save_model
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

import_tensorflow()

START_SECONDS = 60


@dataclass
class Stubs:
    """The official stubs on one channel."""

    channel: grpc.Channel
    predict: Callable
    metadata: Callable
    status: Callable

    @classmethod
    def to(cls, target: str, credentials: grpc.ChannelCredentials | None = None, **options) -> Stubs:
        arguments = [("grpc.max_receive_message_length", -1), *options.items()]
        if credentials is None:
            channel = grpc.insecure_channel(target, arguments)
        else:
            channel = grpc.secure_channel(target, credentials, arguments)
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        model = model_service_pb2_grpc.ModelServiceStub(channel)
        return cls(channel, prediction.Predict, prediction.GetModelMetadata, model.GetModelStatus)


@pytest.fixture(scope="session")
def saved_versions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Version directories 1 and 2 of the small model; copy them, do not serve them from here."""
    directory = tmp_path_factory.mktemp("saved")
    return {number: save_model(directory / str(number), number=float(number)) for number in (1, 2)}


@pytest.fixture
def model_dir(tmp_path: Path, saved_versions: dict[int, Path]) -> Path:
    """A model base path of this test alone, with version 1."""
    shutil.copytree(saved_versions[1], tmp_path / "model" / "1")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def shared_server(saved_versions: dict[int, Path]) -> Iterator[LocalServer]:
    """A server on a free loopback port that tests only ask and never change."""
    with LocalServer({"small": saved_versions[1].parent}, poll_seconds=0) as server:
        yield server


@pytest.fixture(scope="session")
def stubs(shared_server: LocalServer) -> Iterator[Stubs]:
    stubs = Stubs.to(shared_server.target)
    yield stubs
    stubs.channel.close()


@pytest.fixture
def start_local() -> Iterator[Callable[..., LocalServer]]:
    """Starts servers in this process, on free ports, without polling unless asked to; stops them all."""
    started: list[LocalServer] = []

    def start(models, **options) -> LocalServer:
        server = LocalServer(models, **{"poll_seconds": 0, **options})
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop(5)


@pytest.fixture
def stubs_to() -> Iterator[Callable[..., Stubs]]:
    """Makes official stubs for a target, on a channel that is closed afterwards."""
    made: list[Stubs] = []

    def make(target: str, credentials: grpc.ChannelCredentials | None = None, **options) -> Stubs:
        made.append(Stubs.to(target, credentials, **options))
        return made[-1]

    yield make
    for stubs in made:
        stubs.channel.close()


class ServerProcess:
    """`python -m saliency_exporter.serving` on a free port."""

    def __init__(self, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "saliency_exporter.serving", *map(str, arguments)]
        if "--port" not in arguments:
            command += ["--port", "0"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """The first line of stdout that matches; fails when the process ends without one."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                if self.lines[-1:] == [""] or time.monotonic() > deadline:
                    raise AssertionError(f"no line matches {pattern!r} in {self.lines}")
                self._arrived.wait(1)

    @property
    def target(self) -> str:
        return self.wait_for(r"^listening on (\S+)")[1]

    def stop(self, signal_number: int = signal.SIGTERM, seconds: float = 30) -> tuple[int, str]:
        """Sends the signal; returns the exit code and what was written to stderr."""
        self.process.send_signal(signal_number)
        return self.process.wait(seconds), self.process.stderr.read()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._arrived:
                self.lines.append(line.rstrip("\n"))
                self._arrived.notify_all()
        with self._arrived:
            self.lines.append("")
            self._arrived.notify_all()


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
