"""The REST port over HTTP: paths, statuses, bodies, bounds, and a clean stop.

What a body may hold, and how answers are written, is in tests/unit/serving/test_rest_json.py; that both ports
give the same answers is in tests/conformance/test_rest.py.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
from serving_models import WEIGHTS, predict_request
from waiting import until

from saliency_exporter.errors import ExportError
from saliency_exporter.runtime.servable import Servable
from saliency_exporter.serving import rest_server
from saliency_exporter.serving.server import LocalServer

PREDICT = "/v1/models/small:predict"
IMAGES = {"instances": [[1.0, 2.0]]}
LOGITS = (np.array([[1.0, 2.0]], np.float32) @ WEIGHTS * 2)[0].tolist()  # of version 2


def ask(
    server: LocalServer, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, object]:
    """The status and the JSON of an answer, or its text where it is none."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(urlsplit(server.rest_url).netloc, timeout=30)
    try:
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        text = answer.read()
        kind = answer.getheader("Content-Type")
        return answer.status, json.loads(text) if kind == "application/json" else text.decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(saved_versions):
    model = saved_versions[1].parent
    with LocalServer({"small": model}, rest_port=0, poll_seconds=0) as server:
        yield server


def test_the_tiny_model_predicts_in_rows_and_in_columns(server):
    status, rows = ask(server, "POST", PREDICT, IMAGES)
    assert (status, rows["predictions"][0]["logits"]) == (200, LOGITS)
    body = {"signature_name": "explain", "inputs": {"images": [[1.0, 2.0]], "class_index": [1]}}
    status, columns = ask(server, "POST", "/v1/models/small/versions/2:predict", body)
    assert status == 200
    assert columns["outputs"]["gradients"] == [(WEIGHTS[:, 1] * 2).tolist()]
    assert columns["outputs"]["label"] == ["bee"]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("POST", "/v1/models", 400, "Malformed request: POST /v1/models"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/small:predict", 400, "Malformed request: GET /v1/models/small:predict"),
        ("PUT", PREDICT, 400, f"Malformed request: PUT {PREDICT}"),
        (
            "POST",
            "/v1/models/small/version/5:predict",
            400,
            "Malformed request: POST /v1/models/small/version/5:predict",
        ),
        ("POST", "/v1/models/small:PREDICT", 400, "Malformed request: POST /v1/models/small:PREDICT"),
        ("GET", f"/v1/models/small/versions/{2**64}", 400, f"Failed to convert version: {2**64} to numeric."),
        ("POST", "/v1/models/nobody:predict", 404, "Servable not found for request: Latest(nobody)"),
        (
            "POST",
            "/v1/models/small/versions/7:predict",
            404,
            "Servable not found for request: Specific(small, 7)",
        ),
        ("POST", "/v1/models/small/labels/b%20c:predict", 400, "Unrecognized servable version label: b c"),
        ("GET", "/v1/models/nobody", 404, "Could not find any versions of model nobody"),
        ("GET", "/v1/models/small?x=1", 404, "Could not find any versions of model small?x=1"),
        ("GET", "/v1/models/small/versions/7", 404, "Could not find version 7 of model small"),
        ("GET", "/v1/models/nobody/metadata", 404, "Servable not found for request: Latest(nobody)"),
    ],
)
def test_what_a_path_may_be(server, method, path, status, message):
    body = IMAGES if method != "GET" else None
    assert ask(server, method, path, body) == (status, {"error": message})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (
            {"signature_name": "none", "instances": [1]},
            'Serving signature name: "none" not found in signature def',
        ),
        (
            {"signature_name": "explain", "inputs": {"images": [[1.0, 2.0]]}},
            "Missing named input: class_index in 'inputs' object.",
        ),
    ],
)
def test_what_a_body_may_be(server, body, message):
    assert ask(server, "POST", PREDICT, body) == (400, {"error": message})


def test_a_refusal_of_the_runtime_is_not_cut(server):
    long = "x" * 3000
    body = {"signature_name": long, "instances": [[1.0, 2.0]]}
    assert ask(server, "POST", PREDICT, body) == (
        400,
        {"error": f'Serving signature name: "{long}" not found in signature def'},
    )


def test_what_is_not_below_v1_is_not_found(server):
    assert ask(server, "GET", "/index.html") == (404, "Not Found\n")


