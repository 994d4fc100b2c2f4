"""How images are asked about: with patience while the server is away, whose faults are no image's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from saliency_client._bulk import Item, ItemResult
from saliency_client._calls import Calls, Conversation, Wait
from saliency_client._errors import (
    AnswerTooLarge,
    CallError,
    DeadlineExceeded,
    InputError,
    InvalidArgument,
    ModelNotFound,
    NotReady,
    ResourceExhausted,
    SaliencyError,
    ServerError,
    Unavailable,
    UnknownMethod,
    UnknownParameter,
)
from saliency_client._requests import check_bounds
from saliency_client._signatures import check_parameters

if TYPE_CHECKING:
    from saliency_client._requests import Outputs
    from saliency_client._signatures import Signature

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0
_REFUSED_FROM_THE_START = 32
"""So many images that a server refuses, before it has taken one, are not to blame: the request is."""
_ATTEMPTS_OF_A_FAULT = 3
_SECONDS_FOR_A_NAME = 2.0
"""For a model that a server does not know, and may come to know when it next looks at its folders."""

_PASSES = (Unavailable, DeadlineExceeded, ModelNotFound, ResourceExhausted)
"""What a server says while it starts, is replaced or has too much to do."""
_OF_AN_IMAGE = (InputError, InvalidArgument, AnswerTooLarge, ServerError)
_OF_THE_REQUEST = (UnknownMethod, UnknownParameter)


_COMES = ("START", "LOADING", "AVAILABLE")
_OF_VERSIONS = (
    "serve that version again; or let versions mix (--any-version): each row names its own; or begin anew in "
    "another folder"
)


class VersionChanged(SaliencyError):
    """Another version of the model answered than the one that the rows before came from."""


@dataclass
class Asking:
    """Asks about batches of images, one conversation each; what it learns holds for all that follow.

    Attributes:
        method: of the model.
        parameters: of the method, by name; `class_index` too.
        outputs: large ones that are asked for.
        batch_size: images in a request, at most.
        timeout: seconds for each image of a request; None: no limit.
        patience: seconds for which a server may be away, or loading, before that is an error.
        version: that has to answer; None: any.
    """

    method: str
    parameters: Mapping[str, Any]
    outputs: Outputs
    batch_size: int
    timeout: float | None
    patience: float
    version: int | None = None
    _taken: int = field(default=0, init=False)
    _refused: int = field(default=0, init=False)

    @property
    def doubtful(self) -> bool:
        """Whether all that the server said of images so far was no."""
        return self._refused > 0 and not self._taken

    def explain(
        self, calls: Calls, images: Sequence[npt.NDArray[Any] | SaliencyError]
    ) -> Conversation[list[ItemResult]]:
        """Of each image its explanation, B = 1, or the error that is its own.

        Raises:
            VersionChanged: another version answered than `version`.
            SaliencyError: what is not an image's fault, as that the server stayed away.
        """
        parameters = {name: value for name, value in self.parameters.items() if value is not None}
        items = [
            Item(index, None, {}, image)
            if isinstance(image, SaliencyError)
            else Item(index, image, parameters)
            for index, image in enumerate(images)
        ]
        results: list[ItemResult] = []
        for start in range(0, len(items), self.batch_size):
            results += yield from self._batch(calls, items[start : start + self.batch_size])
        return results

    def trust(self) -> None:
        """Take in that the server has taken images with this request before."""
        self._taken += 1

    def signature(self, calls: Calls) -> Conversation[Signature]:
        """The method's signature, once the model answers.

        Raises:
            UnknownMethod, UnknownParameter: the model does not offer what is asked.
            InputError: a parameter is outside its bounds.
            SaliencyError: the model does not answer in time.
        """
        yield from until_served(calls, self.patience)
        signature, metadata = yield from calls.method_signature(self.method)
        check_parameters(signature, self.parameters, metadata.signatures)
        for name, value in self.parameters.items():
            if value is not None:
                check_bounds(signature, name, value)
        return signature

    def _batch(self, calls: Calls, items: list[Item]) -> Conversation[list[ItemResult]]:
        known: dict[int, ItemResult] = {}
        pause, attempts, end = _FIRST_WAIT, 0, time.monotonic() + self.patience
        groups = [items]
        while groups:
            group = groups.pop(0)
            timeout = None if self.timeout is None else self.timeout * len(group)
            results = yield from calls.explain_items(
                group, method=self.method, outputs=self.outputs, timeout=timeout
            )
            for result in results:
                self._check(result)
            again = [item for item, result in zip(group, results, strict=True) if _passes(result.error)]
            faulty = [item for item, result in zip(group, results, strict=True) if _is_fault(result.error)]
            known.update({result.index: result for result in results})
            if again:
                error = known[again[0].index].error
                assert error is not None
                if isinstance(error, ModelNotFound):
                    yield from self._check_served(calls)
                if time.monotonic() + pause > end:
                    raise error
                yield Wait(pause)
                pause = min(2 * pause, _LONGEST_WAIT)
                groups.insert(0, again)
            elif faulty and (len(faulty) > 1 or attempts < _ATTEMPTS_OF_A_FAULT):
                # An image that ends the server's call each time must not hold the others.
                attempts += 1
                yield Wait(min(_FIRST_WAIT, max(0.0, end - time.monotonic())))
                middle = (len(faulty) + 1) // 2
                groups[:0] = [half for half in (faulty[:middle], faulty[middle:]) if half]
        self._count(known.values())
        return [known[item.index] for item in items]

    def _check_served(self, calls: Calls) -> Conversation[None]:
        """Raise VersionChanged where a server has given the version up for another one."""
        if self.version is None:
            return
        try:
            states = yield from calls.status()
        except SaliencyError:
            return
        others = [state.version for state in states if state.available]
        comes = any(state.version == self.version and state.state in _COMES for state in states)
        if others and not comes:
            raise VersionChanged(
                f"version {self.version} of the model is not served any more; version {others[0]} is",
                hint=_OF_VERSIONS,
                model=calls.model.name,
            )

    def _check(self, result: ItemResult) -> None:
        """Raise what concerns all images."""
        error, explanation = result.error, result.explanation
        if isinstance(error, _OF_THE_REQUEST):
            raise error
        if error is not None and not isinstance(error, (*_OF_AN_IMAGE, *_PASSES)):
            raise error
        if explanation is not None and self.version not in (None, explanation.version):
            raise VersionChanged(
                f"version {explanation.version} of the model answers, and the rows so far are of version "
                f"{self.version}",
                hint=_OF_VERSIONS,
                model=explanation.model,
            )

    def _count(self, results: Any) -> None:
        for result in results:
            if result.explanation is not None:
                self._taken += 1
            elif isinstance(result.error, (InvalidArgument, ServerError)):
                self._refused += 1
                if not self._taken and self._refused >= _REFUSED_FROM_THE_START:
                    raise result.error


def until_served(calls: Calls, patience: float) -> Conversation[None]:
    """Wait for the model; not long for one that a server does not know, as where its name is wrong.

    Raises:
        ModelNotFound: a server does not know it.
        NotReady: no server answers, or it still loads the model, after `patience` seconds.
    """
    end = time.monotonic() + patience
    while True:
        soon = min(_SECONDS_FOR_A_NAME, max(0.0, end - time.monotonic()))
        try:
            yield from calls.wait_ready(soon)
            return
        except NotReady as error:
            cause = error.__cause__
            # A server's own words: of a model that it loads they say nothing.
            if isinstance(cause, ModelNotFound) and cause.details:
                raise cause from None
            if time.monotonic() >= end:
                assert isinstance(cause, CallError)
                raise calls.not_ready(patience, cause) from cause


def _passes(error: SaliencyError | None) -> bool:
    return isinstance(error, _PASSES)


def _is_fault(error: SaliencyError | None) -> bool:
    return isinstance(error, ServerError)
