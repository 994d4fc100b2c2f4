"""What a client says to its server, as conversations that do no I/O of their own.

A conversation is a generator. It yields a step (send these bytes, wait, fetch a token, …) and is resumed with
the step's result, or with the exception that the step met; what it returns is the result of the call. The
synchronous and the asyncio client only carry out steps, so that everything else exists once.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, TypeVar

import grpc
import numpy as np

from saliency_client import _requests as requests
from saliency_client._bulk import Item, ItemResult, stacked
from saliency_client._channel import Rotation
from saliency_client._contract import EXPLAIN_PREFIX
from saliency_client._errors import (
    AnswerTooLarge,
    Approach,
    CallError,
    DeadlineExceeded,
    InputError,
    InvalidArgument,
    ModelFailed,
    ModelNotFound,
    NotReady,
    SaliencyError,
    SignatureNotFound,
    TLSError,
    TokenError,
    Unavailable,
    UnknownMethod,
    UnknownParameter,
    cut_off,
    from_rpc,
    is_cut_off,
)
from saliency_client._explanation import Explanation
from saliency_client._numbers import MOST_SECONDS, are_seconds, is_real
from saliency_client._proxies import is_named_localhost
from saliency_client._requests import ArrayLike, ModelName, Outputs, Request, VersionStatus
from saliency_client._retry import RetryPolicy
from saliency_client._signatures import (
    Metadata,
    Signature,
    check_parameters,
    class_names,
    listed_signatures,
    parse_metadata,
    predictions_signature,
)
from saliency_client._slices import Slices
from saliency_client._tensors import Array


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Not given; None means something else: no limit."""

# Wrong input asks for fresh metadata, in case the served version changed; so many wrong images ask seldom.
_TRUSTED_SECONDS = 1.0

SIGNATURE_KEY: Final = "saliency-signature"
"""The metadata key that tells a proxy which signature a call is for: it is in the body, which none reads."""

Timeout = float | None | Unset
CallMetadata = tuple[tuple[str, "str | bytes"], ...]


@dataclass(frozen=True)
class Send:
    """Send bytes to an RPC of a target; resumed with the answer's bytes, or with the grpc.RpcError."""

    target: str
    path: str
    payload: bytes
    timeout: float | None
    # A token may be in it, and error reports show the variables of every frame.
    metadata: CallMetadata = field(repr=False)


@dataclass(frozen=True)
class Wait:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True)
class FetchToken:
    """Call the token provider, and await what it returns if that is awaitable; resumed with the token."""

    provider: Callable[[], Any]


@dataclass(frozen=True)
class Look:
    """Look whether anything listens on a port of this machine; resumed with the answer."""

    port: int


Step = Send | Wait | FetchToken | Look
T = TypeVar("T")
Conversation = Generator[Step, Any, T]


@dataclass(frozen=True)
class _Deadline:
    at: float | None
    clock: Callable[[], float]

    def remaining(self) -> float | None:
        return None if self.at is None else max(self.at - self.clock(), 0.0)


@dataclass(frozen=True)
class _Reply:
    payload: bytes
    target: str
    attempts: int


