"""How the clients connect: targets, options, TLS, several servers, injected channels."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import sys
import threading
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from scripted_server import MODEL, LinearModel, nobody, serving

from saliency_client import (
    TLS,
    AsyncSaliencyClient,
    InputError,
    NotReady,
    OptionError,
    RetryPolicy,
    SaliencyClient,
    TLSError,
    Unavailable,
)
from saliency_client._channel import ChannelOptions, Rotation, is_local, parse_targets

IMAGES = np.zeros((1, LinearModel.height, LinearModel.width, 3), np.uint8)
CERTIFICATES = Path(__file__).parent / "certificates"


def pem(name: str) -> bytes:
    return (CERTIFICATES / name).read_bytes()


@pytest.mark.parametrize(
    "target",
    [
        "localhost:8500",
        "127.0.0.1:8500",
        "[::1]:8500",
        "dns:///serving.prod.svc.cluster.local:8500",
        "dns://1.1.1.1/serving:8500",
        "unix:/run/serving.sock",
        "unix:///run/serving.sock",
        "ipv4:10.0.0.1:8500,10.0.0.2:8500",
        "xds:///serving",
    ],
)
def test_a_target_that_grpc_understands_is_taken_as_it_is(target):
    assert parse_targets(target) == (target,)


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("localhost", "give 'localhost:8500'"),
        ("http://localhost:8501", "give 'localhost:8500'"),
        ("https://serving.example.org/v1/models/m", "give 'serving.example.org:8500'"),
        ("grpc://serving:9000", "give 'serving:9000'"),
        ("localhost:http", "give 'localhost:8500'"),
        (":8500", "give 'host:8500'"),
        ("localhost:99999", "give 'localhost:8500'"),
        ("localhost:65536", "give 'localhost:8500'"),
        ("localhost:0", "give 'localhost:8500'"),
        ("localhost:070000", "give 'localhost:8500'"),
        ("localhost:٨٥٠٠", "give 'localhost:8500'"),
        ("[::1]:99999", "give '[::1]:8500'"),
        ("dns:///serving:99999", "give 'serving:8500'"),
        ("ipv4:127.0.0.1:99999", "give '127.0.0.1:8500'"),
        ("ipv4:127.0.0.1:8500,127.0.0.2:99999", "give '127.0.0.2:8500'"),
        ("ipv6:[::1]:0", "give '[::1]:8500'"),
        ("grpc://serving:99999", "give 'serving:8500'"),
        (8500, "give 'host:8500', or a list"),
        (("localhost", 8500), "give 'localhost:8500'"),
        (["localhost:8500", None], "give 'host:8500', or a list"),
        (b"localhost:8500", "give 'host:8500', or a list"),
        ({"localhost:8500": 1}, "give 'host:8500', or a list"),
        ("", "give 'host:8500'"),
        ("local host:8500", "give 'host:8500'"),
        ([], "give 'host:8500'"),
        (["localhost:8500", "other"], "give 'other:8500'"),
    ],
)
def test_a_target_that_cannot_work_is_refused_with_the_form_it_should_have(target, hint):
    with pytest.raises(OptionError) as caught:
        SaliencyClient(target, model=MODEL)

    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:8500", True),
        ("127.0.0.1:8500", True),
        ("[::1]:8500", True),
        ("unix:/run/s", True),
        ("dns:///localhost:8500", True),
        ("ipv4:127.0.0.1:8500", True),
        ("serving:8500", False),
        ("dns:///localhost.example.org:8500", False),
        ("127.0.0.1.example.org:8500", False),
    ],
)
def test_which_targets_stay_on_this_machine(target, local):
    assert is_local(target) == local


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": ""}, "model is ''"),
        ({"version": 1, "label": "stable"}, "version 1 and label 'stable' are both given"),
        ({"version": -1}, "version is -1"),
        ({"version": "1"}, "version is '1'"),
        ({"version": True}, "version is True"),
        ({"version": 1.0}, "version is 1.0"),
        ({"version": 2**63}, "version is 9223372036854775808"),
        ({"label": 7}, "label is 7"),
        ({"label": ""}, "label is ''"),
        ({"retry": 3}, "retry is 3; it must be a RetryPolicy"),
        ({"tls": "yes"}, "tls is of type str"),
        ({"user_agent": "a\nb"}, "user_agent is .* must be a line"),
        ({"user_agent": 5}, "user_agent is 5"),
        ({"keepalive": 0}, "keepalive is 0"),
        ({"keepalive": float("inf")}, "keepalive is inf"),
        ({"keepalive": float("nan")}, "keepalive is nan"),
        ({"keepalive": True}, "keepalive is True"),
        ({"keepalive": "9"}, "keepalive is '9'"),
        ({"keepalive": 1e9}, "keepalive is 1000000000.0"),
        ({"max_answer_bytes": 2.5}, "max_answer_bytes is 2.5"),
        ({"max_answer_bytes": True}, "max_answer_bytes is True"),
        ({"metadata": {5: "a"}}, "metadata key 5 must be"),
        ({"metadata": {None: "a"}}, "metadata key None must be"),
        ({"metadata": {b"x-tenant": "a"}}, "metadata key b'x-tenant' must be"),
        ({"metadata": [("x-tenant",)]}, "it must be a pair"),
        ({"metadata": ["ab"]}, "it must be a pair"),
        ({"metadata": [5]}, "it must be a pair"),
        ({"metadata": "x-tenant=a"}, "it must be a mapping"),
        ({"metadata": 5}, "it must be a mapping"),
        ({"metadata": {"x-tenant": ["a"]}}, r"metadata 'x-tenant' is \['a'\]"),
        ({"compression": "zip"}, "compression is 'zip'"),
        ({"max_answer_bytes": 0}, "max_answer_bytes is 0"),
        ({"metadata": {"X-Tenant": "a"}}, "metadata key 'X-Tenant' must be lower-case"),
        ({"metadata": {"grpc-timeout": "1"}}, "metadata key 'grpc-timeout'"),
        ({"metadata": {"saliency-signature": 5}}, "metadata 'saliency-signature' is 5; it must be text"),
        ({"metadata": {"saliency-signature": None}}, "metadata 'saliency-signature' is None"),
        ({"metadata": {"x-tenant": b"a"}}, "bytes go with keys that end in '-bin'"),
        ({"metadata": [("x-tenant-bin", "a")]}, "bytes go with keys that end in '-bin'"),
        ({"metadata": {"x-tenant": "ä"}}, "holds characters that gRPC cannot send"),
        ({"target": None}, "no target is given"),
        ({"target": "serving:8500", "token": "secret"}, "a token would cross the network in plain text"),
        ({"channel": grpc.insecure_channel("127.0.0.1:1")}, "goes without target"),
        (
            {"target": None, "channel": grpc.insecure_channel("127.0.0.1:1"), "keepalive": 9},
            "goes without target",
        ),
        ({"tls": TLS(ca="missing.pem")}, "TLS ca cannot be read: .*missing.pem"),
        ({"tls": TLS(ca=b"not pem")}, "TLS ca is not PEM"),
        ({"tls": TLS(ca=7)}, "TLS ca is of type int"),
        ({"tls": TLS(certificate=pem("client.pem"))}, "needs both certificate and key"),
        ({"tls": TLS(ca=pem("server.key"))}, "TLS ca holds a private key, and not a certificate"),
        (
            {"tls": TLS(ca=CERTIFICATES / "server.key")},
            "TLS ca holds a private key, and not a certificate: .*server.key",
        ),
        (
            {"tls": TLS(certificate=CERTIFICATES / "client.key", key=pem("client.key"))},
            "TLS certificate holds a private key, and not a certificate: .*client.key",
        ),
        (
            {"tls": TLS(certificate=pem("client.pem"), key=CERTIFICATES / "client.pem")},
            "TLS key holds a certificate, and not a private key: .*client.pem",
        ),
        (
            {"tls": TLS(ca=b"-----BEGIN CERTIFICATE REQUEST-----")},
            "TLS ca holds a request for a certificate, and not a certificate",
        ),
        (
            {"tls": TLS(certificate=pem("client.pem"), key=b"-----BEGIN PUBLIC KEY-----")},
            "TLS key holds a public key, and not a private key",
        ),
        (
            {"tls": TLS(certificate=pem("client.pem"), key=b"-----BEGIN ENCRYPTED PRIVATE KEY-----")},
            "TLS key holds a private key under a password",
        ),
        (
            {
                "tls": TLS(
                    certificate=pem("client.pem"),
                    key=b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
                )
            },
            "TLS key holds a private key under a password",
        ),
    ],
)
@pytest.mark.parametrize("kind", [SaliencyClient, AsyncSaliencyClient])
def test_an_option_that_cannot_work_is_refused_by_the_constructor(kind, options, words):
    with pytest.raises(OptionError, match=words):
        kind(**{"target": "localhost:8500", "model": MODEL, **options})


def test_a_token_may_go_in_plain_text_on_this_machine_or_over_tls():
    SaliencyClient("localhost:8500", model=MODEL, token="secret").close()
    SaliencyClient("serving:8500", model=MODEL, token="secret", tls=True).close()


def test_numbers_may_be_numpys_and_the_client_knows_its_models_name():
    options = {"version": np.int64(3), "keepalive": np.float32(30), "max_answer_bytes": np.int32(9)}
    with SaliencyClient("localhost:8500", model=MODEL, timeout=np.float32(5), **options) as client:
        assert client.model == MODEL
        assert client._calls.model.spec().version.value == 3
    arguments = dict(ChannelOptions(keepalive=np.float32(30), max_answer_bytes=np.int32(9)).arguments())
    assert arguments["grpc.keepalive_time_ms"] == 30_000
    assert type(arguments["grpc.max_receive_message_length"]) is int


@pytest.mark.parametrize(
    "target",
    [
        "localhost:1",
        "localhost:65535",
        "ipv4:127.0.0.1:8500,127.0.0.2:8501",
        "ipv6:[::1]:8500",
        "xds:///name",
    ],
)
def test_targets_that_grpc_takes_are_taken(target):
    assert parse_targets(target) == (target,)


@pytest.mark.parametrize("timeout", [1e9, 1e10, sys.maxsize, 10**400, float("inf"), np.float32("inf")])
def test_a_timeout_that_no_clock_counts_to_is_no_limit(server, connect, timeout):
    for client in (connect(server, timeout=timeout), connect(server)):
        client.wait_ready(timeout)
        assert client.explain(IMAGES, timeout=timeout).saliency.shape == (1, 6, 5)
    assert next(connect(server, timeout=timeout)._calls.status()).timeout in (None, pytest.approx(1e9))


@pytest.mark.parametrize("timeout", [0, -1, float("-inf"), float("nan"), True, "5"])
def test_a_timeout_that_is_no_time_is_refused_by_the_constructor(timeout):
    with pytest.raises(InputError, match="it must be seconds above 0"):
        SaliencyClient("localhost:8500", model=MODEL, timeout=timeout)


def test_channel_arguments_of_the_caller_win():
    arguments = ChannelOptions(keepalive=30, extra=(("grpc.keepalive_time_ms", 7), ("grpc.x", 1))).arguments()

    assert dict(arguments)["grpc.keepalive_time_ms"] == 7
    assert dict(arguments)["grpc.x"] == 1
    assert dict(arguments)["grpc.lb_policy_name"] == "round_robin"


def test_metadata_and_user_agent_arrive(server, connect):
    client = connect(
        server, metadata={"x-tenant": "a", "x-trace-bin": b"\x00\xff"}, user_agent="shop/2", token="secret"
    )

    client.explain(IMAGES)

    sent = server.metadata[0]
    assert (sent["x-tenant"], sent["x-trace-bin"], sent["authorization"]) == (
        "a",
        b"\x00\xff",
        "Bearer secret",
    )
    assert sent["user-agent"].startswith("shop/2 saliency-client/")


def test_a_call_tells_proxies_its_signature_and_a_call_without_one_tells_none(server, connect):
    client = connect(server, metadata={"x-tenant": "a"})

    client.explain(IMAGES, method="smooth")
    client.predict(IMAGES)

    assert [sent.get("saliency-signature") for sent in server.metadata] == [
        "explain_smooth",
        "serving_default",
    ]
    assert all(sent["x-tenant"] == "a" for sent in server.metadata)
    client._calls.forget()
    asked = next(client._calls.metadata())
    assert (asked.path, asked.metadata) == (
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        (("x-tenant", "a"),),
    )


def test_a_retried_call_tells_its_signature_again(server, connect):
    server.fail(grpc.StatusCode.UNAVAILABLE, "draining")

    connect(server).explain(IMAGES, method="smooth")

    assert [sent["saliency-signature"] for sent in server.metadata] == ["explain_smooth"] * 2


def test_the_callers_own_word_for_the_signature_wins(server, connect):
    connect(server, metadata={"saliency-signature": "nightly"}).explain(IMAGES)

    assert server.metadata[0]["saliency-signature"] == "nightly"


@pytest.mark.parametrize("name", ["klassifizieren·1", "two words", "", "a" * 129, "line\nbreak"])
def test_a_signatures_name_that_is_no_header_is_not_sent(server, connect, name):
    calls = connect(server)._calls

    assert calls._told(name) == ()
    assert calls._told("a" * 128) == (("saliency-signature", "a" * 128),)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests_are_understood(server, connect, compression):
    connect(server, compression=compression, keepalive=60).explain(IMAGES)

    assert len(server.requests) == 1


def test_a_token_provider_may_be_a_coroutine_function(server):
    async def provider() -> str:
        await asyncio.sleep(0)
        return "fetched"

    async def main() -> None:
        async with AsyncSaliencyClient(server.target, model=MODEL, token=provider) as client:
            await client.explain(IMAGES)

    asyncio.run(main())

    assert server.metadata[0]["authorization"] == "Bearer fetched"


def test_a_unix_socket_is_a_target(connect, tmp_path):
    with serving(address=f"unix:{tmp_path}/serving.sock") as server:
        connect(f"unix:{tmp_path}/serving.sock").explain(IMAGES)

        assert len(server.requests) == 1


def test_several_targets_take_turns(connect):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving()) for _ in range(3)]
        client = connect([server.target for server in servers])
        client.methods()

        for _ in range(9):
            client.explain(IMAGES)

        assert [len(server.requests) for server in servers] == [3, 3, 3]


def test_a_target_that_is_gone_is_tried_once_and_then_passed_over(connect):
    with nobody() as gone, serving() as here:
        client = connect([gone, here.target], retry=RetryPolicy(attempts=1))
        with pytest.raises(Unavailable) as caught:
            client.methods()
        assert caught.value.target == gone

        for _ in range(6):
            client.explain(IMAGES)

        assert len(here.requests) == 6


def test_a_retry_goes_to_the_next_target(connect):
    with nobody() as gone, serving() as here:
        client = connect([gone, here.target], retry=RetryPolicy(attempts=2, initial_backoff=0.01))

        assert client.methods() == ("gradients", "smooth")


def test_one_name_with_several_addresses_is_shared_out(connect):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving()) for _ in range(2)]
        client = connect("ipv4:" + ",".join(server.target for server in servers))
        for _ in range(50):  # round robin begins once both connections stand
            client.explain(IMAGES)

        assert min(len(server.requests) for server in servers) >= 10


def test_rotation_passes_over_a_failed_target_for_five_seconds():
    now = [100.0]
    rotation = Rotation(["a", "b", "c"], clock=lambda: now[0])
    assert [rotation.pick() for _ in range(4)] == ["a", "b", "c", "a"]

    rotation.failed("b")
    assert [rotation.pick() for _ in range(4)] == ["c", "a", "c", "a"]
    now[0] += 5
    assert [rotation.pick() for _ in range(3)] == ["b", "c", "a"]


def test_rotation_goes_on_through_all_targets_when_all_failed_and_forgives_one_that_answers():
    rotation = Rotation(["a", "b"], clock=lambda: 0.0)
    rotation.failed("a")
    rotation.failed("b")
    assert [rotation.pick() for _ in range(4)] == ["a", "b", "a", "b"]

    rotation.answered("b")
    assert [rotation.pick() for _ in range(2)] == ["b", "b"]


@pytest.fixture
def tls_server():
    credentials = grpc.ssl_server_credentials([(pem("server.key"), pem("server.pem"))])
    with serving(credentials=credentials) as server:
        yield server


TRUST = TLS(ca=CERTIFICATES / "ca.pem", server_name="serving.test")


def test_tls_with_a_private_authority(tls_server, connect):
    assert connect(tls_server, tls=TRUST, token="secret").methods() == ("gradients", "smooth")


@pytest.mark.usefixtures("hasty")
def test_mutual_tls_shows_the_clients_certificate(connect):
    credentials = grpc.ssl_server_credentials(
        [(pem("server.key"), pem("server.pem"))], pem("ca.pem"), require_client_auth=True
    )
    with serving(credentials=credentials) as server:
        own = TLS(
            ca=TRUST.ca,
            certificate=CERTIFICATES / "client.pem",
            key=pem("client.key"),
            server_name="serving.test",
        )

        assert connect(server, tls=own).methods() == ("gradients", "smooth")
        with pytest.raises(Unavailable, match="closed the connection") as caught:
            connect(server, tls=TRUST).methods()
        assert "a client certificate" in caught.value.hint


@pytest.mark.parametrize(
    "tls",
    [True, TLS(ca=TRUST.ca), TLS(ca=TRUST.ca, server_name="other.test")],
    ids=["an unknown authority", "another host name", "another expected name"],
)
def test_a_certificate_that_does_not_match_is_told_at_once_as_such(tls_server, connect, tls):
    with pytest.raises(TLSError, match="no TLS connection to") as caught:
        connect(tls_server, tls=tls, retry=RetryPolicy(attempts=4, initial_backoff=5)).methods()

    assert caught.value.attempts == 1
    assert "tls=TLS(ca=…, server_name=…)" in caught.value.hint


# localhost has two addresses, and nothing listens on one of them.
HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])


@HOSTS
def test_tls_to_a_server_without_it_is_told_as_such(server, connect, host):
    with pytest.raises(TLSError, match=f"{host}:{server.port} answers without TLS") as caught:
        connect(f"{host}:{server.port}", tls=TRUST).methods()

    assert "leave tls=… out" in caught.value.hint


@HOSTS
def test_a_plain_connection_to_a_server_with_tls_gets_a_hint_at_it(tls_server, connect, host):
    client = connect(f"{host}:{tls_server.port}", retry=RetryPolicy(attempts=3, max_backoff=0.1))
    with pytest.raises(Unavailable, match="closed the connection") as caught:
        client.methods()
    assert "it may want TLS" in caught.value.hint
    with pytest.raises(NotReady, match="closed the connection") as waited:
        client.wait_ready(0.3)
    assert "it may want TLS" in waited.value.hint


def test_the_hint_at_tls_comes_whichever_address_of_localhost_grpc_tells_of(tls_server, each_kind):
    for make in each_kind * 3:
        with make(f"localhost:{tls_server.port}", model=MODEL) as client:
            with pytest.raises(NotReady, match="closed the connection") as waited:
                client.wait_ready(0.1)
            assert "it may want TLS" in waited.value.hint


def test_a_port_of_localhost_where_nobody_listens_is_told_as_such(connect):
    with nobody() as target, pytest.raises(NotReady, match="no server answers at localhost"):
        connect(target.replace("127.0.0.1", "localhost")).wait_ready(0.1)


def test_files_of_tls_that_do_not_belong_together_are_told_as_such(tls_server, connect):
    own = TLS(ca=TRUST.ca, certificate=pem("client.pem"), key=pem("server.key"), server_name="serving.test")
    with pytest.raises(TLSError, match=r"the TLS files given for .* cannot be used") as caught:
        connect(tls_server, tls=own).methods()

    assert "the key is not the certificate's" in caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        lambda content: content.decode(),
        bytearray,
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.decode().encode("utf-16"),
        lambda content: content.replace(b"\n", b"\r\n"),
    ],
    ids=["text", "bytearray", "UTF-8 with a mark", "UTF-16", "lines of Windows"],
)
def test_pem_is_taken_however_it_is_held(tls_server, connect, given):
    files = {name: given(pem(f"{name}.pem" if name == "ca" else f"client.{name}")) for name in ("ca", "key")}
    own = TLS(certificate=given(pem("client.pem")), server_name="serving.test", **files)
    assert connect(tls_server, tls=own).methods()


def test_no_message_holds_a_key_that_is_given_in_a_wrong_place(tls_server, connect):
    secret = pem("client.key").decode()
    for tls in (secret, TLS(ca=secret), TLS(ca=TRUST.ca, certificate=secret, key=secret)):
        with pytest.raises(OptionError) as caught:
            connect(tls_server, tls=tls).methods()
        assert secret.splitlines()[1] not in f"{caught.value} {caught.value.hint}"


def test_a_file_that_holds_more_than_is_asked_for_is_taken(tls_server, connect):
    both = pem("server.key") + pem("ca.pem")
    own = TLS(
        ca=both, certificate=pem("client.pem") + pem("ca.pem"), key=pem("client.key") + pem("client.pem")
    )
    assert connect(tls_server, tls=replace(own, server_name="serving.test")).methods()


@pytest.mark.usefixtures("hasty")
def test_a_rest_port_is_told_from_a_grpc_port(connect):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as rest:
        thread = threading.Thread(target=rest.serve_forever)
        thread.start()
        try:
            with pytest.raises(Unavailable, match="closed the connection") as caught:
                connect(f"127.0.0.1:{rest.server_port}").methods()
        finally:
            rest.shutdown()
            thread.join()

    assert "its REST port 8501" in caught.value.hint


class Counting(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_unary_unary(self, continuation, details, request):
        self.methods.append(details.method.rsplit("/")[-1])
        return continuation(details, request)


class CountingAsync(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[str] = []

    async def intercept_unary_unary(self, continuation, details, request):
        method = details.method if isinstance(details.method, str) else details.method.decode()
        self.methods.append(method.rsplit("/")[-1])
        return await continuation(details, request)


SEEN = ["GetModelMetadata", "Predict", "Predict", "Predict"]


def test_an_interceptor_sees_every_attempt(server):
    counting = Counting()
    server.fail(grpc.StatusCode.UNAVAILABLE, "going away")
    with SaliencyClient(server.target, model=MODEL, interceptors=[counting]) as client:
        client.explain(IMAGES)
        assert next(client.explain_many(IMAGES)).unwrap().saliency.shape == (1, 6, 5)

    assert counting.methods == SEEN


def test_an_asynchronous_interceptor_sees_every_attempt(server):
    counting = CountingAsync()
    server.fail(grpc.StatusCode.UNAVAILABLE, "going away")

    async def main() -> None:
        async with AsyncSaliencyClient(server.target, model=MODEL, interceptors=[counting]) as client:
            await client.explain(IMAGES)
            await client.explain(IMAGES)

    asyncio.run(main())

    assert counting.methods == SEEN


def test_an_injected_channel_is_used_intercepted_and_left_open(server):
    counting = Counting()
    with grpc.insecure_channel(server.target) as channel:
        with SaliencyClient(model=MODEL, channel=channel, interceptors=[counting]) as client:
            client.explain(IMAGES)
        with SaliencyClient(model=MODEL, channel=channel) as client:
            client.explain(IMAGES)

    assert counting.methods == ["GetModelMetadata", "Predict"]
    assert len(server.requests) == 2


def test_an_injected_asynchronous_channel_is_used_and_left_open(server):
    async def main() -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            for _ in range(2):
                async with AsyncSaliencyClient(model=MODEL, channel=channel) as client:
                    await client.explain(IMAGES)

    asyncio.run(main())

    assert len(server.requests) == 2


def test_interceptors_for_an_injected_asynchronous_channel_are_refused():
    async def main() -> None:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            AsyncSaliencyClient(model=MODEL, channel=channel, interceptors=[CountingAsync()])

    with pytest.raises(OptionError, match="give the interceptors to the channel"):
        asyncio.run(main())
