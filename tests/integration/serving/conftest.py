from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from saliency_exporter.runtime.quiet import import_tensorflow
from saliency_exporter.serving.server import LocalServer

import_tensorflow()


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
