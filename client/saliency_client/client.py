"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import grpc

from saliency_client._base import BaseClient
from saliency_client._calls import UNSET, Conversation, FetchToken, Send, Step, T, Timeout
from saliency_client._explanation import Explanation
from saliency_client._requests import ArrayLike, Outputs, VersionStatus
from saliency_client._signatures import DEFAULT_SIGNATURE, Signature
from saliency_client._tensors import Array


class SaliencyClient(BaseClient[grpc.Channel]):
    """Explanations and predictions of one model on one server, or on several that serve the same.

    Thread-safe; connects on the first call. Use it as a context manager, or `close()` it. The options are
    those of `BaseClient`. It does not survive fork(): make it in the child process.
    """

    def explain(
        self,
        images: ArrayLike,
        *,
        method: str = "gradients",
        class_index: ArrayLike | None = None,
        num_samples: ArrayLike | None = None,
        noise_level: ArrayLike | None = None,
        seed: ArrayLike | None = None,
        parameters: Mapping[str, ArrayLike] | None = None,
        outputs: Outputs = None,
        timeout: Timeout = UNSET,
    ) -> Explanation:
        """Explain the class decisions about B images."""
        return self._run(
            self._calls.explain(
                images,
                method=method,
                parameters={
                    "class_index": class_index,
                    "num_samples": num_samples,
                    "noise_level": noise_level,
                    "seed": seed,
                    **(parameters or {}),
                },
                outputs=outputs,
                timeout=timeout,
            )
        )

    def predict(
        self,
        images: ArrayLike | Mapping[str, ArrayLike],
        *,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Outputs = None,
        timeout: Timeout = UNSET,
    ) -> dict[str, Array]:
        """The model's own predictions."""
        return self._run(self._calls.predict(images, signature=signature, outputs=outputs, timeout=timeout))

    def signatures(self, *, timeout: Timeout = UNSET) -> Mapping[str, Signature]:
        """What the served version offers, by signature name."""
        return self._run(self._calls.metadata(timeout)).signatures

    def methods(self, *, timeout: Timeout = UNSET) -> tuple[str, ...]:
        """The explanation methods on offer, sorted, such as ('gradients', 'guided', 'smooth')."""
        return self._run(self._calls.metadata(timeout)).methods

    def status(self, *, timeout: Timeout = UNSET) -> tuple[VersionStatus, ...]:
        """The state of the model's versions on the server, newest first."""
        return self._run(self._calls.status(timeout))

    def wait_ready(self, timeout: float | None = 60.0) -> None:
        """Wait until the model answers requests."""
        self._run(self._calls.wait_ready(timeout))

    def close(self) -> None:
        """Close the connections; calls under way end with Cancelled, later ones raise ClientClosed."""
        for channel in self._channels.close():
            channel.close()

    def __enter__(self) -> SaliencyClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_channel(self, target: str) -> grpc.Channel:
        if self._injected is not None:
            channel = self._injected
        elif self._options.tls is None:
            channel = grpc.insecure_channel(
                target, self._options.arguments(), self._options.grpc_compression()
            )
        else:
            channel = grpc.secure_channel(
                target,
                self._options.tls.credentials(),
                self._options.arguments(),
                self._options.grpc_compression(),
            )
        return grpc.intercept_channel(channel, *self._interceptors) if self._interceptors else channel

    def _run(self, conversation: Conversation[T]) -> T:
        """Carry out a conversation's steps."""
        try:
            step = next(conversation)
            while True:
                try:
                    result = self._carry_out(step)
                except Exception as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Send):
            send = self._channels.method(step.target, step.path)
            return send(step.payload, timeout=step.timeout, metadata=step.metadata)
        if isinstance(step, FetchToken):
            return step.provider()
        time.sleep(step.seconds)
        return None
