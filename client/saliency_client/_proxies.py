"""Which targets stay on this machine, and which connections gRPC takes through an HTTP proxy.

gRPC reads its proxy from the first of grpc_proxy, https_proxy and http_proxy that is set, in lower case
alone, and the exceptions from no_grpc_proxy, or no_proxy where that is not set (grpc/grpc,
src/core/handshaker/http_connect/http_proxy_mapper.cc). It makes no exception for loopback by itself.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
_HOSTS_FILE = Path("/etc/hosts")
_RELEASE = tuple(int(part) for part in re.findall(r"\d+", grpc.__version__)[:2])

_ENABLE, _PROXY = "grpc.enable_http_proxy", "grpc.http_proxy"
_ADDRESS_PROXY, _PROXIED_ADDRESSES = "grpc.address_http_proxy", "grpc.address_http_proxy_enabled_addresses"

DIRECT: tuple[tuple[str, Any], ...] = ((_ENABLE, 0), (_PROXIED_ADDRESSES, ""))
"""Channel arguments with which gRPC uses no proxy, whatever the environment says."""


@dataclass(frozen=True)
class Proxy:
    """The proxy that a connection goes through.

    - `address`: its host and port, without user and password.
    - `source`: the variable or the channel argument that names it.
    - `exceptions`: the variable that lists what goes to its target directly.
    - `host`: what that variable would have to list; None where no entry stands for the target, as for several
      addresses.
    """

    address: str
    source: str
    exceptions: str
    host: str | None


def is_local(target: str) -> bool:
    """Whether every address of a target is certain to be on this machine: sockets, localhost, loopback."""
    return _is_socket(target) or all(_is_loopback(host) for host in _hosts(target))


def is_named_localhost(target: str) -> bool:
    """Whether a target is the name localhost, which usually has two addresses."""
    return [host.lower() for host in _hosts(target)] == ["localhost"]


def goes_direct(target: str) -> bool:
    """Whether a target is meant to be on this machine, by its address or by its name: none for a proxy."""
    return is_local(target) or all(_is_loopback(host) or _is_named_loopback(host) for host in _hosts(target))


def may_be_proxied(arguments: Mapping[str, Any]) -> bool:
    """Whether a caller's channel arguments themselves ask for a proxy."""
    return bool(arguments.get(_PROXY) or arguments.get(_ENABLE) or arguments.get(_PROXIED_ADDRESSES))


def proxy_of(target: str, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> Proxy | None:
    """The proxy that gRPC takes to a target by these channel arguments and this environment."""
    if not arguments.get(_ENABLE, True) or re.match(r"(unix|vsock):", target):
        return None
    given = {_PROXY: arguments[_PROXY]} if _PROXY in arguments else {}
    sources = {**given, **{name: environment[name] for name in _VARIABLES if name in environment}}
    source = next(iter(sources), None)
    # User and password stand before the host, and are in no error.
    url = re.match(r"http://(?:[^@/?#]*@)?([^@/?#]+)", str(sources[source])) if source else None
    if source is None or url is None:
        return None
    exceptions = next((name for name in _EXCEPTIONS if name in environment), _EXCEPTIONS[-1])
    host = _exception_host(target)
    if _is_excepted(host, environment.get(exceptions, "")):
        return None
    # gRPC compares several addresses as one text, and an entry has no comma.
    return Proxy(url[1], source, exceptions, None if "," in host else host)


def _is_socket(target: str) -> bool:
    return re.match(r"(unix|unix-abstract|vsock):", target) is not None


def _hosts(target: str) -> list[str]:
    """The host of each address of a target, without brackets; "" where none is certain."""
    form = re.match(r"(?:(dns|ipv4|ipv6):)?(?://([^/]*)/)?(.*)", target, re.DOTALL)
    scheme, authority, rest = form.groups() if form else (None, None, "")
    addresses = rest.split(",") if scheme in ("ipv4", "ipv6") else [rest]
    hosts = [address.rpartition(":")[0].removeprefix("[").removesuffix("]") for address in addresses]
    # Another name server than this machine's own may say anything of a name, of localhost as well.
    return [host if not authority or _address(host) else "" for host in hosts]


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host.lower() == "localhost"
    inner = getattr(address, "ipv4_mapped", None) or address
    return bool(inner.is_loopback or inner.is_unspecified)  # a connection to 0.0.0.0 ends here, too


def _is_named_loopback(host: str) -> bool:
    """Whether a name is of loopback by RFC 6761 (section 6.3), or by this machine's table of hosts.

    Or in the old way to write an address: 127.1 is 127.0.0.1 (inet_aton of POSIX).
    """
    name = host.lower().removesuffix(".")
    if re.fullmatch(r"(0x[0-9a-f]+|\d+)(\.(0x[0-9a-f]+|\d+)){0,3}", name):
        with suppress(OSError):
            return ipaddress.IPv4Address(socket.inet_aton(name)).is_loopback
    return name == "localhost" or name.endswith(".localhost") or name in _loopback_names(_HOSTS_FILE)


@lru_cache(maxsize=1)
def _loopback_names(hosts_file: Path) -> frozenset[str]:
    """Names whose every address in the table of hosts is loopback."""
    try:
        lines = hosts_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    entries = [line.partition("#")[0].lower().split() for line in lines]
    here = {name for address, *names in filter(None, entries) if _is_loopback(address) for name in names}
    elsewhere = {
        name for address, *names in filter(None, entries) if not _is_loopback(address) for name in names
    }
    return frozenset(here - elsewhere)


def _exception_host(target: str) -> str:
    """What gRPC compares with the list of exceptions: the host; of several addresses, all of them."""
    path = re.sub(r"^[a-z][a-z0-9-]*:(//[^/]*/)?", "", target) if _has_scheme(target) else target
    bracketed = re.match(r"\[([^\]]*)\]", path)
    if bracketed:
        return bracketed[1]
    return path.partition(":")[0] if path.count(":") == 1 else path


def _has_scheme(target: str) -> bool:
    return re.match(r"(dns|ipv4|ipv6|xds|unix-abstract):", target) is not None


def _is_excepted(host: str, exceptions: str) -> bool:
    entries = [entry.strip() for entry in exceptions.split(",") if entry]
    return any(_ends_with(host.lower(), entry.lower()) or _is_in_network(host, entry) for entry in entries)


def _ends_with(host: str, entry: str) -> bool:
    """Whether an entry stands for a name: from 1.84 on gRPC takes it for a domain, before for an ending."""
    if _RELEASE < (1, 84):
        return host.endswith(entry)
    domain = entry.removeprefix(".")
    return bool(domain) and f".{host}".endswith(f".{domain}")


def _is_in_network(host: str, entry: str) -> bool:
    address = _address(host)
    if address is None or "/" not in entry:
        return False
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
