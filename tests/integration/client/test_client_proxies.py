"""Proxies: a real one on loopback notes what reaches it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from connect_proxy import ConnectProxy
from scripted_server import MODEL, LinearModel, ScriptedServer, nobody, serving

from saliency_client import (
    AsyncSaliencyClient,
    DeadlineExceeded,
    NotReady,
    OptionError,
    RetryPolicy,
    SaliencyClient,
    Unavailable,
)
from saliency_client._proxies import proxy_of

IMAGES = np.zeros((1, LinearModel.height, LinearModel.width, 3), np.uint8)
SECRET = "sekret-7d1f"
VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy")
ELSEWHERE = "serving.invalid:8500"
ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def proxy(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectProxy]:
    for name in (*VARIABLES, "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ConnectProxy(server.target) as running:
        yield running


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_target_elsewhere_is_reached_through_the_proxy_of_the_environment(
    server, proxy, connect, monkeypatch, variable
):
    monkeypatch.setenv(variable, proxy.url)

    connect(ELSEWHERE, metadata={"x-secret": SECRET}).explain(IMAGES)

    assert set(proxy.asked) == {ELSEWHERE}
    assert SECRET.encode() in bytes(proxy.read), "so the others would be seen, too"


@pytest.mark.parametrize(
    "form",
    [
        "localhost:{port}",
        "LOCALHOST:{port}",
        "127.0.0.1:{port}",
        "dns:///localhost:{port}",
        "dns:127.0.0.1:{port}",
        "ipv4:127.0.0.1:{port}",
        "0.0.0.0:{port}",
        "app.localhost:{port}",
    ],
)
def test_a_target_on_this_machine_is_reached_without_a_proxy(server, proxy, connect, monkeypatch, form):
    for variable in VARIABLES:
        monkeypatch.setenv(variable, proxy.url)
    # By the address of a connection; gRPC takes this one whatever the name is.
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY", proxy.address)
    monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "127.0.0.1,127.0.0.0/8,::1")
    token = None if "app" in form else SECRET

    connect(form.format(port=server.port), token=token).explain(IMAGES)

    assert len(server.requests) == 1
    assert server.metadata[0].get("authorization") == (f"Bearer {SECRET}" if token else None)
    assert (proxy.asked, bytes(proxy.read)) == ([], b"")


@pytest.mark.parametrize("scheme", ["unix:{folder}/serving.sock", "unix-abstract:saliency-{name}"])
def test_a_socket_is_reached_without_a_proxy(proxy, connect, monkeypatch, tmp_path, scheme):
    address = scheme.format(folder=tmp_path, name=tmp_path.name)
    for variable in VARIABLES:
        monkeypatch.setenv(variable, proxy.url)
    with serving(address=address) as server:
        connect(address, token=SECRET).explain(IMAGES)

        assert len(server.requests) == 1
    assert proxy.asked == []


@pytest.mark.parametrize("kind", [SaliencyClient, AsyncSaliencyClient])
@pytest.mark.parametrize("option", [("grpc.http_proxy", "http://127.0.0.1:9"), ("grpc.enable_http_proxy", 1)])
def test_a_token_is_not_for_a_proxy_that_the_channel_options_ask_for(kind, option):
    with pytest.raises(OptionError, match="would reach a proxy in plain text") as caught:
        kind("localhost:8500", model=MODEL, token=SECRET, channel_options=dict([option]))

    assert option[0] in caught.value.hint
    kind("localhost:8500", model=MODEL, token=SECRET, tls=True, channel_options=dict([option]))


@pytest.mark.parametrize("kind", [SaliencyClient, AsyncSaliencyClient])
def test_a_token_is_not_for_a_list_of_which_one_address_is_elsewhere(kind):
    with pytest.raises(OptionError, match="cross the network in plain text"):
        kind("ipv4:127.0.0.1:8500,10.0.0.2:8500", model=MODEL, token=SECRET)


def test_a_proxy_that_the_channel_options_name_is_used(server, proxy, connect):
    connect(server, channel_options={"grpc.http_proxy": proxy.url}).explain(IMAGES)

    assert set(proxy.asked) == {server.target}


@pytest.mark.parametrize("variable", VARIABLES)
def test_where_the_proxy_fails_the_hint_names_the_variable_and_the_way_around_it(
    server, proxy, connect, monkeypatch, variable
):
    with nobody() as gone:
        monkeypatch.setenv(variable, f"http://someone:hidden-password@{gone}")
        with pytest.raises(Unavailable, match=f"through the proxy {gone}") as caught:
            connect(ELSEWHERE, retry=ONCE).methods()
        with pytest.raises(NotReady, match=f"through the proxy {gone}") as waited:
            connect(ELSEWHERE).wait_ready(0.3)

    for error in (caught.value, waited.value):
        assert f"{variable} is set" in error.hint
        assert "add serving.invalid to no_proxy" in error.hint
        assert "hidden-password" not in f"{error} {error.hint} {error.details}"


def test_the_way_around_the_proxy_works(server, proxy, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "serving.invalid")

    with pytest.raises(Unavailable) as caught:  # there is no such host
        connect(ELSEWHERE, retry=ONCE).methods()

    assert "proxy" not in f"{caught.value} {caught.value.hint}"
    assert proxy.asked == []


@pytest.mark.parametrize(
    "exceptions",
    [
        ".serving.invalid",
        "invalid",
        ".invalid",
        "valid",
        "*.invalid",
        "serving.invalid:8500",
        "x, Serving.Invalid",
    ],
)
def test_no_proxy_is_read_as_grpc_reads_it(proxy, connect, monkeypatch, exceptions):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", exceptions)
    known = proxy_of(ELSEWHERE, {}, dict(os.environ))

    with contextlib.suppress(Unavailable):
        connect(ELSEWHERE, retry=ONCE, timeout=2).methods()
    assert (known is not None) is bool(proxy.asked)


def test_a_proxy_that_swallows_everything_is_named_when_time_is_over(server, proxy, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    server.hang()
    client = connect(ELSEWHERE)
    client.methods()
    with pytest.raises(DeadlineExceeded, match="through the proxy") as caught:
        client.explain(IMAGES, timeout=0.3)

    assert "http_proxy is set" in caught.value.hint


def test_a_ready_made_channel_is_its_makers_and_no_proxy_is_named_for_it(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    with (
        grpc.insecure_channel("127.0.0.1:1", [("grpc.enable_http_proxy", 0)]) as channel,
        SaliencyClient(model=MODEL, channel=channel, retry=ONCE) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.methods()

    assert "proxy" not in f"{caught.value} {caught.value.hint}"
