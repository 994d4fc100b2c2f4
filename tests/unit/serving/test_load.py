"""Bounded concurrency: what is taken is served, what is too much is refused at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_models import predict_request
from tensorflow_serving.apis import get_model_status_pb2

from saliency_exporter.servable import ServableError
from saliency_exporter.serving import LocalServer
from saliency_exporter.serving.admission import Admission


def busy(seconds: float):
    return predict_request("small", "busy", seconds=np.array([seconds], np.float32))


def outcomes(calls: list) -> list[grpc.StatusCode]:
    codes = []
    for call in calls:
        error = call.exception(timeout=60)
        codes.append(grpc.StatusCode.OK if error is None else error.code())
    return codes


def wait_until_inside(server: LocalServer, requests: int) -> None:
    deadline = time.monotonic() + 30
    while server._admission._inside < requests:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_beyond_running_and_waiting_a_request_is_refused_at_once(model_dir, start_local, stubs_to):
    server = start_local({"small": model_dir}, running=1, waiting=2)
    stubs = stubs_to(server.target)
    calls = [stubs.predict.future(busy(seconds), timeout=60) for seconds in (1.5, 0, 0)]
    wait_until_inside(server, 3)
    with pytest.raises(grpc.RpcError) as raised:
        stubs.predict(busy(0), timeout=60)
    assert not any(call.done() for call in calls)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert raised.value.details() == "The server is full: 3 requests running or waiting"
    assert outcomes(calls) == [grpc.StatusCode.OK] * 3


def test_a_full_server_still_tells_its_status_and_health(model_dir, start_local, stubs_to):
    server = start_local({"small": model_dir}, running=1, waiting=1)
    stubs = stubs_to(server.target)
    calls = [stubs.predict.future(busy(seconds), timeout=60) for seconds in (1.5, 0)]
    wait_until_inside(server, 2)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "small"
    assert stubs.status(request, timeout=5).model_version_status[0].version == 1
    health = health_pb2_grpc.HealthStub(stubs.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert not any(call.done() for call in calls)
    assert outcomes(calls) == [grpc.StatusCode.OK] * 2


def test_ten_times_its_capacity_at_once_is_answered_or_refused_and_nothing_is_lost(
    model_dir, start_local, stubs_to
):
    server = start_local({"small": model_dir}, running=2, waiting=2)
    stubs = stubs_to(server.target)
    codes = outcomes([stubs.predict.future(busy(0.2), timeout=60) for _ in range(40)])
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert codes.count(grpc.StatusCode.OK) >= 4
    assert outcomes([stubs.predict.future(busy(0.0), timeout=60)]) == [grpc.StatusCode.OK]


def test_a_caller_that_gave_up_while_waiting_costs_no_computation(model_dir, start_local, stubs_to):
    server = start_local({"small": model_dir}, running=1, waiting=8)
    stubs = stubs_to(server.target)
    first = stubs.predict.future(busy(0.6), timeout=60)
    wait_until_inside(server, 1)
    given_up = [stubs.predict.future(busy(30), timeout=0.2) for _ in range(6)]
    started = time.perf_counter()
    assert set(outcomes(given_up)) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert outcomes([first, stubs.predict.future(busy(0.0), timeout=60)]) == [grpc.StatusCode.OK] * 2
    assert time.perf_counter() - started < 30


def test_admission_runs_no_more_than_its_places_side_by_side():
    admission = Admission(running=3, waiting=100)
    lock = threading.Lock()
    running, most = 0, 0

    def work(_: int) -> None:
        nonlocal running, most
        with admission.place():
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.002)
            with lock:
                running -= 1

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(work, range(90)))
    assert most == 3
    assert admission.idle


def test_a_place_is_given_back_when_the_request_fails():
    admission = Admission(running=1, waiting=0)
    for _ in range(3):
        with pytest.raises(KeyError), admission.place():
            raise KeyError
    with admission.place(), pytest.raises(ServableError, match="full"), admission.place():
        pass
