"""Targets and channel options, checked and turned into gRPC's own; channels, opened on demand."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from saliency_client._errors import ClientClosed, OptionError
from saliency_client._numbers import is_real, is_whole

GRPC_PORT = 8500
_LAST_PORT = 65535
_REST_SECONDS = 5.0
_LONGEST_KEEPALIVE = 2e6
"""Seconds; gRPC counts milliseconds in 31 bits."""

MAX_RECONNECT_MS = 500
"""How long gRPC waits, at most and ±20 %, before it tries again to connect to a server that refused.

Meanwhile it fails every call at once, so the default retries, which wait at least 1.2 s in all, must outlast
it and leave time to connect: 0.6 s. gRPC's own default is two minutes. A thousand clients of an absent server
try 2000 times a second in all, some 60 bytes each way, and stop when they were idle for half an hour.
"""

Pem = str | os.PathLike[str] | bytes | None
MetadataItems = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class TLS:
    """Certificates of an encrypted connection; each is a file's path, or PEM bytes.

    - `ca`: who may have signed the server's certificate; None: the system's and gRPC's own roots.
    - `certificate`, `key`: this client's own, for mutual TLS.
    - `server_name`: the name in the server's certificate, where it is not the target's host name.

    Example:
        >>> tls = TLS(ca="ca.pem", certificate="client.pem", key="client.key", server_name="serving.test")
        >>> SaliencyClient("serving.example.org:8500", model="efficientnet-lite0", tls=tls)
        SaliencyClient('serving.example.org:8500', model='efficientnet-lite0')
    """

    ca: Pem = None
    certificate: Pem = None
    key: Pem = field(default=None, repr=False)
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """GRPC's credentials.

        Raises:
            OptionError: a file cannot be read, or only one of certificate and key is given.
        """
        if (self.certificate is None) != (self.key is None):
            raise OptionError("mutual TLS needs both certificate and key")
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca, "ca"),
            private_key=_pem(self.key, "key"),
            certificate_chain=_pem(self.certificate, "certificate"),
        )


def _pem(source: Pem, name: str) -> bytes | None:
    if source is None:
        return None
    if isinstance(source, bytes):
        content = source
    else:
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise OptionError(f"TLS {name} cannot be read: {error}") from error
    if b"-----BEGIN" not in content:
        raise OptionError(f"TLS {name} is not PEM: no '-----BEGIN' in it")
    return content


@dataclass(frozen=True)
class ChannelOptions:
    """How to connect, checked when made."""

    tls: TLS | None = None
    keepalive: float | None = None
    compression: str | None = None
    user_agent: str | None = None
    max_answer_bytes: int | None = None
    extra: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.keepalive is not None and not _is_keepalive(self.keepalive):
            raise OptionError(
                f"keepalive is {self.keepalive!r}; it must be seconds within "
                f"[0.001, {_LONGEST_KEEPALIVE:.0f}], or None"
            )
        if self.compression not in (None, "gzip", "deflate"):
            raise OptionError(f"compression is {self.compression!r}; it may be 'gzip', 'deflate' or None")
        if self.user_agent is not None and not _is_header(self.user_agent):
            raise OptionError(f"user_agent is {self.user_agent!r}; it must be a line of printable ASCII text")
        if self.max_answer_bytes is not None and not (
            is_whole(self.max_answer_bytes) and 0 < self.max_answer_bytes < 2**31
        ):
            raise OptionError(
                f"max_answer_bytes is {self.max_answer_bytes!r}; it must be a whole number within (0, 2³¹)"
            )

    def arguments(self) -> list[tuple[str, Any]]:
        """GRPC's channel arguments; what the caller gave last wins."""
        agent = f"saliency-client/{_version()}"
        arguments: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", int(self.max_answer_bytes or -1)),
            # Every address behind a name gets its share; gRPC's default sends all to the first.
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.primary_user_agent", f"{self.user_agent} {agent}" if self.user_agent else agent),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
        ]
        if self.keepalive is not None:
            arguments.append(("grpc.keepalive_time_ms", int(self.keepalive * 1000)))
        if self.tls is not None and self.tls.server_name is not None:
            arguments.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return [*arguments, *self.extra]

    def grpc_compression(self) -> grpc.Compression:
        """GRPC's constant for `compression`."""
        return {
            "gzip": grpc.Compression.Gzip,
            "deflate": grpc.Compression.Deflate,
            None: grpc.Compression.NoCompression,
        }[self.compression]


