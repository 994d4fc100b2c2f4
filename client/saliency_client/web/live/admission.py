"""Who may ask the page. Pure: from a request's method, path and headers to a refusal, or none."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OWN_HEADER = "x-saliency-page"
"""Sent with every request that changes or computes something. A page of another site can send it only after
asking (CORS), and it is never told yes."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HOST = re.compile(
    r"(?:\[(?P<bracketed>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)
_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered: an HTTP status, a sentence and the next step."""

    status: int
    error: str
    hint: str


@dataclass(frozen=True)
class Address:
    """Where the page listens: the address that was asked for, and the port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """What to type into a browser."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def is_named_by(self, host: str) -> bool:
        """Whether a Host header names this address.

        A name that someone else's DNS may lead here is not taken (DNS rebinding): what is taken is the
        address that was asked for; where it is loopback, any name of that; where it is every address of the
        machine, any IP number, since a number is nobody's to rebind.
        """
        match = _HOST.fullmatch(host.lower())
        if match is None or int(match["port"] or 80) != self.port:
            return False
        name = match["bracketed"] or match["name"]
        if name == self.host.lower():
            return True
        if self.host in ("0.0.0.0", "::"):
            return name in _LOOPBACK or _is_number(name)
        return self.is_loopback and name in _LOOPBACK


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def refusal(method: str, path: str, headers: Iterable[tuple[str, str]], address: Address) -> Refusal | None:
    """Why a request is refused; None if it is answered.

    Args:
        method: of HTTP, in capitals.
        path: without the query.
        headers: names in lower case, and values.
        address: where the page listens.
    """
    given: dict[str, list[str]] = {}
    for name, value in headers:
        given.setdefault(name, []).append(value.strip())
    hosts = given.get("host", [])
    if len(hosts) != 1 or not address.is_named_by(hosts[0]):
        return Refusal(
            421,
            "this page is asked by a name that is not its own",
            f"open {address.url}; through a tunnel, forward the same port: {address.port}",
        )
    origins = given.get("origin", [])
    if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
        return Refusal(403, "another site's page asked", f"open {address.url} itself")
    sites = given.get("sec-fetch-site", [])
    is_followed_link = path == "/" and given.get("sec-fetch-mode") == ["navigate"]
    if any(site not in ("same-origin", "none") for site in sites) and not is_followed_link:
        return Refusal(403, "another site's page asked", f"open {address.url} itself")
    if method not in _READING and OWN_HEADER not in given:
        return Refusal(
            403,
            f"the request has no header {OWN_HEADER}, which the page's own script sends",
            f"open {address.url}",
        )
    return None


def response_headers(policy: str, *, lasting: bool) -> Mapping[str, str]:
    """Headers of every answer.

    Args:
        policy: the Content-Security-Policy.
        lasting: a file of the page itself, which a browser may keep if it asks whether it changed.
    """
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
        "cache-control": "no-cache" if lasting else "no-store",
    }
