"""The served model as the page asks it: its versions, what each offers, and whether its server answers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature as python_signature
from typing import Any

from saliency_client._calls import UNSET
from saliency_client._errors import CallError, InputError
from saliency_client._signatures import Metadata, Signature, number_of_classes
from saliency_client._slices import count_of, takes_slices
from saliency_client.aio import AsyncSaliencyClient
from saliency_client.cli.errors import CommandError
from saliency_client.cli.model_input import ModelInput, model_input
from saliency_client.web.live import forms

LABELS = ("stable", "canary")
"""Version labels that are looked for: servers tell nobody which they have."""

_STATUS_SECONDS = 3.0
# Pages look every few seconds; those of several people ask the server together.
_FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Choice:
    """A version that a person may choose.

    Attributes:
        key: what the browser calls it; the empty one is what the command was started with.
        text: for people.
        version, label: of the model; None for the latest.
    """

    key: str
    text: str
    version: int | None
    label: str | None


class Served:
    """One model of one server, asked by clients of one event loop.

    Args:
        connect: makes a client for a version, or a label, or neither.
        version, label: what the command was started with.
        names: of all classes, from a file; None: the model's own.
    """

    def __init__(
        self,
        connect: Callable[[int | None, str | None], AsyncSaliencyClient],
        *,
        version: int | None = None,
        label: str | None = None,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self._connect = connect
        self._names = names
        self._choices = {
            "": Choice("", label or (f"version {version}" if version else "latest"), version, label)
        }
        self._clients: dict[str, AsyncSaliencyClient] = {}
        self._state = _Shared(self._ask_state)
        self._offer = _Shared(self._ask_offer)

    def client(self, key: str) -> AsyncSaliencyClient:
        """The client of a choice.

        Raises:
            InputError: there is no such choice, or not any more.
        """
        choice = self._choices.get(key)
        if choice is None:
            raise InputError(
                "this version of the model is not served any more", hint="choose another version"
            )
        return self._client(choice)

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients.values():
            await client.close()

    async def state(self) -> Mapping[str, Any]:
        """Which versions answer: `versions`, and `serves`, which changes whenever what is offered may have.

        Raises:
            SaliencyError: the server does not answer, or not for this model.
        """
        return await self._state.get()

    async def offer(self) -> Mapping[str, Any]:
        """What can be chosen, for the browser: versions, and of each its methods with their forms.

        Raises:
            SaliencyError: the server does not answer, or not for this model.
        """
        return await self._offer.get()

    async def names(self, key: str) -> tuple[str, ...] | None:
        """The names of all classes of a choice; None where it has none."""
        return self._names or await self.client(key).labels()

    async def signature(self, key: str, method: str) -> Signature:
        """The signature of a method.

        Raises:
            UnknownMethod, SaliencyError: as `explain`.
        """
        client = self.client(key)
        metadata = await client._run(client._calls.metadata(UNSET))
        return client._calls._explain_signature(metadata, method)

    async def input(self, key: str) -> ModelInput:
        """The images that a choice takes.

        Raises:
            CommandError: it explains nothing, or no images.
        """
        signatures = await self.client(key).signatures()
        return _input(signatures)

    async def _ask_state(self) -> Mapping[str, Any]:
        versions = await self.client("").status(timeout=_STATUS_SECONDS)
        available = [one.version for one in versions if one.available]
        states = sorted((one.version, one.state) for one in versions)
        return {"versions": available, "serves": " ".join(f"{version}:{state}" for version, state in states)}

    async def _ask_offer(self) -> Mapping[str, Any]:
        default = self._choices[""]
        state, first = await asyncio.gather(self.state(), self._metadata(default))
        found = [(_described(default, first), first)]
        for label in LABELS:
            if label != default.label:
                choice = Choice(f"label:{label}", label, None, label)
                # A server that does not have it says so by an error, of one kind or another.
                with suppress(CallError):
                    metadata = await self._metadata(choice)
                    found.append((_described(choice, metadata), metadata))
        for version in state["versions"]:
            if version not in (first.version, default.version):
                choice = Choice(f"version:{version}", f"version {version}", version, None)
                found.append((choice, await self._metadata(choice)))
        self._choices = {choice.key: choice for choice, _ in found}
        return {
            "model": self.client("").model,
            "serves": state["serves"],
            "choices": [
                {"key": choice.key, "text": choice.text, **_offered(metadata, self._names)}
                for choice, metadata in found
            ],
        }

    async def _metadata(self, choice: Choice) -> Metadata:
        """As the server tells it now."""
        client = self._client(choice)
        client._calls.forget()
        return await client._run(client._calls.metadata(UNSET))

    def _client(self, choice: Choice) -> AsyncSaliencyClient:
        if choice.key not in self._clients:
            self._clients[choice.key] = self._connect(choice.version, choice.label)
        return self._clients[choice.key]


class _Shared:
    """The result of a question that several ask at a time, and again soon."""

    def __init__(self, ask: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[Mapping[str, Any]] | None = None
        self._since = 0.0

    async def get(self) -> Mapping[str, Any]:
        """The answer, at most a second old."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._since > _FRESH_SECONDS):
            self._asking = asyncio.create_task(self._timed())
        # Whoever leaves does not take the answer from the others.
        return await asyncio.shield(self._asking)

    async def _timed(self) -> Mapping[str, Any]:
        try:
            return await self._ask()
        finally:
            self._since = time.monotonic()


def _described(choice: Choice, metadata: Metadata) -> Choice:
    named = re.sub(r" \(version \d+\)$", "", choice.text)
    text = named if named.startswith("version ") else f"{named} (version {metadata.version})"
    return Choice(choice.key, text, choice.version, choice.label)


def _input(signatures: Mapping[str, Signature]) -> ModelInput:
    explaining = [one for one in signatures.values() if one.method]
    if not explaining:
        raise CommandError(
            "the model offers no method of explanation", hint="export it with saliency-exporter"
        )
    return model_input(explaining[0], signatures)


def _offered(metadata: Metadata, names: tuple[str, ...] | None) -> dict[str, Any]:
    """What one version offers."""
    takes = _input(metadata.signatures)
    methods = [one for one in metadata.signatures.values() if one.method]
    usual = python_signature(AsyncSaliencyClient.explain).parameters["method"].default
    return {
        "version": metadata.version,
        "classes": number_of_classes(metadata.signatures),
        "takesPhotos": takes.dtype == "uint8",
        "size": [takes.height, takes.width],
        "usual": usual if usual in metadata.methods else metadata.methods[0],
        "methods": [
            {
                "name": one.method,
                "fields": forms.fields(one),
                "signed": one.signed_map is not None,
                "refines": takes_slices(one),
                "count": count_of(one),
            }
            for one in sorted(methods, key=lambda one: one.method or "")
        ],
        "named": names is not None or metadata.labels is not None or metadata.withheld_names is not None,
    }