def _is_keepalive(value: Any) -> bool:
    return is_real(value) and 0.001 <= value <= _LONGEST_KEEPALIVE


def _is_header(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\x20-\x7e]*", value) is not None


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("saliency-serving")
    except PackageNotFoundError:
        return "0"


def parse_targets(target: str | Sequence[str]) -> tuple[str, ...]:
    """The targets to connect to: 'host:port', 'dns:///host:port', 'unix:/path', or several of them.

    Raises:
        OptionError: one of them has no port within [1, 65535], is a URL or is not text, with the form that
            it should have.
    """
    one_or_more = isinstance(target, Iterable) and not isinstance(target, (bytes, Mapping))
    targets = (target,) if isinstance(target, str) or not one_or_more else tuple(target)
    if not targets:
        raise OptionError("no target is given", hint=f"give 'host:{GRPC_PORT}'")
    return tuple(_checked_target(one) for one in targets)


def _checked_target(target: Any) -> str:
    if not isinstance(target, str):
        raise OptionError(
            f"target {target!r} is not text", hint=f"give 'host:{GRPC_PORT}', or a list of such targets"
        )
    url = re.match(r"(https?|grpcs?)://([^/]*)", target)
    if url:
        host = url.group(2).rsplit(":", 1)[0] or "host"
        port = url.group(2).rpartition(":")[2] if url.group(1).startswith("grpc") else ""
        raise OptionError(
            f"target {target!r} is a URL; gRPC wants 'host:port'",
            hint=f"give '{host}:{port if _is_port(port) else GRPC_PORT}', TensorFlow Serving's gRPC port "
            "(8501 is its REST port), and tls=True where it is encrypted",
        )
    if re.match(r"(unix|unix-abstract|xds|vsock):", target):
        return target
    addresses = re.match(r"ipv[46]:(?://[^/]*/)?(.*)", target, re.DOTALL)
    for address in addresses[1].split(",") if addresses else [re.sub(r"^dns:(//[^/]*/)?", "", target)]:
        _check_address(address, target)
    return target


def _check_address(address: str, target: str) -> None:
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+", host) or not re.fullmatch(r"[0-9]+", port):
        bare = address.partition(":")[0] if re.fullmatch(r"[^\s:/]+(:[^:/]*)?", address) else "host"
        raise OptionError(
            f"target {target!r} is not 'host:port'",
            hint=f"give '{bare}:{GRPC_PORT}'; {GRPC_PORT} is TensorFlow Serving's gRPC port",
        )
    if not _is_port(port):
        raise OptionError(
            f"target {target!r} has port {port}; a port is within [1, {_LAST_PORT}]",
            hint=f"give '{host}:{GRPC_PORT}'; {GRPC_PORT} is TensorFlow Serving's gRPC port",
        )


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 1 <= int(text) <= _LAST_PORT


def is_local(target: str) -> bool:
    """Whether a target stays on this machine."""
    host = re.sub(r"^(dns:(//[^/]*/)?|ipv4:|ipv6:(//)?)", "", target)
    return bool(re.match(r"(unix|unix-abstract|vsock):|localhost:|127\.\d+\.\d+\.\d+:|\[::1\]:", host))


def checked_metadata(items: MetadataItems | None) -> tuple[tuple[str, str | bytes], ...]:
    """Call metadata as gRPC takes it.

    Raises:
        OptionError: a key or value that gRPC would refuse in the middle of a call.
    """
    entries: Iterable[Any] = items.items() if isinstance(items, Mapping) else items or ()
    if isinstance(items, (str, bytes)) or not isinstance(entries, Iterable):
        raise OptionError(f"metadata is {items!r}; it must be a mapping, or pairs of a key and a value")
    return tuple(_checked_pair(entry) for entry in entries)


