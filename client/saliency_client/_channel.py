"""Targets and channel options, checked and turned into gRPC's own; channels, opened on demand."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from saliency_client._errors import ClientClosed, OptionError
from saliency_client._forks import calling, check_fork, note_asynchronous, note_connection
from saliency_client._numbers import is_real, is_whole
from saliency_client._proxies import (
    DIRECT,
    Proxy,
    goes_direct,
    is_local,
    is_named_localhost,
    may_be_proxied,
    proxy_of,
)

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
    """Certificates of an encrypted connection; each is a file's path, or PEM, as bytes or text.

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
            raise OptionError(
                "mutual TLS needs both certificate and key",
                hint=f"give {'certificate=…' if self.certificate is None else 'key=…'} as well",
            )
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca, "ca", _CERTIFICATES),
            private_key=_pem(self.key, "key", _KEYS),
            certificate_chain=_pem(self.certificate, "certificate", _CERTIFICATES),
        )


# What PEM calls them (RFC 7468, and OpenSSL's older words).
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")
_KEYS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY")
_PLAIN_WORDS = {
    "CERTIFICATE REQUEST": "a request for a certificate",
    "NEW CERTIFICATE REQUEST": "a request for a certificate",
    "ENCRYPTED PRIVATE KEY": "a private key under a password",
    "OPENSSH PRIVATE KEY": "a private key of SSH",
    "PUBLIC KEY": "a public key",
    "X509 CRL": "a list of revoked certificates",
    **dict.fromkeys(_CERTIFICATES, "a certificate"),
    **dict.fromkeys(_KEYS, "a private key"),
}
_FROM_DER = {
    _CERTIFICATES: "openssl x509 -inform der -in FILE -out FILE.pem",
    _KEYS: "openssl pkey -inform der -in FILE -out FILE.pem",
}
_UNLOCKED = "`openssl pkey -in FILE -out FILE.pem` takes the password off"


def _content(source: Any, name: str) -> tuple[bytes, str]:
    """The bytes of a file, and its path; or those of PEM itself, which no message may hold, and ""."""
    file = ""
    if isinstance(source, str) and "-----BEGIN" in source:
        content = source.encode("utf-8", "replace")
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    else:
        try:
            content, file = Path(source).read_bytes(), os.fspath(source)
        except TypeError:
            kind = type(source).__name__
            raise OptionError(f"TLS {name} is of type {kind}; it must be a file's path, or PEM") from None
        except (OSError, ValueError) as error:
            raise OptionError(f"TLS {name} cannot be read: {error}") from error
    # Editors and shells of Windows put marks of an encoding before text, which gRPC does not know.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode("ascii", "replace")
    return content.removeprefix(codecs.BOM_UTF8), file


def _pem(source: Pem, name: str, wanted: tuple[str, ...]) -> bytes | None:
    if source is None:
        return None
    content, file = _content(source, name)
    kinds = [kind.decode("ascii", "replace") for kind in re.findall(rb"-----BEGIN ([^-\r\n]*)-----", content)]
    a_wanted = _PLAIN_WORDS[wanted[0]]
    where = f": {file}" if file else ""
    if not kinds:
        raise OptionError(
            f"TLS {name} is not PEM: no '-----BEGIN' in {file or 'it'}",
            hint=f"{name}=… takes {a_wanted} as PEM; `{_FROM_DER[wanted]}` makes it of a binary file",
        )
    held = " and ".join(dict.fromkeys(_PLAIN_WORDS.get(kind, f"a {kind!r}") for kind in kinds))
    is_locked = "ENCRYPTED PRIVATE KEY" in kinds or b"Proc-Type: 4,ENCRYPTED" in content
    if wanted is _KEYS and is_locked:
        raise OptionError(
            f"TLS {name} holds a private key under a password{where}",
            hint=f"{name}=… takes a private key without one, since gRPC asks for none: {_UNLOCKED}",
        )
    if not set(kinds) & set(wanted):
        raise OptionError(
            f"TLS {name} holds {held}, and not {a_wanted}{where}",
            hint=f"{name}=… takes {a_wanted}: '-----BEGIN {wanted[0]}-----'",
        )
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

    def arguments(self, target: str = "") -> list[tuple[str, Any]]:
        """GRPC's channel arguments for a target; what the caller gave last wins."""
        agent = f"saliency-client/{_version()}"
        arguments: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", int(self.max_answer_bytes or -1)),
            # Every address behind a name gets its share; gRPC's default sends all to the first. The two of
            # localhost are one machine: in order, the last one's error is that of the server there, if no
            # other channel's attempts count.
            ("grpc.lb_policy_name", "pick_first" if is_named_localhost(target) else "round_robin"),
            ("grpc.use_local_subchannel_pool", int(is_named_localhost(target))),
            ("grpc.primary_user_agent", f"{self.user_agent} {agent}" if self.user_agent else agent),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
        ]
        if self.keepalive is not None:
            arguments.append(("grpc.keepalive_time_ms", int(self.keepalive * 1000)))
        if self.tls is not None and self.tls.server_name is not None:
            arguments.append(("grpc.ssl_target_name_override", self.tls.server_name))
        if target and goes_direct(target) and not may_be_proxied(dict(self.extra)):
            arguments += DIRECT
        return [*arguments, *self.extra]

    def proxy(self, target: str) -> Proxy | None:
        """The proxy through which gRPC connects to a target at this moment."""
        return proxy_of(target, dict(self.arguments(target)), os.environ)

    def stays_here(self, target: str) -> bool:
        """Whether a connection is certain not to leave this machine, by a proxy neither."""
        return is_local(target) and not may_be_proxied(dict(self.extra))

    def grpc_compression(self) -> grpc.Compression:
        """GRPC's constant for `compression`."""
        return {
            "gzip": grpc.Compression.Gzip,
            "deflate": grpc.Compression.Deflate,
            None: grpc.Compression.NoCompression,
        }[self.compression]


