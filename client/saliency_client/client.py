"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any

import grpc

from saliency_client._base import BaseClient, given
from saliency_client._bulk import Batcher, BatchReader, Item, ItemResult, checked_bounds
from saliency_client._calls import UNSET, Calls, Conversation, FetchToken, Look, Send, Step, T, Timeout
from saliency_client._channel import listens
from saliency_client._explanation import Explanation
from saliency_client._requests import ArrayLike, Outputs, VersionStatus
from saliency_client._signatures import Signature
from saliency_client._tensors import Array
from saliency_client._threads import Cancellation, in_order


class SaliencyClient(BaseClient[grpc.Channel]):
    """Explanations and predictions of one model on one server, or on several that serve the same.

    Thread-safe; connects on the first call. Use it as a context manager, or `close()` it. It does not
    survive fork(): make it in the child process. The options are those of `BaseClient`.

    Example:
        >>> with SaliencyClient("localhost:8500", model="efficientnet-lite0") as client:
        ...     client.wait_ready(120)
        ...     explanation = client.explain(images)
        >>> explanation.saliency.shape
        (2, 224, 224)
    """

    def explain(
        self,
        images: ArrayLike,
        *,
        method: str = "gradients",
        class_index: ArrayLike | None = None,
        outputs: Outputs = None,
        timeout: Timeout = UNSET,
        **parameters: ArrayLike | None,
    ) -> Explanation:
        """Explain the class decisions about B images.

        Parameters are one value for all images, or one for each; None is the model's default. Which there
        are is the method's affair: `signatures()` shows them and their defaults, and so does the error for
        one that does not exist. The server checks their values.

        Args:
            images: [B, H, W, C], or [H, W, C] for one; H, W, C and dtype as the model has them: uint8 RGB
                0..255 where preprocessing is part of the model, else float32. Never cast or resized here.
            method: any that `methods()` lists.
            class_index: int, the class to explain; −1 is the class predicted for the image.
            outputs: names of the signature's outputs, or 'all'. All but the large ones, those with as many
                dimensions as the images, come in any case: a server prepares anew for each set of outputs
                that it has not seen.
            timeout: seconds for the whole call, retries included; None: no limit; unset: the client's.
            **parameters: the method's own, by name.

        Raises:
            InputError: images or a parameter do not fit the signature. UnknownMethod, UnknownParameter:
                there is no such method or parameter; the message lists those there are.
            CallError: the server, or the way to it, said no; its subclasses say how.
            AnswerError: the answer is not what the signature promises.

        Example:
            >>> explanation = client.explain(images, method="smooth", num_samples=20, class_index=[2, -1])
            >>> explanation.class_index, explanation.label
            (array([2, 1], dtype=int32), array(['class 2', 'class 1'], dtype=object))
            >>> client.explain(images, outputs="gradients").positive().shape
            (2, 224, 224)
        """
        conversation = self._calls.explain(
            images,
            method=method,
            parameters=given(class_index, parameters),
            outputs=outputs,
            timeout=timeout,
        )
        return _run(conversation, self._carry_out)

    def explain_until(
        self,
        images: ArrayLike,
        *,
        method: str,
        target_error: ArrayLike,
        class_index: ArrayLike | None = None,
        timeout: Timeout = UNSET,
        **parameters: ArrayLike | None,
    ) -> Generator[Explanation, None, None]:
        """Average over more and more samples, until the map's relative error is small enough.

        For methods that average over samples (those with `first_sample`). They are asked for in slices, of
        ten samples first; after each comes the mean over all so far. It ends when `relative_error` is at or
        below the target, or when the method's own bound, as `num_samples`, is used up: take the last
        explanation, and look at its `relative_error`. An image of a batch that is done is sent no more, and
        stays as it is.

        Sample i is the same in a slice and in one call, so the mean over n samples is that of
        `explain(…, num_samples=n)`, to float32 rounding. `explain(…, target_error=…)` takes one request: the
        server stops at the first multiple of ten samples where the target is reached, and slices at the first
        of their ends. The server's bound on a call holds for a slice, of 500 samples at most, and not for
        all together.

        Args:
            images: as for `explain`.
            method: any that averages over samples.
            target_error: the relative error to reach; one, or [B]; 0: the bound alone ends it.
            class_index: as for `explain`.
            timeout: as for `explain`, of each slice.
            **parameters: the method's own. `first_sample` is the number of the first of all samples.

        Yields:
            The method's own map, `saliency`, `variance`, `relative_error`, `samples_used`, and what is known
            of the class, of all B images.

        Raises:
            UnknownParameter: the method draws no samples, or its export is older than `first_sample`.
            InputError, CallError, AnswerError: as for `explain`. AnswerError also where another version
                answers than before.

        Example:
            >>> for explanation in client.explain_until(
            ...     images[0], method="smooth", target_error=0.3, num_samples=200
            ... ):
            ...     print(explanation.samples_used, explanation.relative_error.round(2))
            [10] [2.06]
            [20] [0.79]
            [40] [0.48]
            [80] [0.32]
            [100] [0.28]
        """
        asked = self._calls.slices(
            images,
            method=method,
            parameters=given(class_index, parameters),
            target_error=target_error,
            timeout=timeout,
        )
        slices = _run(asked, self._carry_out)
        while (asks := slices.ask()) is not None:
            some, of_each = asks
            answer = self._calls.explain(
                some, method=method, parameters=of_each, outputs="all", timeout=timeout
            )
            yield slices.merged(_run(answer, self._carry_out))

    def explain_many(
        self,
        images: Iterable[ArrayLike],
        *,
        batch_size: int = 8,
        max_in_flight: int = 4,
        method: str = "gradients",
        class_index: ArrayLike | Iterable[ArrayLike] | None = None,
        outputs: Outputs = None,
        timeout: Timeout = UNSET,
        **parameters: ArrayLike | Iterable[ArrayLike] | None,
    ) -> Generator[ItemResult, None, None]:
        """Explain any number of images, in their order, with several requests under way.

        Images are read as they are needed, in the caller's thread: at most 2 · max_in_flight batches are
        read and not yet returned. An image that fails gives an ItemResult with its error, and the rest go
        on: if the server refuses a batch, its halves are sent, until the image at fault is alone. If
        `images` itself raises, as map(load, paths) may, that is the item's error too; a generator that
        raised is over, and its error comes out after the results before it. While the server's queue is
        full, requests wait and are sent again for as long as the timeout allows. Closing the generator, or
        an exception in the loop over it, cancels what is under way before it returns.

        Args:
            images: an iterable of [H, W, C] arrays, such as an array [N, H, W, C], a generator, or a map.
            batch_size: images in a request, at most.
            max_in_flight: requests under way, at most.
            method: as for `explain`.
            class_index: one value for all, or an iterable of one for each image.
            outputs: as for `explain`.
            timeout: as for `explain`, of one request.
            **parameters: the method's own, by name; as `class_index`, one value or an iterable.

        Raises:
            OptionError: `batch_size` or `max_in_flight` is below 1.

        Example:
            >>> for result in client.explain_many(images, batch_size=1, class_index=[0, 99]):
            ...     print(result.index, result.error.message if result.error else result.explanation.label)
            0 ['class 0']
            1 class_index is 99; it must be in [0, 3], or -1 for the predicted class
        """
        checked_bounds(batch_size, max_in_flight)
        batcher = Batcher(batch_size, given(class_index, parameters))

        def explain(items: list[Item], cancellation: Cancellation) -> list[ItemResult]:
            conversation = self._calls.explain_items(items, method=method, outputs=outputs, timeout=timeout)
            return _run(conversation, lambda step: self._carry_out(step, cancellation))

        return in_order(BatchReader(iter(images), batcher), explain, max_in_flight)

    def predict(
        self,
        images: ArrayLike | Mapping[str, ArrayLike],
        *,
        signature: str | None = None,
        outputs: Outputs = None,
        timeout: Timeout = UNSET,
    ) -> dict[str, Array]:
        """The model's predictions, or the outputs of any signature.

        Args:
            images: as for `explain`; or a mapping of input name to array, for signatures with several inputs.
            signature: its name; by default `serving_default`, or `serving_images` where the model has it: a
                model that came with a `serving_default` of its own, which may take other input.
            outputs: names of its outputs; None or 'all': all.
            timeout: as for `explain`.

        Returns:
            Arrays by output name: `logits` and `probabilities` [B, classes] float32 for a model that was
            exported with both. Strings are bytes.

        Raises:
            InputError, CallError, AnswerError: as for `explain`.

        Example:
            >>> client.predict(images)["probabilities"].argmax(axis=1)
            array([0, 1])
        """
        conversation = self._calls.predict(images, signature=signature, outputs=outputs, timeout=timeout)
        return _run(conversation, self._carry_out)

    def signatures(self, *, timeout: Timeout = UNSET) -> Mapping[str, Signature]:
        """What the served version offers, by signature name: inputs, outputs, shapes, dtypes, defaults.

        The server is asked once for each version: again when another version answers a call, when `status`
        sees a newer one, and by `wait_ready`. So it is with `methods` and `labels`. A server that returns no
        defaults is asked for the model's own table of them, by one call more.

        Example:
            >>> smooth = client.signatures()["explain_smooth"]
            >>> str(smooth.inputs["images"]), int(smooth.defaults["num_samples"])
            ('uint8[?,224,224,3]', 50)
        """
        return _run(self._calls.metadata(timeout), self._carry_out).signatures

    def methods(self, *, timeout: Timeout = UNSET) -> tuple[str, ...]:
        """The explanation methods on offer, sorted.

        Example:
            >>> client.methods()
            ('gradients', 'smooth')
        """
        return _run(self._calls.metadata(timeout), self._carry_out).methods

    def labels(self, *, timeout: Timeout = UNSET) -> tuple[str, ...] | None:
        """The names of all classes, in class order; None where the model was exported without.

        They come with the metadata. A server that returns no defaults is asked by a call for them, or by as
        many as its batching needs.

        Example:
            >>> client.labels()
            ('class 0', 'class 1', 'class 2', 'class 3')
            >>> client.explain(images[0], class_index=client.labels().index("class 3")).label
            array(['class 3'], dtype=object)
        """
        return _run(self._calls.labels(timeout), self._carry_out)

    def status(self, *, timeout: Timeout = UNSET) -> tuple[VersionStatus, ...]:
        """The state of the model's versions on the server, newest first.

        Example:
            >>> client.status()
            (VersionStatus(version=1, state='AVAILABLE', error_code=0, error_message=''),)
        """
        return _run(self._calls.status(timeout), self._carry_out)

    def wait_ready(self, timeout: float | None = 60.0) -> None:
        """Wait until the server is up and the model answers requests.

        Args:
            timeout: seconds; None: no limit.

        Raises:
            NotReady: not in time; `details` says what it met last.
            ModelFailed: the server gave up loading every version.

        Example:
            >>> client.wait_ready(120)
        """
        _run(self._calls.wait_ready(timeout), self._carry_out)

    def close(self) -> None:
        """Close the connections; calls under way end with Cancelled, later ones raise ClientClosed.

        Example:
            >>> client.close()
            >>> client.explain(images)
            Traceback (most recent call last):
            saliency_client._errors.ClientClosed: this client is closed
        """
        self._calls.forget()
        for _, channel in self._channels.close():
            channel.close()

    def __enter__(self) -> SaliencyClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _converse(self, conversation: Callable[[Calls], Conversation[T]]) -> T:
        """Carry out a conversation of another module with this client's calls."""
        return _run(conversation(self._calls), self._carry_out)

    def _open_channel(self, target: str) -> grpc.Channel:
        if self._injected is not None:
            channel = self._injected
        else:
            arguments, compression = self._options.arguments(target), self._options.grpc_compression()
            if self._options.tls is None:
                channel = grpc.insecure_channel(target, arguments, compression)
            else:
                channel = grpc.secure_channel(target, self._options.tls.credentials(), arguments, compression)
        return grpc.intercept_channel(channel, *self._interceptors) if self._interceptors else channel

    def _carry_out(self, step: Step, cancellation: Cancellation | None = None) -> Any:
        if isinstance(step, Send):
            send = self._channels.method(step.target, step.path)
            try:
                with self._channels.calling(step.target):
                    if cancellation is None:
                        return send(step.payload, timeout=step.timeout, metadata=step.metadata)
                    call = send.future(step.payload, timeout=step.timeout, metadata=step.metadata)
                    return cancellation.result(call)
            except ValueError:  # gRPC's word for a channel that another thread has just closed
                self._channels.check_open()
                raise
        if isinstance(step, FetchToken):
            return step.provider()
        if isinstance(step, Look):
            return listens(step.port)
        if cancellation is not None:
            return cancellation.wait(step.seconds)
        time.sleep(step.seconds)
        return None


def _run(conversation: Conversation[T], carry_out: Any) -> T:
    """Carry out a conversation's steps until it returns."""
    try:
        step = next(conversation)
        while True:
            try:
                result = carry_out(step)
            except Exception as error:
                step = conversation.throw(error)
            else:
                step = conversation.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
