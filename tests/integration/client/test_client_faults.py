"""What both clients make of servers and networks that fail, on real sockets."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from covering import covering
from scripted_server import MODEL, LinearModel, ScriptedServer, later, nobody, serving, to_proto
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from waiting import until

from saliency_client import (
    AccessDenied,
    AnswerError,
    AnswerTooLarge,
    Cancelled,
    ClientClosed,
    CompilationUnavailable,
    DeadlineExceeded,
    InvalidArgument,
    ModelFailed,
    ModelNotFound,
    NotReady,
    QueueFull,
    ResourceExhausted,
    RetryPolicy,
    SaliencyClient,
    ServerError,
    SignatureNotFound,
    TokenError,
    Unavailable,
)
from saliency_client._requests import METADATA, PREDICT

QUICK = RetryPolicy(attempts=3, initial_backoff=0.01)
QUEUE_FULL = "The batch scheduling queue to which this task was submitted is full; currently 10 enqueued"
IMAGES = np.zeros((1, LinearModel.height, LinearModel.width, 3), np.uint8)


@contextlib.contextmanager
def breaking_proxy(server: ScriptedServer, breaks: int) -> Iterator[str]:
    """Forwards to the server, but resets its first connections once 100 kB of request went through."""
    listener = socket.create_server(("127.0.0.1", 0))
    left = [breaks]
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                passed += len(data)
                if limit is not None and passed > limit:
                    source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                if limit is not None:
                    one.close()
                else:
                    one.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", server.port))
                sockets.extend((near, far))
                limit = 100_000 if left[0] > 0 else None
                left[0] -= 1
                for arguments in ((near, far, limit), (far, near, None)):
                    threads.append(threading.Thread(target=pump, args=arguments, daemon=True))
                    threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        acceptor.join(5)


def test_a_600_kb_request_is_sent_again_after_unavailable_and_succeeds(connect):
    with serving(LinearModel(224, 224, dtype="float32")) as server:
        client = connect(server, retry=QUICK)
        images = np.ones((1, 224, 224, 3), np.float32)
        assert images.nbytes > 600_000
        server.fail(grpc.StatusCode.UNAVAILABLE, "going away", times=2)

        explanation = client.explain(images, class_index=2)

        assert len(server.requests) == 3
        np.testing.assert_array_equal(explanation.saliency[0], np.abs(server.model.weights[2]).max(-1))


def test_a_connection_reset_in_the_middle_of_a_request_is_survived(connect):
    with serving(LinearModel(224, 224, dtype="float32")) as server, breaking_proxy(server, 1) as target:
        explanation = connect(target).explain(np.ones((1, 224, 224, 3), np.float32))

        assert len(server.requests) == 1
        assert explanation.saliency.shape == (1, 224, 224)


def test_unavailable_to_the_end_tells_everything_that_is_known(server, connect):
    client = connect(server, retry=QUICK, version=1)
    server.fail(grpc.StatusCode.UNAVAILABLE, "going away", times=9)

    with pytest.raises(
        Unavailable, match=r"no server answers at .* \(UNAVAILABLE: going away\), after 3"
    ) as caught:
        client.explain(IMAGES)

    error = caught.value
    assert (error.code, error.details) == (grpc.StatusCode.UNAVAILABLE, "going away")
    assert (error.target, error.model) == (server.target, f"{MODEL}, version 1")
    assert (error.signature, error.attempts) == ("explain_gradients", 3)
    assert isinstance(error.__cause__, grpc.RpcError)
    assert len(server.requests) == 3


STATUS = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (STATUS.INVALID_ARGUMENT, "class_index 9 is outside [-1, 4)", InvalidArgument),
        (STATUS.INVALID_ARGUMENT, "Unrecognized servable version label: x", ModelNotFound),
        (STATUS.NOT_FOUND, "Servable not found for request: Specific(linear, 7)", ModelNotFound),
        (
            STATUS.FAILED_PRECONDITION,
            'Serving signature key "explain_gradients" not found.',
            SignatureNotFound,
        ),
        (STATUS.FAILED_PRECONDITION, "persistent cache directory", ServerError),
        (
            STATUS.RESOURCE_EXHAUSTED,
            "Run() timeout exceeded while waiting in batching queue",
            ResourceExhausted,
        ),
        (STATUS.DEADLINE_EXCEEDED, "too slow", DeadlineExceeded),
        (STATUS.INTERNAL, "XLA compilation disabled", CompilationUnavailable),
        (STATUS.UNIMPLEMENTED, "Could not find compiler for platform CUDA", CompilationUnavailable),
        (STATUS.UNAUTHENTICATED, "no token", AccessDenied),
        (STATUS.PERMISSION_DENIED, "not yours", AccessDenied),
        (STATUS.UNKNOWN, "", ServerError),
        (STATUS.INTERNAL, "out of luck", ServerError),
    ],
)
def test_any_status_but_unavailable_is_raised_at_once_with_the_servers_words(
    server, client, code, details, kind
):
    server.fail(code, details)

    with pytest.raises(kind) as caught:
        client.explain(IMAGES)

    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.details) == (code, details)
    assert details in str(caught.value)
    assert len(server.requests) == 1


def test_a_full_queue_is_told_apart_from_a_server_that_is_gone(server, connect):
    server.fail(grpc.StatusCode.UNAVAILABLE, QUEUE_FULL, times=9)

    with pytest.raises(QueueFull, match="overloaded"):
        connect(server, retry=QUICK).explain(IMAGES)


def test_no_retry_is_begun_that_the_timeout_would_cut_off(server, connect):
    client = connect(server, retry=RetryPolicy(initial_backoff=300, max_backoff=300))
    server.fail(grpc.StatusCode.UNAVAILABLE, "going away", times=9)
    started = time.monotonic()

    with pytest.raises(Unavailable):
        client.explain(IMAGES, timeout=60)

    assert time.monotonic() - started < 50
    assert len(server.requests) == 1


def test_a_server_that_hangs_ends_in_deadline_exceeded(server, client):
    client.methods()
    server.hang()

    with pytest.raises(DeadlineExceeded, match="no answer in time") as caught:
        client.explain(IMAGES, timeout=0.3)

    assert isinstance(caught.value, TimeoutError)
    assert caught.value.signature == "explain_gradients"


def test_a_port_where_nothing_listens_is_named_with_the_usual_one(connect):
    with (
        nobody() as target,
        pytest.raises(Unavailable, match=f"no server answers at {target}") as caught,
    ):
        connect(target, retry=QUICK).explain(IMAGES)

    assert "8500" in caught.value.hint
    assert caught.value.attempts == 3


def test_a_server_that_goes_away_and_comes_back_is_found_again(connect):
    with serving() as first:
        client = connect(first, retry=RetryPolicy(attempts=20, max_backoff=0.5))
        client.explain(IMAGES)
    with later(port=first.port):
        assert client.explain(IMAGES).saliency.shape == (1, 6, 5)


def test_after_a_long_absence_a_server_is_found_by_the_next_call_with_default_options(each_kind):
    """Even where it comes back at the worst moment: gRPC has just tried in vain, its waits are long."""

    def explains(kind: Callable[..., Any]) -> bool:
        with contextlib.ExitStack() as opened:
            with serving() as first:
                client = opened.enter_context(kind(first.target, model=MODEL, timeout=10))
                client.explain(IMAGES)
            with socket.create_server(("127.0.0.1", first.port)) as absent:
                absent.settimeout(30)
                away = time.monotonic() + 4
                while time.monotonic() < away:
                    absent.accept()[0].close()  # one attempt of gRPC's, while the client idles
            with serving(port=first.port):
                return client.explain(IMAGES).saliency.shape == (1, 6, 5)

    # Side by side: each has a server of its own to wait for.
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(explains, each_kind)) == [True, True]


def test_a_server_that_is_not_there_is_told_within_seconds_by_default(each_kind):
    def seconds_until_told(kind: Callable[..., Any]) -> float:
        with nobody() as target, kind(target, model=MODEL, timeout=60) as client:
            started = time.monotonic()
            with pytest.raises(Unavailable):
                client.explain(IMAGES)
            return time.monotonic() - started

    with ThreadPoolExecutor() as pool:
        assert max(pool.map(seconds_until_told, each_kind)) < 40


def test_a_port_that_speaks_grpc_but_not_tensorflow_serving_says_so(connect):
    pool = ThreadPoolExecutor(1)
    server = grpc.server(pool)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ServerError, match="does not speak TensorFlow Serving's gRPC protocol"):
            connect(f"127.0.0.1:{port}").explain(IMAGES)
    finally:
        server.stop(None).wait(10)
        pool.shutdown()


def outputs_of(change):
    """A tamperer of one answer: change(outputs) gets the map of the official message."""
    return lambda response: change(response.outputs)


def claim(name: str, *sizes: int):
    def change(outputs) -> None:
        del outputs[name].tensor_shape.dim[:]
        for size in sizes:
            outputs[name].tensor_shape.dim.add(size=size)

    return change


LIES = [
    (
        claim("saliency", 1, 6, 6),
        r"'saliency' claims shape \[1, 6, 6\], which is 36 values, but holds 30",
    ),
    (claim("saliency", 2**62, 2**62), "'saliency' claims shape .* but holds 30"),
    (claim("saliency", -1, 30), "'saliency' claims the impossible shape"),
    (claim("saliency", 1, 5, 6), r"'saliency' is float32\[1,5,6\]; its signature says float32\[1,6,5\]"),
    (claim("saliency", 0, 2**62), "'saliency' claims shape"),
    (lambda outputs: outputs.pop("saliency"), "the answer lacks saliency"),
    (
        lambda outputs: outputs["saliency"].CopyFrom(to_proto(np.zeros((1, 6, 5), np.int32), typed=True)),
        r"'saliency' is int32\[1,6,5\]; its signature says float32",
    ),
    (
        lambda outputs: outputs["score"].CopyFrom(to_proto(np.zeros(2, np.float32), typed=True)),
        r"'score' is float32\[2\]; its signature says float32\[1\]",
    ),
    (lambda outputs: setattr(outputs["score"], "dtype", 14), "'score' has dtype bfloat16"),
]


@pytest.mark.parametrize(("lie", "typed"), covering(LIES, [True, False]))
def test_an_answer_that_lies_about_itself_is_an_error_that_names_the_output(server, client, lie, typed):
    change, words = lie
    server.typed_answers = typed
    server.tamper = outputs_of(change)

    with pytest.raises(AnswerError, match=words) as caught:
        client.explain(IMAGES)

    assert (caught.value.target, caught.value.model) == (server.target, MODEL)
    assert (caught.value.signature, caught.value.attempts) == ("explain_gradients", 1)


@pytest.mark.parametrize(
    "corrupt", [lambda answer: answer[:-7], lambda answer: b"\xff" * 99], ids=["cut", "noise"]
)
def test_an_answer_that_is_cut_short_or_noise_is_an_error(server, client, corrupt):
    server.corrupt = corrupt

    with pytest.raises(AnswerError, match="not a PredictResponse, or is cut short"):
        client.explain(IMAGES)


def test_an_answer_beyond_the_limit_is_refused(server, connect):
    client = connect(server, max_answer_bytes=5000)
    client.explain(IMAGES)
    server.corrupt = lambda answer: answer + bytes(5000)

    with pytest.raises(AnswerTooLarge, match="larger than this client may receive"):
        client.explain(IMAGES)


def test_an_answer_above_grpcs_own_4_mb_comes_through(connect):
    with serving(LinearModel(512, 512)) as server:
        server.typed_answers = False

        explanation = connect(server).explain(np.zeros((2, 512, 512, 3), np.uint8), outputs="gradients")

        assert explanation.gradients.nbytes > 6_000_000


def test_a_token_provider_is_asked_before_every_attempt(server, connect):
    tokens = iter(["first", "second", "third"])
    client = connect(server, retry=QUICK, token=lambda: next(tokens))
    server.fail(grpc.StatusCode.UNAVAILABLE, "going away")

    client.explain(IMAGES)

    assert [sent["authorization"] for sent in server.metadata] == ["Bearer second", "Bearer third"]


@pytest.mark.parametrize("bad", ["", "two\nlines", "ключ", 7, None])
def test_a_token_that_cannot_be_sent_is_an_error(server, connect, bad):
    with pytest.raises(TokenError, match="not a line of printable ASCII"):
        connect(server, token=lambda: bad).explain(IMAGES)


def test_a_token_provider_that_raises_is_an_error_with_its_cause(server, connect):
    def provider() -> str:
        raise PermissionError("vault is sealed")

    with pytest.raises(TokenError, match="PermissionError: vault is sealed") as caught:
        connect(server, token=provider).explain(IMAGES)

    assert isinstance(caught.value.__cause__, PermissionError)
    assert server.metadata_calls == 0


def test_a_closed_client_says_so(client):
    client.methods()

    client.close()

    with pytest.raises(ClientClosed, match="this client is closed"):
        client.explain(IMAGES)


def test_a_call_that_another_threads_close_overtakes_says_so(server, client, monkeypatch):
    client.methods()
    taken = [client._channels.method]
    monkeypatch.setattr(client._channels, "method", lambda *which: taken[0](*which))
    send = {}
    for path in (METADATA, PREDICT):
        send[path] = taken[0](server.target, path, getattr(client, "loop", None))
    client.close()
    taken[0] = lambda target, path, *loop: send[path]

    with pytest.raises(ClientClosed, match="this client is closed"):
        client.explain(IMAGES)


def test_closing_ends_a_call_under_way(server):
    client = SaliencyClient(server.target, model=MODEL, timeout=20)
    client.methods()
    server.hang()
    caught: list[BaseException] = []

    def call() -> None:
        try:
            client.explain(IMAGES)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: server.running)
    client.close()
    thread.join(30)

    assert [type(error) for error in caught] == [Cancelled]


def test_wait_ready_gives_up_in_time_and_says_what_it_met(server, client):
    server.statuses = [(4, ModelVersionStatus.LOADING, 0, "")]

    with pytest.raises(NotReady, match=r"not ready after 1 s: .* is not AVAILABLE yet: 4 LOADING"):
        client.wait_ready(1)


def test_wait_ready_waits_for_a_server_that_is_not_up_yet(connect):
    with later() as port:
        client = connect(f"127.0.0.1:{port}")

        client.wait_ready(60)

        assert client.status()[0].available


def test_wait_ready_fails_at_once_when_loading_failed(server, client):
    server.statuses = [(1, ModelVersionStatus.END, 5, "no saved_model.pb")]

    with pytest.raises(ModelFailed, match="could not be loaded, version 1: no saved_model"):
        client.wait_ready(30)


@pytest.mark.parametrize("method", ["explain", "signatures", "status", "wait_ready"])
def test_a_wrong_model_name_is_told_by_every_call(server, connect, method):
    client = connect(server, model="resnet")
    arguments = {"explain": [IMAGES], "wait_ready": [0.2]}.get(method, [])
    kind = NotReady if method == "wait_ready" else ModelNotFound

    with pytest.raises(kind, match="serves no such model, version or label: 'resnet'"):
        getattr(client, method)(*arguments)


def test_an_unknown_label_is_told_apart_from_other_invalid_arguments(server, connect):
    with pytest.raises(ModelNotFound) as caught:
        connect(server, label="canary").explain(IMAGES)

    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.model == f"{MODEL}, label canary"


@pytest.mark.parametrize("many", [False, True], ids=["explain", "explain_many"])
def test_ctrl_c_ends_a_hanging_call_at_once(server, many):
    server.hang()
    call = "list(client.explain_many([images[0]]))" if many else "client.explain(images)"
    code = f"""
import signal
import numpy as np
from saliency_client import SaliencyClient
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where a shell runs tests with &
client = SaliencyClient({server.target!r}, model={MODEL!r}, timeout=60)
images = np.zeros((1, 6, 5, 3), np.uint8)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: server.running)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()

    assert (out, process.returncode) == ("interrupted\n", 0)


def test_an_uncaught_ctrl_c_in_explain_many_does_not_hold_up_exit(server):
    server.hang()
    code = f"""
import signal
import numpy as np
from saliency_client import SaliencyClient
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where a shell runs tests with &
client = SaliencyClient({server.target!r}, model={MODEL!r}, timeout=60)
for result in client.explain_many(np.zeros((1, 6, 5, 3), np.uint8)):
    pass
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: server.running)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()

    assert err.strip().endswith("KeyboardInterrupt")