@pytest.mark.parametrize(
    ("action", "body", "message"),
    [
        (
            "classify",
            {"examples": [{"x": 1}]},
            "Expected classification signature outputs to contain at least",
        ),
        ("regress", {"examples": [{"x": 1}]}, "Expected one output Tensor."),
        ("classify", {"signature_name": "explain", "examples": [{"x": 1}]}, "Expected one input Tensor."),
        (
            "regress",
            {"signature_name": "none", "examples": [1]},
            "No signature was found with the name: none",
        ),
        ("classify", {"instances": [1]}, "JSON Value: "),
        ("regress", {"examples": []}, "JSON Value: "),
    ],
)
def test_classify_and_regress_are_refused_for_what_the_signature_lacks(server, action, body, message):
    # Of `serving_default`, "images" is what is missing first: it has no input called "inputs".
    if action == "classify" and "signature_name" not in body and "examples" in body:
        message = "No classification inputs found in SignatureDef: inputs"
    status, answer = ask(server, "POST", f"/v1/models/small:{action}", body)
    assert status == 400
    assert answer["error"].startswith(message)


def test_status_is_the_message_as_protobuf_writes_it(server):
    available = {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    expected = {"model_version_status": [available]}
    assert ask(server, "GET", "/v1/models/small") == (200, expected)
    assert ask(server, "GET", "/v1/models/small/versions/2") == (200, expected)
    # The server looks at no label here, whichever it is.
    assert ask(server, "GET", "/v1/models/small/labels/any") == (200, expected)


def test_metadata_is_put_together_of_two_messages(server):
    status, told = ask(server, "GET", "/v1/models/small/metadata")
    assert status == 200
    assert told["model_spec"] == {"name": "small", "signature_name": "", "version": "2"}
    explain = told["metadata"]["signature_def"]["signature_def"]["explain"]
    assert explain["inputs"]["class_index"]["dtype"] == "DT_INT32"
    assert explain["inputs"]["class_index"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }
    assert explain["defaults"]["class_index"]["dtype"] == "DT_INT32"


def test_a_gzipped_body_is_unpacked_and_its_size_bounded(server, monkeypatch):
    packed = gzip.compress(json.dumps(IMAGES).encode())
    zipped = {"Content-Encoding": "gzip"}
    assert ask(server, "POST", PREDICT, packed, **zipped)[0] == 200
    status, answer = ask(server, "POST", PREDICT, packed[:-12], **zipped)
    assert (status, "error" in answer) == (400, True)
    monkeypatch.setattr(rest_server, "MAX_BODY_BYTES", 1000)
    large = "The body has more than 1000 bytes: send fewer images, or use gRPC"
    body = {"instances": [[1.0, 2.0]] * 500}
    assert ask(server, "POST", PREDICT, body) == (413, {"error": large})
    assert ask(server, "POST", PREDICT, gzip.compress(json.dumps(body).encode()), **zipped) == (
        413,
        {"error": large},
    )


@pytest.fixture
def gate(monkeypatch):
    """Holds every computation until it is set; `entered` counts them."""
    opened = threading.Event()
    opened.entered = 0
    predict = Servable.predict

    def held(*given, **more):
        opened.entered += 1
        assert opened.wait(60)
        return predict(*given, **more)

    monkeypatch.setattr(Servable, "predict", held)
    yield opened
    opened.set()


def test_both_ports_share_the_places(model_dir, gate, start_local, stubs_to):
    server = start_local({"small": model_dir}, running=1, waiting=2, rest_port=0)
    request = predict_request("small", images=np.array([[1.0, 2.0]], np.float32))
    call = stubs_to(server.target).predict.future(request, timeout=60)
    with ThreadPoolExecutor(8) as pool:
        until(lambda: server._admission._inside == 1)
        asked = [pool.submit(ask, server, "POST", PREDICT, IMAGES) for _ in range(8)]
        until(lambda: sum(one.done() for one in asked) == 6)
        gate.set()
        statuses = Counter(one.result()[0] for one in asked)
    full = {"error": "The server is full: 3 requests running or waiting"}
    assert statuses == {200: 2, 503: 6}
    assert full in [one.result()[1] for one in asked]
    assert call.result(timeout=30).model_spec.version.value == 1


def test_a_caller_that_hung_up_while_waiting_costs_no_computation(model_dir, gate, start_local):
    server = start_local({"small": model_dir}, running=1, waiting=8, rest_port=0)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, server, "POST", PREDICT, IMAGES)
        until(lambda: gate.entered == 1)
        gone = http.client.HTTPConnection(urlsplit(server.rest_url).netloc)
        gone.request("POST", PREDICT, json.dumps(IMAGES))
        until(lambda: server._admission._inside == 2)
        gone.close()
        # What the server notes of a connection it has noted before it answers a later one.
        assert ask(server, "GET", "/v1/models/small")[0] == 200
        gate.set()
        assert first.result()[0] == 200
    until(lambda: server._admission.idle)
    assert gate.entered == 1


