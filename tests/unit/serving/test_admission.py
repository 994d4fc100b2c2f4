"""How many requests run side by side, whose turn it is, and which are large."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import tensorflow as tf
from serving_models import predict_request
from tensorflow.core.protobuf import meta_graph_pb2
from waiting import until

from saliency_exporter.runtime.servable import ServableError
from saliency_exporter.serving.admission import Admission
from saliency_exporter.serving.calls import is_large


def test_admission_runs_no_more_than_its_places_side_by_side():
    admission = Admission(running=3, waiting=100)
    lock = threading.Lock()
    together = threading.Barrier(3, timeout=60)
    running, most = 0, 0

    def work(_: int) -> None:
        nonlocal running, most
        with admission.place():
            with lock:
                running += 1
                most = max(most, running)
            together.wait()  # passes only where three run side by side
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


def run_in_order(admission: Admission, requests: list[tuple[str, bool]]) -> list[str]:
    """The order in which requests run that lined up while one client held every running place."""
    order: list[str] = []
    lock, leave = threading.Lock(), threading.Event()

    def hold() -> None:
        with admission.place("holder"):
            leave.wait(30)

    def ask(client: str, large: bool) -> None:
        with admission.place(client, large=large), lock:
            order.append(client)

    threads = [threading.Thread(target=hold) for _ in range(admission._free)]
    threads += [threading.Thread(target=ask, args=request) for request in requests]
    for count, thread in enumerate(threads, 1):
        thread.start()
        until(lambda count=count: admission._inside >= count)
    leave.set()
    for thread in threads:
        thread.join(30)
    return order


def test_clients_take_turns_however_many_requests_each_has():
    order = run_in_order(Admission(1, 64), [("bulk", False)] * 20 + [("one", False)] + [("bulk", False)] * 5)
    assert order.index("one") <= 1
    assert order.count("bulk") == 25


def test_large_requests_leave_a_running_place_to_the_others():
    admission = Admission(running=2, waiting=8)
    inside, leave = threading.Semaphore(0), threading.Event()

    def large() -> None:
        with admission.place("bulk", large=True):
            inside.release()
            leave.wait(30)

    threads = [threading.Thread(target=large) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=30)
    try:
        for _ in range(3):
            with admission.place("other"):
                assert not inside.acquire(blocking=False)
    finally:
        leave.set()
    for thread in threads:
        thread.join(30)
    assert admission.idle


def test_a_server_with_one_running_place_runs_large_requests_too():
    with Admission(running=1, waiting=0).place("bulk", large=True):
        pass


def test_one_client_never_gets_all_places():
    admission = Admission(running=16, waiting=0)
    with ExitStack() as held:
        for _ in range(14):
            held.enter_context(admission.place("bulk"))
        with pytest.raises(ServableError, match="The server is full: 14 requests of this client"):
            held.enter_context(admission.place("bulk"))
        held.enter_context(admission.place("other"))
        held.enter_context(admission.place("third"))
        with pytest.raises(ServableError, match="The server is full: 16 requests running or waiting"):
            held.enter_context(admission.place("fourth"))
    assert admission.idle
    assert not admission._held


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"images": np.zeros((1, 2), np.uint8), "num_samples": np.int32(1000)}, True),
        ({"images": np.zeros((4, 2), np.uint8), "num_samples": np.array([1, 250, 3, 4], np.int32)}, True),
        ({"images": np.zeros((1, 2), np.uint8), "num_samples": np.int32(999)}, False),
        ({"images": np.zeros((20, 2), np.uint8)}, True),  # 20 times the default of 50
        ({"images": np.zeros((19, 2), np.uint8)}, False),
        ({"images": np.zeros((1, 2), np.uint8), "num_samples": "many"}, False),
        ({"seed": np.int32(3)}, False),
    ],
)
def test_a_request_is_large_by_its_images_times_its_samples(inputs, expected):
    signature = meta_graph_pb2.SignatureDef()
    signature.defaults["num_samples"].CopyFrom(tf.make_tensor_proto(np.int32(50)))
    assert is_large(predict_request("small", "explain_smooth", **inputs), signature) is expected


def test_samples_that_would_take_memory_to_count_make_a_request_large():
    request = predict_request("small", "explain_smooth", images=np.zeros((1, 2), np.uint8))
    samples = request.inputs["num_samples"]
    samples.CopyFrom(tf.make_tensor_proto(np.array([1], np.int32)))
    samples.tensor_shape.dim[0].size = 1 << 24  # 64 MiB, made up from one value
    tracemalloc.start()
    try:
        assert is_large(request, None)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_without_samples_the_images_alone_make_a_request_large():
    request = predict_request("small", images=np.zeros((1000, 1), np.uint8))
    assert is_large(request, meta_graph_pb2.SignatureDef())
    assert not is_large(predict_request("small", images=np.zeros((999, 1), np.uint8)), None)
