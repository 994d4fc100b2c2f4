"""Bounded concurrency: what is taken is served, what is too much is refused at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import predict_request
from tensorflow_serving.apis import get_model_status_pb2
from waiting import until

from saliency_exporter.runtime.servable import Servable
from saliency_exporter.serving.server import LocalServer
from saliency_exporter.serving.services import PredictionService

REQUEST = predict_request("small", images=np.array([[1.0, 2.0]], np.float32))


class Gate:
    """Holds every computation of a server in this process until it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.entered = 0

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        self.entered += 1
        assert self._opened.wait(60)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    predict = Servable.predict
    monkeypatch.setattr(Servable, "predict", lambda *given, **more: (gate.wait(), predict(*given, **more))[1])
    yield gate
    gate.open()


def outcomes(calls: list) -> list[grpc.StatusCode]:
    codes = []
    for call in calls:
        error = call.exception(timeout=60)
        codes.append(grpc.StatusCode.OK if error is None else error.code())
    return codes


def wait_until_inside(server: LocalServer, requests: int) -> None:
    until(lambda: server._admission._inside >= requests)


def test_beyond_running_and_waiting_a_request_is_refused_at_once(model_dir, gate, start_local, stubs_to):
    server = start_local({"small": model_dir}, running=1, waiting=2)
    stubs = stubs_to(server.target)
    calls = [stubs.predict.future(REQUEST, timeout=60) for _ in range(3)]
    wait_until_inside(server, 3)
    with pytest.raises(grpc.RpcError) as raised:
        stubs.predict(REQUEST, timeout=60)
    assert not any(call.done() for call in calls)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert raised.value.details() == "The server is full: 3 requests running or waiting"
    gate.open()
    assert outcomes(calls) == [grpc.StatusCode.OK] * 3


def test_a_full_server_still_tells_its_status_and_health(model_dir, gate, start_local, stubs_to):
    server = start_local({"small": model_dir}, running=1, waiting=1)
    stubs = stubs_to(server.target)
    calls = [stubs.predict.future(REQUEST, timeout=60) for _ in range(2)]
    wait_until_inside(server, 2)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "small"
    assert stubs.status(request, timeout=30).model_version_status[0].version == 1
    health = health_pb2_grpc.HealthStub(stubs.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert not any(call.done() for call in calls)
    gate.open()
    assert outcomes(calls) == [grpc.StatusCode.OK] * 2


def test_ten_times_its_capacity_at_once_is_answered_or_refused_and_nothing_is_lost(
    model_dir, gate, start_local, stubs_to
):
    server = start_local({"small": model_dir}, running=2, waiting=2)
    stubs = stubs_to(server.target)
    calls = [stubs.predict.future(REQUEST, timeout=60) for _ in range(40)]
    until(lambda: sum(call.done() for call in calls) == 36)
    gate.open()
    assert Counter(outcomes(calls)) == {grpc.StatusCode.OK: 4, grpc.StatusCode.UNAVAILABLE: 36}
    assert outcomes([stubs.predict.future(REQUEST, timeout=60)]) == [grpc.StatusCode.OK]


def test_a_caller_that_gave_up_while_waiting_costs_no_computation(
    model_dir, gate, start_local, stubs_to, monkeypatch
):
    contexts = []
    answer = PredictionService._predict

    def noted(service, request, context):
        contexts.append(context)
        return answer(service, request, context)

    monkeypatch.setattr(PredictionService, "_predict", noted)
    server = start_local({"small": model_dir}, running=1, waiting=8)
    stubs = stubs_to(server.target)
    first = stubs.predict.future(REQUEST, timeout=60)
    until(lambda: gate.entered == 1)
    given_up = [stubs.predict.future(REQUEST, timeout=0.5) for _ in range(6)]
    assert set(outcomes(given_up)) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    until(lambda: not any(context.is_active() for context in contexts[1:]))
    gate.open()
    assert outcomes([first, stubs.predict.future(REQUEST, timeout=60)]) == [grpc.StatusCode.OK] * 2
    assert gate.entered == 2