def listens(port: int) -> bool:
    """Whether anything accepts connections on a port of this machine, at either address of localhost."""
    for host in ("127.0.0.1", "::1"):
        with suppress(OSError), socket.create_connection((host, port), timeout=0.2):
            return True
    return False


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
Loop = asyncio.AbstractEventLoop | None


@dataclass
class _Opened(Generic[ChannelT]):
    """The channels of one event loop, or of no loop, by target; what sends, by target and path."""

    channels: dict[str, ChannelT] = field(default_factory=dict)
    calls: dict[tuple[str, str], Any] = field(default_factory=dict)
    lifetime: AsyncGenerator[None, None] | None = None


class Channels(Generic[ChannelT]):
    """The channels of one client, one for each target, opened when first used.

    A channel of asyncio works in one event loop alone, so each loop has its own; they are closed with it. A
    child made by fork() is told where gRPC cannot be used in it (`_forks.py`). A closed set stays closed.
    """

    def __init__(self, open_channel: Callable[[str], ChannelT], *, owned: bool = True) -> None:
        self._open = open_channel
        self._owned = owned
        self._lock = threading.Lock()
        self._opened: dict[Loop, _Opened[ChannelT]] = {}
        self._pid = os.getpid()
        self.closed = False

    def method(self, target: str, path: str, loop: Loop = None) -> Any:
        """The callable that sends bytes to an RPC and returns bytes, in the event loop if one is given.

        Raises:
            ClientClosed: after `close`, or in a child made by fork() in which gRPC cannot be used.
            OptionError: a ready-made channel belongs to another event loop.
        """
        if self._pid != os.getpid():
            self._after_fork()
        opened = self._opened.get(loop)
        call = opened.calls.get((target, path)) if opened is not None else None
        if call is None:
            with self._lock:
                self.check_open()
                opened = self._opened_in(loop)
                if target not in opened.channels:
                    note_connection()
                    opened.channels[target] = self._checked(self._open(target), loop)
                    if loop is not None:
                        note_asynchronous(opened.channels[target])
                call = opened.channels[target].unary_unary(path)  # type: ignore[attr-defined]
                opened.calls[target, path] = call
        return call

    @contextmanager
    def calling(self, target: str, loop: Loop = None) -> Iterator[None]:
        """Around a call to a target, for a process that forks meanwhile."""
        opened = self._opened.get(loop)
        channel = opened.channels.get(target) if opened is not None else None
        with calling(channel) if channel is not None else nullcontext():
            yield

    def check_open(self) -> None:
        """Raise ClientClosed after `close`."""
        if self.closed:
            raise ClientClosed("this client is closed", hint="make a new client, or close it later")

    def close(self) -> list[tuple[Loop, ChannelT]]:
        """Close for good; returns the channels for the caller to shut, none of them if they are not owned."""
        with self._lock:
            self.closed = True
            is_mine = self._owned and self._pid == os.getpid()
            channels = [
                (loop, channel)
                for loop, opened in self._opened.items()
                for channel in opened.channels.values()
                if is_mine
            ]
            self._opened.clear()
            return channels

    def ended(self, loop: Loop) -> list[ChannelT]:
        """Let go of the channels of an event loop that ends; returns them to be shut in it."""
        with self._lock:
            opened = self._opened.pop(loop, None)
            return list(opened.channels.values()) if opened is not None and self._owned else []

    def _opened_in(self, loop: Loop) -> _Opened[ChannelT]:
        if loop not in self._opened:
            # A loop that was closed without ending its generators first: its channels close themselves.
            for gone in [one for one in self._opened if one is not None and one.is_closed()]:
                del self._opened[gone]
            opened = self._opened[loop] = _Opened()
            if loop is not None:
                opened.lifetime = _lifetime(weakref.ref(self), loop)
                # Its first step needs no waiting.
                with suppress(StopIteration):
                    opened.lifetime.__anext__().send(None)
        return self._opened[loop]

    def _checked(self, channel: ChannelT, loop: Loop) -> ChannelT:
        if not self._owned and loop is not None and getattr(channel, "_loop", loop) is not loop:
            raise OptionError(
                "the ready-made channel belongs to another event loop",
                hint="make the channel and its client in the loop that uses them, or give a target",
            )
        return channel

    def _after_fork(self) -> None:
        if any(opened.channels for opened in self._opened.values()):
            check_fork(self._pid)
        self._lock = threading.Lock()  # the parent may have held it
        self._opened.clear()
        self._pid = os.getpid()


async def _lifetime(channels: weakref.ref[Channels[Any]], loop: Loop) -> AsyncGenerator[None, None]:
    """Suspended until its event loop ends: asyncio.run ends all asynchronous generators before that."""
    try:
        yield
    finally:
        living = channels()
        for channel in living.ended(loop) if living is not None else []:
            await channel.close(None)