def test_a_run_that_took_too_long_is_answered_with_its_end(model_dir, start_local):
    server = start_local({"small": model_dir}, rest_port=0, rest_seconds=0.2)
    body = {"signature_name": "busy", "instances": [0.5]}
    assert ask(server, "POST", PREDICT, body) == (504, {"error": "Timed out waiting for notification"})


def test_a_body_that_does_not_come_holds_no_place_for_ever(model_dir, start_local):
    server = start_local({"small": model_dir}, rest_port=0, rest_seconds=0.3)
    address = urlsplit(server.rest_url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as slow:
        slow.sendall(b"POST /v1/models/small:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert slow.recv(100).startswith(b"HTTP/1.1 504 ")


def test_broken_requests_are_answered_and_the_server_goes_on(server):
    address = urlsplit(server.rest_url)
    for content in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"POST /v1/models/small:predict HTTP/1.1\r\n\r\n"):
        with socket.create_connection((address.hostname, address.port), timeout=20) as broken:
            broken.sendall(content)
            assert broken.recv(100).startswith(b"HTTP/1.1 4")
    assert ask(server, "POST", PREDICT, IMAGES)[0] == 200


def test_a_stop_lets_requests_under_way_finish_and_closes_the_port(model_dir, start_local):
    server = start_local({"small": model_dir}, rest_port=0)
    address = urlsplit(server.rest_url)
    idle = http.client.HTTPConnection(address.netloc)
    idle.request("GET", "/v1/models/small")
    idle.getresponse().read()
    with ThreadPoolExecutor(1) as pool:
        body = {"signature_name": "busy", "instances": [0.4]}
        asked = pool.submit(ask, server, "POST", PREDICT, body)
        until(lambda: server._admission._inside == 1)
        assert server.stop(20)
        assert asked.result()[0] == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address.hostname, address.port), timeout=5)


@pytest.mark.slow
def test_a_call_that_outlasts_the_grace_is_cut_off_and_nothing_is_printed(model_dir, start_server):
    options = ("--rest-port", "0", "--grace", "0.2", "--inter-op-threads", "4", "--no-warmup")
    process = start_server(f"small={model_dir}", *options)
    connection = http.client.HTTPConnection(urlsplit(process.rest_url).netloc, timeout=20)
    connection.request("POST", PREDICT, json.dumps({"signature_name": "busy", "instances": [20.0]}))
    # Another connection is answered: the first request is inside.
    other = http.client.HTTPConnection(urlsplit(process.rest_url).netloc, timeout=20)
    other.request("POST", PREDICT, json.dumps(IMAGES))
    assert other.getresponse().status == 200
    assert process.stop(seconds=15) == (0, "")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (503, {"error": "The server has stopped"})


def test_a_port_that_is_taken_is_an_error_before_the_models_load(model_dir):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ExportError, match=f"cannot listen on 127.0.0.1:{port}") as raised:
            LocalServer({"small": model_dir}, rest_port=port).start()
        assert raised.value.hint == "choose another --rest-port, or 0 for a free one"


def test_the_command_says_where_it_is_and_stops_it(model_dir, start_server):
    process = start_server(f"small={model_dir}", "--rest-port", "0", "--rest-timeout", "5")
    connection = http.client.HTTPConnection(urlsplit(process.rest_url).netloc, timeout=20)
    connection.request("POST", PREDICT, json.dumps(IMAGES))
    assert connection.getresponse().status == 200
    assert process.stop() == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--port", "8500", "--rest-port", "8500"), "--port and --rest-port are both 8500"),
        (("--rest-port", "0", "--encoding", "tensor_content"), "--rest-port does not go with --encoding"),
        (("--rest-port", "0", "--rest-timeout", "0"), "--rest-timeout"),
        (
            ("--rest-port", "0", "--tls-cert", "a", "--tls-key", "b"),
            "--rest-port does not go with --tls-cert",
        ),
    ],
)
def test_options_that_cannot_be(model_dir, options, message):
    from click.testing import CliRunner

    from saliency_exporter.cli import main

    done = CliRunner().invoke(main, ["serve", f"small={model_dir}", *options])
    assert done.exit_code == 2
    assert message in done.output
