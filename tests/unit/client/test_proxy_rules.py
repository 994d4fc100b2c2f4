"""Which targets stay on this machine, and by which proxy gRPC reaches the others (http_proxy_mapper.cc)."""

from __future__ import annotations

from pathlib import Path

import pytest

from saliency_client import _proxies
from saliency_client._channel import ChannelOptions
from saliency_client._proxies import Proxy, goes_direct, is_local, proxy_of

PROXY = "http://proxy.corp.example:3128"


@pytest.mark.parametrize(
    "target",
    [
        "localhost:8500",
        "LocalHost:8500",
        "dns:localhost:8500",
        "dns:///localhost:8500",
        "127.0.0.1:8500",
        "127.9.8.7:8500",
        "dns:///127.0.0.1:8500",
        "dns://10.0.0.53/127.0.0.1:8500",
        "ipv4:127.0.0.1:8500",
        "ipv4:///127.0.0.1:8500",
        "ipv4:127.0.0.1:8500,127.0.0.2:8501",
        "[::1]:8500",
        "[::1%lo]:8500",
        "[0:0:0:0:0:0:0:1]:8500",
        "[::ffff:127.0.0.1]:8500",
        "ipv6:[::1]:8500",
        "ipv6:[::1]:8500,[::1]:8501",
        "0.0.0.0:8500",
        "[::]:8500",
        "unix:/run/serving.sock",
        "unix:///run/serving.sock",
        "unix-abstract:serving",
    ],
)
def test_what_stays_on_this_machine_goes_without_a_proxy(target: str) -> None:
    assert is_local(target)
    assert goes_direct(target)


@pytest.mark.parametrize(
    "target",
    [
        "serving:8500",
        "10.0.0.1:8500",
        "128.0.0.1:8500",
        "[fe80::1%eth0]:8500",
        "[::ffff:10.0.0.1]:8500",
        "localhost.example.org:8500",
        "127.0.0.1.example.org:8500",
        "localhost@example.org:8500",
        "dns://10.0.0.53/localhost:8500",  # another name server may give any address
        "ipv4:127.0.0.1:8500,10.0.0.2:8500",
        "ipv6:[::1]:8500,[2001:db8::1]:8500",
        "xds:///localhost:8500",
        "10.1:8500",
    ],
)
def test_a_target_of_which_any_address_may_be_elsewhere_does_not_stay(target: str) -> None:
    assert not is_local(target)
    assert not goes_direct(target)


def test_names_of_loopback_go_without_a_proxy_but_no_token_may(tmp_path: Path, monkeypatch) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "127.0.1.1  here here.example # mine\n10.0.0.9 both\n127.0.0.1 both\n::1 ip6-localhost\n"
    )
    monkeypatch.setattr(_proxies, "_HOSTS_FILE", hosts)
    _proxies._loopback_names.cache_clear()

    old_ways = ("127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1")
    for name in ("here", "HERE.example", "ip6-localhost", "app.localhost", "localhost.", *old_ways):
        assert goes_direct(f"{name}:8500"), name
        assert not is_local(f"{name}:8500"), "its address may change"
    for name in ("both", "mine", "elsewhere", "10.1", "99999999999", "0x7g.1"):
        assert not goes_direct(f"{name}:8500"), name
    monkeypatch.setattr(_proxies, "_HOSTS_FILE", tmp_path / "none")
    assert not goes_direct("here:8500")
    _proxies._loopback_names.cache_clear()