def _checked_pair(entry: Any) -> tuple[str, str | bytes]:
    if isinstance(entry, (str, bytes)) or not isinstance(entry, Sequence) or len(entry) != 2:
        raise OptionError(f"metadata holds {entry!r}; it must be a pair of a key and a value")
    key, value = entry
    if not isinstance(key, str) or not re.fullmatch(r"[0-9a-z_.-]+", key) or key.startswith("grpc-"):
        raise OptionError(f"metadata key {key!r} must be lower-case letters, digits, '_', '-' or '.'")
    if not isinstance(value, str | bytes):
        raise OptionError(f"metadata {key!r} is {value!r}; it must be text or bytes")
    if key.endswith("-bin") != isinstance(value, bytes):
        raise OptionError(f"metadata {key!r}: bytes go with keys that end in '-bin', text with all others")
    if isinstance(value, str) and not _is_header(value):
        raise OptionError(f"metadata {key!r} holds characters that gRPC cannot send")
    return key, value


class Rotation:
    """Whose turn it is among several targets; one that just failed is passed over for five seconds."""

    def __init__(self, targets: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.targets = tuple(targets)
        self._clock = clock
        self._next = 0
        self._resting: dict[str, float] = {}
        self._lock = threading.Lock()

    def pick(self) -> str:
        """The target for the next attempt."""
        if len(self.targets) == 1:
            return self.targets[0]
        with self._lock:
            now = self._clock()
            order = [self.targets[(self._next + k) % len(self.targets)] for k in range(len(self.targets))]
            chosen = next((one for one in order if self._resting.get(one, 0.0) <= now), order[0])
            self._next = (self.targets.index(chosen) + 1) % len(self.targets)
            return chosen

    def failed(self, target: str) -> None:
        """Note that a target did not answer."""
        self._resting[target] = self._clock() + _REST_SECONDS

    def answered(self, target: str) -> None:
        """Note that a target answered."""
        self._resting.pop(target, None)


ChannelT = TypeVar("ChannelT")


class Channels(Generic[ChannelT]):
    """The channels of one client, one for each target, opened when first used.

    gRPC does not work in a child made by fork() once its parent has connected, and may hang there; such a
    child is told so instead, unless gRPC's own fork support is on. A closed set stays closed.
    """

    _connected_in: int | None = None
    """The process in which a client first opened a channel."""

    def __init__(self, open_channel: Callable[[str], ChannelT], *, owned: bool = True) -> None:
        self._open = open_channel
        self._owned = owned
        self._lock = threading.Lock()
        self._channels: dict[str, ChannelT] = {}
        self._calls: dict[tuple[str, str], Any] = {}
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closed = False

    def method(self, target: str, path: str, loop: asyncio.AbstractEventLoop | None = None) -> Any:
        """The callable that sends bytes to an RPC and returns bytes, in the event loop if one is given.

        Raises:
            ClientClosed: after `close`, or in a child made by fork() after its parent had connected.
        """
        if self._pid != os.getpid():
            self._after_fork()
        if self._loop is not loop:
            self._in_new_loop(loop)
        call = self._calls.get((target, path))
        if call is None:
            with self._lock:
                self.check_open()
                if target not in self._channels:
                    _check_fork(Channels._connected_in)
                    Channels._connected_in = os.getpid()
                    self._channels[target] = self._open(target)
                call = self._channels[target].unary_unary(path)  # type: ignore[attr-defined]
                self._calls[target, path] = call
        return call

    def check_open(self) -> None:
        """Raise ClientClosed after `close`."""
        if self.closed:
            raise ClientClosed("this client is closed", hint="make a new client, or close it later")

    def close(self) -> list[ChannelT]:
        """Close for good; returns the channels for the caller to shut, none of them if they are not owned."""
        with self._lock:
            self.closed = True
            channels = list(self._channels.values()) if self._owned and self._pid == os.getpid() else []
            self._channels.clear()
            self._calls.clear()
            return channels

    def _in_new_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let go of the channels of an earlier event loop; they can be used in no other."""
        with self._lock:
            self._loop = loop
            if self._owned:
                self._channels.clear()
                self._calls.clear()

    def _after_fork(self) -> None:
        if self._channels:
            _check_fork(self._pid)
        self._lock = threading.Lock()  # the parent may have held it
        self._channels.clear()
        self._calls.clear()
        self._pid = os.getpid()


def _check_fork(connected_in: int | None) -> None:
    supported = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in ("1", "true", "yes")
    if connected_in not in (None, os.getpid()) and not supported:
        raise ClientClosed(
            "a client connected before fork(), and gRPC may hang in the child process",
            hint="connect in the child only, start processes with 'spawn' or 'forkserver', or set "
            "GRPC_ENABLE_FORK_SUPPORT=1 in the environment before Python starts",
        )