class Calls:
    """The conversations of one client, and the little that they remember: the served version's metadata."""

    def __init__(
        self,
        model: ModelName,
        rotation: Rotation,
        *,
        retry: RetryPolicy,
        timeout: float | None,
        token: str | Callable[[], Any] | None,
        metadata: CallMetadata,
        approach: Callable[[str], Approach] = lambda target: Approach(),
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.model = model
        self._rotation = rotation
        self._retry = retry
        self._timeout = checked_timeout(timeout)
        self._token = token
        self._metadata = metadata
        self._approach = approach
        self._clock = clock
        self._chance = chance
        self._known: Metadata | None = None
        self._known_since = 0.0

    def explain(
        self,
        images: ArrayLike,
        *,
        method: str,
        parameters: Mapping[str, ArrayLike | None],
        outputs: Outputs,
        timeout: Timeout,
        patient: bool = False,
    ) -> Conversation[Explanation]:
        """Explain images; `patient` waits for room in the server's queue as long as the timeout allows."""

        def build(metadata: Metadata) -> Request:
            signature = self._explain_signature(metadata, method)
            check_parameters(signature, parameters, metadata.signatures)
            return requests.explain_request(self.model, signature, images, parameters, outputs)

        answer = yield from self._predict(build, self._deadline(timeout), patient)
        return Explanation(
            answer.outputs,
            method=method,
            model=self.model.name,
            version=answer.version or None,
            offered=answer.signature.outputs,
            channels=answer.signature.has_channels,
        )

    def slices(
        self,
        images: ArrayLike,
        *,
        method: str,
        parameters: Mapping[str, ArrayLike | None],
        target_error: ArrayLike,
        timeout: Timeout,
    ) -> Conversation[Slices]:
        """What to ask for, slice by slice, until the error of a mean over samples is small enough."""

        def build(metadata: Metadata) -> Slices:
            signature = self._explain_signature(metadata, method)
            check_parameters(signature, parameters, metadata.signatures)
            of = f"model {self.model.name!r}, version {metadata.version},"
            return Slices(signature, images, parameters, target_error, metadata.signatures, of)

        return (yield from self._built(build, self._deadline(timeout), False))[1]

    def explain_items(
        self, items: list[Item], *, method: str, outputs: Outputs, timeout: Timeout
    ) -> Conversation[list[ItemResult]]:
        """Explain a batch whose items answer for themselves: one that is refused does not fail the others."""
        started = self._clock()
        results = {item.index: ItemResult(item.index, error=item.error) for item in items if item.error}
        waiting = [item for item in items if not item.error]
        groups = [waiting] if waiting else []
        while groups:
            group = groups.pop(0)
            try:
                images, parameters = stacked(group)
                explanation = yield from self.explain(
                    images,
                    method=method,
                    parameters=parameters,
                    outputs=outputs,
                    timeout=timeout,
                    patient=True,
                )
            except SaliencyError as error:
                of_one = isinstance(error, (InputError, InvalidArgument, AnswerTooLarge))
                of_all = isinstance(error, (UnknownMethod, UnknownParameter))
                if len(group) > 1 and of_one and not of_all:
                    # Halving finds the item at fault, and fits batches into the server's or client's limits.
                    middle = len(group) // 2
                    groups = [group[:middle], group[middle:], *groups]
                    continue
                seconds = self._clock() - started
                for item in group:
                    results[item.index] = ItemResult(item.index, error=error, seconds=seconds)
            else:
                seconds = self._clock() - started
                for item, one in zip(group, explanation, strict=True):
                    results[item.index] = ItemResult(item.index, explanation=one, seconds=seconds)
        return [results[item.index] for item in items]

    def predict(
        self,
        images: ArrayLike | Mapping[str, ArrayLike],
        *,
        signature: str | None,
        outputs: Outputs,
        timeout: Timeout,
    ) -> Conversation[dict[str, Array]]:
        """Run any signature; None is the one that predicts from images."""

        def build(metadata: Metadata) -> Request:
            name = predictions_signature(metadata.signatures) if signature is None else signature
            return requests.predict_request(
                self.model, self._signature(metadata, name), images, outputs, complete=metadata.withheld
            )

        answer = yield from self._predict(build, self._deadline(timeout), False)
        return dict(answer.outputs)

    def metadata(self, timeout: Timeout = UNSET) -> Conversation[Metadata]:
        """What the served version offers; asked once for each version."""
        return self._known or (yield from self._learn(self._deadline(timeout)))

    def method_signature(
        self, method: str, timeout: Timeout = UNSET
    ) -> Conversation[tuple[Signature, Metadata]]:
        """The signature of a method, and what the served version offers beside it."""
        metadata = yield from self.metadata(timeout)
        return self._explain_signature(metadata, method), metadata

    def labels(self, timeout: Timeout = UNSET) -> Conversation[tuple[str, ...] | None]:
        """The names of all classes; of a server that returns no defaults by a call, once for each version."""
        deadline = self._deadline(timeout)
        metadata = self._known or (yield from self._learn(deadline))
        if (asked := metadata.withheld_names) is None:
            return metadata.labels
        signature, classes = asked
        try:
            answers = yield from self._in_parts(
                lambda some: requests.names_request(self.model, signature, some),
                classes,
                deadline,
                self._retry,
            )
        except InvalidArgument:
            self._known = None  # perhaps another version is served by now
            raise
        names = tuple(name for answer in answers for name in class_names(answer.outputs["labels"]))
        if self._known is metadata:
            same = all(answer.version in (0, metadata.version) for answer in answers)
            self._known = replace(metadata, names=names) if same else None
        return names

    def forget(self) -> None:
        """Let what is known of the served version go; the next call asks again."""
        self._known = None

    def status(self, timeout: Timeout = UNSET) -> Conversation[tuple[VersionStatus, ...]]:
        """The state of the model's versions; a newer one that answers is asked for its signatures next."""
        versions = yield from self._status(self._deadline(timeout), self._retry)
        serving = [version.version for version in versions if version.available]
        if self._known is not None and self.model.follows_latest and self._known.version not in serving[:1]:
            self._known = None
        return versions

    def wait_ready(self, timeout: float | None) -> Conversation[None]:
        """Wait until the model answers."""
        deadline = self._deadline(timeout)
        pause = 0.05
        met: CallError | None = None
        while True:
            try:
                yield from self._check_ready(deadline)
                return
            except TLSError:
                raise
            except (Unavailable, ModelNotFound, InvalidArgument, DeadlineExceeded) as error:
                # A last poll that only ran out of time says less than the one before it.
                less = isinstance(error, DeadlineExceeded) or (
                    met is not None and _tells_less(error.details or "", met.details or "")
                )
                met = met if met is not None and less else error
                remaining = deadline.remaining()
                if remaining is not None and remaining <= pause:
                    raise self.not_ready(timeout, met) from met
            yield Wait(pause)
            pause = min(pause * 1.5, 1.0)

    def _check_ready(self, deadline: _Deadline) -> Conversation[None]:
        # A server that accepts and hangs must not use up the whole wait.
        soon = self._clock() + 5.0
        poll = _Deadline(soon if deadline.at is None else min(soon, deadline.at), self._clock)
        once = RetryPolicy(attempts=1)
        versions = yield from self._status(poll, once)
        if versions and all(version.failed for version in versions):
            newest = versions[0]
            raise ModelFailed(
                f"model {self.model.name!r} could not be loaded, version {newest.version}: "
                f"{newest.error_message}",
                details=newest.error_message,
                model=str(self.model),
            )
        if not any(version.available for version in versions):
            states = ", ".join(f"{version.version} {version.state}" for version in versions) or "no version"
            raise ModelNotFound(f"model {self.model.name!r} is not AVAILABLE yet: {states}")
        # Settles labels too, which the status call does not know, and warms the cache.
        yield from self._learn(poll, once)

    def not_ready(self, timeout: float | None, error: CallError) -> NotReady:
        """The error of a wait that ended without the model, by what was met."""
        failure = NotReady(
            f"model {self.model.name!r} was not ready after {timeout:g} s: {error.message}",
            hint=error.hint,
            code=grpc.StatusCode.DEADLINE_EXCEEDED,
            details=error.details,
            target=error.target,
            model=str(self.model),
            attempts=error.attempts,
        )
        failure.found = error.found
        return failure

    def _predict(
        self, build: Callable[[Metadata], Request], deadline: _Deadline, patient: bool
    ) -> Conversation[requests.Answer]:
        metadata, request = yield from self._built(build, deadline, patient)
        try:
            answer = yield from self._ask(request, deadline, self._retry, patient=patient)
        except (InvalidArgument, SignatureNotFound, ModelNotFound):
            self._known = None  # perhaps another version is served by now
            raise
        if answer.version and answer.version != metadata.version:
            self._known = None
        return answer

    def _ask(
        self, request: Request, deadline: _Deadline, retry: RetryPolicy, *, patient: bool = False
    ) -> Conversation[requests.Answer]:
        """Send a Predict request; its answer, checked against its signature."""
        name = request.signature.name
        reply = yield from self._send(
            requests.PREDICT, request.payload, deadline, retry, signature=name, patient=patient
        )
        with self._located(name, reply):
            return requests.parse_answer(reply.payload, request)

    def _in_parts(
        self,
        request: Callable[[range], Request],
        rows: int,
        deadline: _Deadline,
        retry: RetryPolicy,
        *,
        patient: bool = False,
    ) -> Conversation[list[requests.Answer]]:
        """The answers for so many rows of a table, in order; in parts where a server bounds a request."""
        answers: list[requests.Answer] = []
        done, at_once = 0, rows
        while done < rows:
            some = range(done, min(done + at_once, rows))
            try:
                answer = yield from self._ask(request(some), deadline, retry, patient=patient)
            except InvalidArgument:
                if len(some) == 1:
                    raise
                at_once = (len(some) + 1) // 2  # a server that batches bounds the rows of a request
                continue
            answers.append(answer)
            done += len(some)
        return answers

    def _built(
        self, build: Callable[[Metadata], T], deadline: _Deadline, patient: bool
    ) -> Conversation[tuple[Metadata, T]]:
        """What is built, as a request; input that does not fit is tried on fresh metadata before it fails."""
        known = self._known
        if known is not None:
            try:
                return known, build(known)
            except InputError:
                if self._clock() - self._known_since < _TRUSTED_SECONDS:
                    with self._located(None, None):
                        raise
        metadata = yield from self._learn(deadline, patient=patient)
        with self._located(None, None):
            return metadata, build(metadata)

    def _explain_signature(self, metadata: Metadata, method: str) -> Signature:
        signature = metadata.signatures.get(f"{EXPLAIN_PREFIX}{method}")
        if signature is None:
            offered = ", ".join(metadata.methods) or "none"
            raise UnknownMethod(
                f"model {self.model.name!r} offers no method {method!r}; it offers {offered}",
                hint=None if metadata.methods else "export it with saliency-exporter to add explanations",
            )
        return signature

    def _signature(self, metadata: Metadata, name: str) -> Signature:
        if name not in metadata.signatures:
            offered = listed_signatures(metadata.signatures)
            raise InputError(f"model {self.model.name!r} has no signature {name!r}; it has {offered}")
        return metadata.signatures[name]

    def _learn(
        self, deadline: _Deadline, retry: RetryPolicy | None = None, *, patient: bool = False
    ) -> Conversation[Metadata]:
        """Ask for the metadata, and where it comes without any default for the model's tables."""
        retry = retry or self._retry
        reply = yield from self._send(
            requests.METADATA, requests.metadata_request(self.model), deadline, retry
        )
        with self._located(None, reply):
            metadata = parse_metadata(reply.payload)
        same_version = True
        if metadata.withheld and (table := metadata.defaults_table) is not None:
            request = requests.defaults_request(self.model, table)
            answer = yield from self._ask(request, deadline, retry, patient=patient)
            metadata = metadata.with_defaults(answer.outputs)
            answers = [answer]
            if (bounds := metadata.bounds_table) is not None:
                names = list(table.outputs)
                of_bounds = yield from self._in_parts(
                    lambda some: requests.bounds_request(self.model, bounds, [names[row] for row in some]),
                    len(names),
                    deadline,
                    retry,
                    patient=patient,
                )
                rows = np.concatenate([answer.outputs["bounds"] for answer in of_bounds])
                metadata = metadata.with_bounds(names, rows)
                answers += of_bounds
            same_version = all(answer.version in (0, metadata.version) for answer in answers)
        # Where replicas change over, one tells the signatures of a version and the next another's defaults.
        self._known = metadata if same_version else None
        self._known_since = self._clock()
        return metadata

    def _status(self, deadline: _Deadline, retry: RetryPolicy) -> Conversation[tuple[VersionStatus, ...]]:
        reply = yield from self._send(requests.STATUS, requests.status_request(self.model), deadline, retry)
        with self._located(None, reply):
            return requests.parse_status(reply.payload)

    def _send(
        self,
        path: str,
        payload: bytes,
        deadline: _Deadline,
        retry: RetryPolicy,
        *,
        signature: str | None = None,
        patient: bool = False,
    ) -> Conversation[_Reply]:
        """Send until there is an answer, an error that no retry mends, or no time left."""
        attempts = 0
        told = self._metadata + self._told(signature)
        met: dict[str, CallError] = {}
        while True:
            attempts += 1
            metadata = told + (yield from self._authorization())
            target = self._rotation.pick()
            try:
                answer: bytes = yield Send(target, path, payload, deadline.remaining(), metadata)
                self._rotation.answered(target)
                return _Reply(answer, target, attempts)
            except grpc.RpcError as error:
                failure = from_rpc(
                    error,
                    target=target,
                    model=str(self.model),
                    signature=signature,
                    attempts=attempts,
                    approach=self._approach(target),
                )
                if isinstance(failure, Unavailable):
                    self._rotation.failed(target)
                delay = retry.delay(
                    failure, remaining=deadline.remaining(), patient=patient, chance=self._chance()
                )
                telling = met.get(target)
                if telling is None or not _tells_less(failure.details or "", telling.details or ""):
                    met[target] = failure
                if delay is None:
                    raise (yield from self._as_found(met[target])) from error
            yield Wait(delay)

    def _as_found(self, failure: CallError) -> Conversation[CallError]:
        """Of localhost's two addresses gRPC tells of one alone, which may be the one without a server."""
        target = failure.target or ""
        if (
            type(failure) is not Unavailable
            or is_cut_off(failure.details or "")
            or not is_named_localhost(target)
        ):
            return failure
        port = target.rpartition(":")[2]
        listens = port.isdecimal() and (yield Look(int(port)))
        return cut_off(failure, self._approach(target)) if listens else failure

    def _told(self, signature: str | None) -> CallMetadata:
        """The signature's name for proxies, unless the caller gave another word or it cannot be a header."""
        known = any(key == SIGNATURE_KEY for key, _ in self._metadata)
        if signature is None or known or not re.fullmatch(r"[\x21-\x7e]{1,128}", signature):
            return ()
        return ((SIGNATURE_KEY, signature),)

    def _authorization(self) -> Conversation[CallMetadata]:
        if self._token is None:
            return ()
        token = self._token
        if callable(token):
            try:
                token = yield FetchToken(token)
            except Exception as error:
                raise TokenError(
                    f"the token provider failed: {type(error).__name__}: {error}", model=str(self.model)
                ) from error
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
            raise TokenError("the token is not a line of printable ASCII text", model=str(self.model))
        return (("authorization", f"Bearer {token}"),)

    def _deadline(self, timeout: Timeout) -> _Deadline:
        seconds = self._timeout if isinstance(timeout, Unset) else checked_timeout(timeout)
        return _Deadline(None if seconds is None else self._clock() + seconds, self._clock)

    @contextmanager
    def _located(self, signature: str | None, reply: _Reply | None) -> Iterator[None]:
        """Complete errors of pure code with what it cannot know: model, signature, target, attempts."""
        try:
            yield
        except SaliencyError as error:
            error.model = error.model or str(self.model)
            error.signature = error.signature or signature
            if reply is not None:
                error.target, error.attempts = reply.target, reply.attempts
            raise


def _tells_less(details: str, earlier: str) -> bool:
    """Whether an error is of another address than the one before it, where nothing listens.

    localhost has two addresses, and gRPC tells of one at a time: of the one where the server listens and does
    not agree on TLS, or of the one where it does not listen.
    """
    here, there = _ADDRESS.search(details), _ADDRESS.search(earlier)
    elsewhere = here is not None and there is not None and here[0] != there[0]
    return elsewhere and is_cut_off(earlier) and not is_cut_off(details)


# As in "last error: UNKNOWN: ipv4:127.0.0.1:8500: Failed to connect …".
_ADDRESS = re.compile(r"ipv[46]:\S+:\d+(?=: )")


def checked_timeout(timeout: float | None) -> float | None:
    """A timeout in seconds, or None for no limit, as for infinity and whatever is beyond thirty years.

    Raises:
        InputError: it is not a number above 0.
    """
    if timeout is None or (is_real(timeout) and timeout > MOST_SECONDS):
        return None
    if not are_seconds(timeout):
        raise InputError(f"timeout is {timeout!r}; it must be seconds above 0, or None for no limit")
    return float(timeout)