@pytest.mark.parametrize(
    ("environment", "source"),
    [
        ({"http_proxy": PROXY}, "http_proxy"),
        ({"https_proxy": PROXY, "http_proxy": "http://other:1"}, "https_proxy"),
        ({"grpc_proxy": PROXY, "https_proxy": "http://other:1"}, "grpc_proxy"),
        ({"http_proxy": "http://user:p@proxy.corp.example:3128/"}, "http_proxy"),
        ({"http_proxy": PROXY, "no_proxy": "example.com, 10.0.0.0/8"}, "http_proxy"),
        ({"http_proxy": PROXY, "no_proxy": "*"}, "http_proxy"),  # gRPC knows no patterns
        ({"http_proxy": PROXY, "NO_PROXY": "example.org"}, "http_proxy"),  # it reads lower case alone
        ({"http_proxy": PROXY, "no_proxy": "example.org", "no_grpc_proxy": ""}, "http_proxy"),
    ],
)
def test_the_proxy_is_that_of_the_first_variable_that_is_set(
    environment: dict[str, str], source: str
) -> None:
    exceptions = "no_grpc_proxy" if "no_grpc_proxy" in environment else "no_proxy"
    expected = Proxy("proxy.corp.example:3128", source, exceptions, "serving.example.org")
    for target in ("serving.example.org:8500", "dns:///serving.example.org:8500"):
        assert proxy_of(target, {}, environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY},
        {"grpc_proxy": "", "http_proxy": PROXY},
        {"http_proxy": "https://proxy:3128"},
        {"http_proxy": "proxy:3128"},
        {"http_proxy": PROXY, "no_proxy": "localhost,serving.example.org"},
        {"http_proxy": PROXY, "no_proxy": "EXAMPLE.ORG"},
        {"http_proxy": PROXY, "no_proxy": "x, .example.org"},
        {"http_proxy": PROXY, "no_proxy": "x", "no_grpc_proxy": "example.org"},
    ],
)
def test_there_is_no_proxy_where_grpc_takes_none(environment: dict[str, str]) -> None:
    assert proxy_of("serving.example.org:8500", {}, environment) is None


def test_networks_are_exceptions_for_addresses_alone() -> None:
    environment = {"http_proxy": PROXY, "no_proxy": "10.0.0.0/8,2001:db8::/32"}
    assert proxy_of("10.1.2.3:8500", {}, environment) is None
    assert proxy_of("[2001:db8::7]:8500", {}, environment) is None
    assert proxy_of("11.1.2.3:8500", {}, environment) is not None
    assert proxy_of("ten:8500", {}, environment) is not None


def test_the_exception_that_is_named_works() -> None:
    for target in (
        "serving:8500",
        "[2001:db8::7]:8500",
        "xds:///serving",
    ):
        proxy = proxy_of(target, {}, {"http_proxy": PROXY})
        assert proxy is not None
        assert proxy_of(target, {}, {"http_proxy": PROXY, proxy.exceptions: proxy.host}) is None


def test_no_entry_stands_for_several_addresses() -> None:
    proxy = proxy_of("ipv4:10.0.0.1:8500,10.0.0.2:8500", {}, {"http_proxy": PROXY, "no_proxy": "10.0.0.2"})
    assert proxy is not None
    assert proxy.host is None


@pytest.mark.parametrize(
    ("entry", "before", "since"),
    [
        ("serving.example.org", True, True),
        (".serving.example.org", False, True),
        ("example.org", True, True),
        (".example.org", True, True),
        ("ple.org", True, False),
        ("..example.org", False, False),
        (".", False, False),
    ],
)
def test_an_entry_is_a_domain_since_grpc_1_84(entry: str, before: bool, since: bool, monkeypatch) -> None:
    """Found by asking gRPC 1.83, 1.84 and 1.85 themselves, with a proxy that notes what it is asked for."""
    environment = {"http_proxy": PROXY, "no_proxy": entry}
    for release, excepted in (((1, 83), before), ((1, 84), since)):
        monkeypatch.setattr(_proxies, "_RELEASE", release)
        assert (proxy_of("serving.example.org:8500", {}, environment) is None) is excepted


def test_channel_options_of_the_caller_say_more_than_the_environment() -> None:
    off = ChannelOptions(extra=(("grpc.enable_http_proxy", 0),))
    other = ChannelOptions(extra=(("grpc.http_proxy", "http://other:1"),))

    environment = {"http_proxy": PROXY}
    assert proxy_of("serving:8500", dict(off.arguments("serving:8500")), environment) is None
    chosen = proxy_of("serving:8500", dict(other.arguments("serving:8500")), environment)
    assert chosen is not None
    assert (chosen.source, chosen.address) == ("grpc.http_proxy", "other:1")
    assert not other.stays_here("localhost:8500")
    assert off.stays_here("localhost:8500")
