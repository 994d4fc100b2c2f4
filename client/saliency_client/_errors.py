"""What can go wrong, as types.

SaliencyError                     every error of this library
├── OptionError (ValueError)          a client option that cannot work
├── InputError (ValueError)           images or a parameter, found wrong before anything was sent
│   ├── UnknownMethod                     the served model does not offer this explanation method
│   ├── UnknownParameter                  the method has no parameter of this name
│   ├── MissingOutput (AttributeError, KeyError)   an explanation does not hold this output
│   └── ItemError                         the iterable given to explain_many failed to give an item
├── TokenError                        the bearer token provider raised
├── ClientClosed (RuntimeError)       the client was closed, or forked with an open channel
├── CopyError (TypeError)             a client cannot be pickled or copied
├── AnswerError                       the answer is not what its signature promises
└── CallError                         the server, or the way to it, said no; `code`, `details`: its words
    ├── Unavailable                       nothing answers there, or the connection broke
    │   ├── QueueFull                         the server's queue is full
    │   └── TLSError                          the two sides do not agree on TLS
    ├── DeadlineExceeded (TimeoutError)   no answer in time
    │   └── NotReady                          wait_ready gave up
    ├── ModelNotFound                     no such model, version or label, or it is still loading
    ├── ModelFailed                       the server could not load the model
    ├── SignatureNotFound                 the model has no such signature
    ├── InvalidArgument                   the server refused a value, a shape or a dtype
    ├── AnswerTooLarge                    the answer is beyond the limit set for this client
    ├── ResourceExhausted                 the server gave up for lack of room or time in its queue
    ├── CompilationUnavailable            the server cannot run XLA-compiled signatures
    ├── AccessDenied                      UNAUTHENTICATED or PERMISSION_DENIED
    ├── Cancelled                         the call was cancelled
    └── ServerError                       anything else the server answers with
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import grpc

from saliency_client._proxies import Proxy


class SaliencyError(Exception):
    """Base of every error that this library raises on purpose.

    `str(error)` is the sentence. The rest are attributes; each is None where it is not known:

    - `hint`: the next step to take.
    - `code`: the `grpc.StatusCode`, for errors that a server or a connection gave.
    - `details`: the server's own words.
    - `target`, `model`, `signature`: what was asked, and where.
    - `attempts`: how many times the request was sent; 0 if never.

    Errors can be pickled, so they cross process pools whole; a cause (`__cause__`) does not travel.

    Example:
        >>> try:
        ...     client.explain(images, class_index=99)
        ... except SaliencyError as error:
        ...     print(type(error).__name__, error.signature, error.attempts, error.message)
        InputError explain_gradients 0 class_index is 99; it must be in [0, 3], or -1 for the predicted class
    """

    found: str | None = None
    """The hint, where it is about what was found and not about this kind of error in general."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: grpc.StatusCode | None = None,
        details: str | None = None,
        target: str | None = None,
        model: str | None = None,
        signature: str | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.details = details
        self.target = target
        self.model = model
        self.signature = signature
        self.attempts = attempts
        if hint is not None and hasattr(self, "add_note"):  # Python 3.11 and later show it under a traceback
            self.add_note(f"hint: {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._fields())

    def _fields(self) -> dict[str, Any]:
        names = ("hint", "code", "details", "target", "model", "signature", "attempts")
        return {name: getattr(self, name) for name in names}


def _rebuild(kind: type[SaliencyError], message: str, fields: dict[str, Any]) -> SaliencyError:
    return kind(message, **fields)


class OptionError(SaliencyError, ValueError):
    """A client option that cannot work; raised by the constructor or when the channel is opened."""


class InputError(SaliencyError, ValueError):
    """Images or a parameter found wrong before anything was sent."""


class UnknownMethod(InputError):
    """The served model does not offer this explanation method; the message lists those it does."""


class UnknownParameter(InputError):
    """The method has no parameter of this name; the message lists those it has, with their defaults."""


class MissingOutput(InputError, AttributeError, KeyError):
    """An explanation does not hold this output; the message says whether the method has it at all.

    It is what Python's protocols want of a missing attribute and of a missing key.
    """

    def __str__(self) -> str:
        return self.message  # KeyError's own text is the repr


class ItemError(InputError):
    """The iterable given to `explain_many` raised instead of giving its next item."""


class TokenError(SaliencyError):
    """The bearer token provider raised, or returned something that is not a token."""


class ClientClosed(SaliencyError, RuntimeError):
    """The client was closed, or was taken through fork() with an open channel."""


class CopyError(SaliencyError, TypeError):
    """A client cannot be pickled or copied: it holds connections, and perhaps a token."""


class AnswerError(SaliencyError):
    """The answer is not what its signature promises: truncated, mislabeled, or with a shape that lies."""


class CallError(SaliencyError):
    """The server, or the way to it, said no. `code` and `details` keep its words."""


class Unavailable(CallError):
    """UNAVAILABLE: nothing answers at the target, or the connection broke, also after the retries."""


class QueueFull(Unavailable):
    """UNAVAILABLE: the server's queue is full; it is overloaded, not gone."""


class TLSError(Unavailable):
    """UNAVAILABLE: the two sides do not agree on TLS (certificate, host name, or plain text on one side)."""


class DeadlineExceeded(CallError, TimeoutError):
    """DEADLINE_EXCEEDED: no answer within the timeout, retries included."""


class NotReady(DeadlineExceeded):
    """`wait_ready` gave up: the model was not AVAILABLE in time."""


class ModelNotFound(CallError):
    """The server has no such model, version or label, or is still loading it."""


class ModelFailed(CallError):
    """The server tried to load the model and could not; `details` says why."""


class SignatureNotFound(CallError):
    """FAILED_PRECONDITION: the model has no signature of this name."""


class InvalidArgument(CallError):
    """INVALID_ARGUMENT: the server refused a value, a shape or a dtype; `details` names it."""


class AnswerTooLarge(CallError):
    """RESOURCE_EXHAUSTED by this client: the answer is larger than it may receive."""


class ResourceExhausted(CallError):
    """RESOURCE_EXHAUSTED by the server: out of memory, or out of time in its queue."""


class CompilationUnavailable(CallError):
    """The server cannot run XLA-compiled signatures, for want of a flag or of a compiler."""


class AccessDenied(CallError):
    """UNAUTHENTICATED or PERMISSION_DENIED."""


class Cancelled(CallError):
    """CANCELLED: by this side, or by the server or a proxy on the way."""


class ServerError(CallError):
    """Any other status, such as INTERNAL, UNKNOWN or UNIMPLEMENTED."""


@dataclass(frozen=True)
class Approach:
    """How a client goes to a target: with TLS, with a certificate of its own, through a proxy."""

    tls: bool = False
    certificate: bool = False
    proxy: Proxy | None = None


def from_rpc(
    error: grpc.RpcError,
    *,
    target: str,
    model: str,
    signature: str | None,
    attempts: int,
    approach: Approach | None = None,
) -> CallError:
    """The typed error for what gRPC raised, synchronous or asyncio; to be raised `from` it."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = (error.details() if hasattr(error, "details") else None) or ""
    kind, sentence, hint = _describe(code, details, target, model, signature)
    found = _found(kind, details, approach or Approach())
    if approach is not None and approach.proxy is not None and kind in _ON_THE_WAY:
        sentence += f" through the proxy {approach.proxy.address}"
    message = f"{sentence} ({code.name}{': ' if details else ''}{_readable(details)})"
    if attempts > 1:
        message += f", after {attempts} attempts"
    failure = kind(
        message,
        hint=found or hint,
        code=code,
        details=details,
        target=target,
        model=model,
        signature=signature,
        attempts=attempts,
    )
    failure.found = found
    return failure


_ON_THE_WAY = (Unavailable, TLSError, DeadlineExceeded)
"""Kinds of error that a proxy may be the reason of."""


def _found(kind: type[CallError], details: str, approach: Approach) -> str | None:
    """The next step for what the details and the way to the target tell; None where they tell nothing."""
    proxy = approach.proxy
    if proxy is not None and kind in _ON_THE_WAY:
        way = (
            f"leave {proxy.source} out"
            if proxy.host is None
            else f"add {proxy.host} to {proxy.exceptions} in the environment"
        )
        return (
            f"{proxy.source} is set, so the connection goes through a proxy; where the server is to be "
            f"reached directly, {way}"
        )
    if kind is TLSError and _NO_HANDSHAKER_SIGN in details:
        return (
            "a file is broken, or the key is not the certificate's: look into ca=…, certificate=… and key=…"
        )
    if kind is Unavailable and is_cut_off(details):
        wants = (
            "TLS or a client certificate (tls=TLS(…))"
            if not approach.tls
            else "another client certificate (certificate=…, key=…)"
            if approach.certificate
            else "a client certificate (certificate=…, key=…)"
        )
        return (
            f"it may want {wants}, be another kind of server (TensorFlow Serving's gRPC port is 8500 by "
            "default, its REST port 8501), or have been stopped"
        )
    return None


def cut_off(failure: CallError, approach: Approach) -> CallError:
    """The error for a target that accepts connections, where gRPC tells of another address of it."""
    target = failure.target or ""
    hint = _found(Unavailable, _CUT_OFF_SIGNS[0], approach)
    told = Unavailable(
        failure.message.replace(f"no server answers at {target}", f"{target} closed the connection", 1),
        hint=hint,
        code=failure.code,
        details=failure.details,
        target=target,
        model=failure.model,
        signature=failure.signature,
        attempts=failure.attempts,
    )
    told.found = hint
    return told


# TensorFlow wraps what an assertion in a graph says, and names the node behind it.
_ASSERTION = re.compile(r"assertion failed: \[(.*?)\]\s*(\[\[.*)?", re.DOTALL)


def _readable(details: str) -> str:
    """What an assertion in the model's graph says, without the graph around it; else the details."""
    match = _ASSERTION.fullmatch(details.strip())
    return match[1] if match else details


# TensorFlow Serving's words; those of its TFRT servables.
_NO_SIGNATURE = re.compile(r'Serving signature key ".*" not found|Function ".*" not found', re.DOTALL)

_TLS_SIGNS = (
    "handshake",
    "Hostname Verification",
    "CERTIFICATE_VERIFY_FAILED",
    "WRONG_VERSION_NUMBER",
    "Peer name",
    "SSL_ERROR",
)


# How BoringSSL, in gRPC, tells that what answered its greeting is no TLS at all.
_PLAIN_SIGN = "WRONG_VERSION_NUMBER"

# How gRPC tells that it can make no TLS of the files.
_NO_HANDSHAKER_SIGN = "create security handshaker"

# How gRPC tells of a port that answers, but not in its language: a server with TLS, or one of HTTP/1.
_CUT_OFF_SIGNS = ("Socket closed", "Connection reset", "HTTP/2", "http1.x")


def is_cut_off(details: str) -> bool:
    """Whether the words of an UNAVAILABLE tell of a port that answered, and then closed the connection."""
    return any(sign in details for sign in _CUT_OFF_SIGNS)


def is_tls_failure(details: str) -> bool:
    """Whether the words of an UNAVAILABLE tell of a TLS disagreement, which no retry mends."""
    return any(sign.lower() in details.lower() for sign in _TLS_SIGNS)


# TensorFlow Serving's batching, this project's local server, Envoy.
_FULL_SIGNS = ("batch scheduling queue", "The server is full", "reset reason: overflow")


def is_queue_full(details: str) -> bool:
    """Whether the words of an UNAVAILABLE tell of a server, or a proxy before it, that is there but full."""
    return any(sign in details for sign in _FULL_SIGNS)


def _describe(
    code: grpc.StatusCode, details: str, target: str, model: str, signature: str | None
) -> tuple[type[CallError], str, str | None]:
    """The type, the sentence and the next step for one status."""
    status = grpc.StatusCode
    asked = f"model {model!r}" + (f", signature {signature!r}," if signature else "") + f" at {target}"
    if code is status.NOT_FOUND or "Unrecognized servable version label" in details:
        return (
            ModelNotFound,
            f"{target} serves no such model, version or label: {model!r}",
            "compare the name and version with the server's configuration; a model that is still loading "
            "answers the same, and wait_ready(timeout) waits for it",
        )
    if code is status.FAILED_PRECONDITION and _NO_SIGNATURE.search(details):
        return (
            SignatureNotFound,
            f"model {model!r} at {target} has no signature {signature!r}",
            "signatures() lists what the model offers",
        )
    if "XLA compilation disabled" in details or "Could not find compiler for platform" in details:
        return (
            CompilationUnavailable,
            f"{target} cannot run the compiled signatures of model {model!r}",
            "start TensorFlow Serving 2.18 or later with --xla_gpu_compilation_enabled "
            "(or --xla_cpu_compilation_enabled), or export the model with --compile none",
        )
    if code is status.UNAVAILABLE and is_queue_full(details):
        return (
            QueueFull,
            f"{target} is overloaded: its queue for model {model!r} is full",
            "send fewer requests at a time, or add servers; explain_many waits and tries again by itself",
        )
    if code is status.UNAVAILABLE and is_tls_failure(details):
        return (
            TLSError,
            f"{target} answers without TLS"
            if _PLAIN_SIGN in details
            else f"the TLS files given for {target} cannot be used"
            if _NO_HANDSHAKER_SIGN in details
            else f"no TLS connection to {target}",
            "leave tls=… out, or ask for the port where the server has TLS"
            if _PLAIN_SIGN in details
            else "give tls=TLS(ca=…, server_name=…) as the server's certificate needs, "
            "or no tls where the server has none",
        )
    if code is status.UNAVAILABLE and is_cut_off(details):
        return Unavailable, f"{target} closed the connection", None
    if code is status.UNAVAILABLE:
        return (
            Unavailable,
            f"no server answers at {target}",
            "check that TensorFlow Serving runs there and that this is its gRPC port (8500 by default, "
            "not the REST port 8501); it opens only after the first load, and wait_ready(timeout) waits",
        )
    if code is status.DEADLINE_EXCEEDED:
        return (
            DeadlineExceeded,
            f"no answer in time from {asked}",
            "give a longer timeout=…, fewer images, or fewer passes over the model where the method has a "
            "parameter for them; the first request for a shape may wait for XLA to compile",
        )
    if code is status.INVALID_ARGUMENT:
        return (
            InvalidArgument,
            f"{asked} refused the request",
            "the server's words name the input and its bounds; signatures() has the types and defaults of "
            "all inputs, and their bounds where the export tells them",
        )
    if code is status.RESOURCE_EXHAUSTED and "larger than max" in details:
        return (
            AnswerTooLarge,
            f"the answer of {asked} is larger than this client may receive",
            "ask for fewer images or outputs, raise max_answer_bytes, or open the injected channel with "
            "grpc.max_receive_message_length = -1",
        )
    if code is status.RESOURCE_EXHAUSTED:
        return (
            ResourceExhausted,
            f"{asked} ran out of room",
            "send fewer images at a time, or fewer requests",
        )
    if code is status.UNAUTHENTICATED or code is status.PERMISSION_DENIED:
        return AccessDenied, f"{asked} refused access", "check token=… or the client certificate"
    if code is status.CANCELLED:
        return Cancelled, f"the call to {asked} was cancelled", None
    if code is status.UNIMPLEMENTED:
        return (
            ServerError,
            f"{target} does not speak TensorFlow Serving's gRPC protocol",
            "check that the port is TensorFlow Serving's gRPC port (8500 by default)",
        )
    return ServerError, f"{asked} failed", None
