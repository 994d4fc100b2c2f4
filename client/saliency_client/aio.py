"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from inspect import isawaitable
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from saliency_client._base import BaseClient, given
from saliency_client._bulk import Batcher, BatchReader, Item, ItemResult, checked_bounds
from saliency_client._calls import UNSET, Calls, Conversation, FetchToken, Look, Send, Step, T, Timeout
from saliency_client._channel import listens
from saliency_client._explanation import Explanation
from saliency_client._requests import ArrayLike, Outputs, VersionStatus
from saliency_client._signatures import Signature
from saliency_client._tensors import Array


class AsyncSaliencyClient(BaseClient[grpc.aio.Channel]):
    """`SaliencyClient` for asyncio: the same options and the same calls, to be awaited.

    It may be used in several event loops, also at once in several threads, as asynchronous views of Flask and
    Django do: it connects in each, and closes these connections before the loop ends. `token` may also be a
    coroutine function; `interceptors` are those of grpc.aio, and `channel` a grpc.aio.Channel, which works in
    the loop that it was made in.

    Example:
        >>> async def labels():
        ...     async with AsyncSaliencyClient("localhost:8500", model="efficientnet-lite0") as client:
        ...         explanation = await client.explain(images)
        ...         return list(explanation.label)
        >>> asyncio.run(labels())
        ['class 0', 'class 1']
    """

    _intercepts_injected_channel = False

    async def explain(
        self,
        images: ArrayLike,
        *,
        method: str = "gradients",
        class_index: ArrayLike | None = None,
        outputs: Outputs = None,
        timeout: Timeout = UNSET,
        **parameters: ArrayLike | None,
    ) -> Explanation:
        """As `SaliencyClient.explain`."""
        conversation = self._calls.explain(
            images,
            method=method,
            parameters=given(class_index, parameters),
            outputs=outputs,
            timeout=timeout,
        )
        return await self._run(conversation)

    async def explain_until(
        self,
        images: ArrayLike,
        *,
        method: str,
        target_error: ArrayLike,
        class_index: ArrayLike | None = None,
        timeout: Timeout = UNSET,
        **parameters: ArrayLike | None,
    ) -> AsyncGenerator[Explanation, None]:
        """As `SaliencyClient.explain_until`, for `async for`."""
        asked = self._calls.slices(
            images,
            method=method,
            parameters=given(class_index, parameters),
            target_error=target_error,
            timeout=timeout,
        )
        slices = await self._run(asked)
        while (asks := slices.ask()) is not None:
            some, of_each = asks
            answer = self._calls.explain(
                some, method=method, parameters=of_each, outputs="all", timeout=timeout
            )
            yield slices.merged(await self._run(answer))

    def explain_many(
        self,
        images: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        batch_size: int = 8,
        max_in_flight: int = 4,
        method: str = "gradients",
        class_index: ArrayLike | Iterable[ArrayLike] | None = None,
        outputs: Outputs = None,
        timeout: Timeout = UNSET,
        **parameters: ArrayLike | Iterable[ArrayLike] | None,
    ) -> AsyncGenerator[ItemResult, None]:
        """As `SaliencyClient.explain_many`, of a plain or an asynchronous iterable, for `async for`.

        A plain iterable is read on the event loop: give an asynchronous one where reading takes long. After
        leaving the loop early, `await results.aclose()` ends what is under way at once.

        Example:
            >>> async def labels():
            ...     async with AsyncSaliencyClient("localhost:8500", model="efficientnet-lite0") as client:
            ...         return [result.unwrap().label[0] async for result in client.explain_many(images)]
            >>> asyncio.run(labels())
            ['class 0', 'class 1']
        """
        checked_bounds(batch_size, max_in_flight)
        batcher = Batcher(batch_size, given(class_index, parameters))

        iterator = aiter(images) if isinstance(images, AsyncIterable) else iter(images)

        async def explain(items: list[Item]) -> list[ItemResult]:
            return await self._run(
                self._calls.explain_items(items, method=method, outputs=outputs, timeout=timeout)
            )

        return _in_order(BatchReader(iterator, batcher), explain, max_in_flight)

    async def predict(
        self,
        images: ArrayLike | Mapping[str, ArrayLike],
        *,
        signature: str | None = None,
        outputs: Outputs = None,
        timeout: Timeout = UNSET,
    ) -> dict[str, Array]:
        """As `SaliencyClient.predict`."""
        return await self._run(
            self._calls.predict(images, signature=signature, outputs=outputs, timeout=timeout)
        )

    async def signatures(self, *, timeout: Timeout = UNSET) -> Mapping[str, Signature]:
        """As `SaliencyClient.signatures`."""
        return (await self._run(self._calls.metadata(timeout))).signatures

    async def methods(self, *, timeout: Timeout = UNSET) -> tuple[str, ...]:
        """As `SaliencyClient.methods`."""
        return (await self._run(self._calls.metadata(timeout))).methods

    async def labels(self, *, timeout: Timeout = UNSET) -> tuple[str, ...] | None:
        """As `SaliencyClient.labels`."""
        return await self._run(self._calls.labels(timeout))

    async def status(self, *, timeout: Timeout = UNSET) -> tuple[VersionStatus, ...]:
        """As `SaliencyClient.status`."""
        return await self._run(self._calls.status(timeout))

    async def wait_ready(self, timeout: float | None = 60.0) -> None:
        """As `SaliencyClient.wait_ready`."""
        await self._run(self._calls.wait_ready(timeout))

    async def close(self) -> None:
        """As `SaliencyClient.close`."""
        self._calls.forget()
        here = asyncio.get_running_loop()
        for loop, channel in self._channels.close():
            if loop is here:
                await channel.close(None)
            elif loop is not None and loop.is_running():
                _close_in(loop, channel)

    async def __aenter__(self) -> AsyncSaliencyClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _converse(self, conversation: Callable[[Calls], Conversation[T]]) -> T:
        """Carry out a conversation of another module with this client's calls."""
        return await self._run(conversation(self._calls))

    def _open_channel(self, target: str) -> grpc.aio.Channel:
        if self._injected is not None:
            return self._injected
        arguments, compression = self._options.arguments(target), self._options.grpc_compression()
        if self._options.tls is None:
            return grpc.aio.insecure_channel(target, arguments, compression, interceptors=self._interceptors)
        credentials = self._options.tls.credentials()
        # By keyword, as OpenTelemetry's instrumentation expects them.
        return grpc.aio.secure_channel(
            target, credentials, arguments, compression, interceptors=self._interceptors
        )

    async def _run(self, conversation: Conversation[T]) -> T:
        """Carry out a conversation's steps until it returns."""
        try:
            step = next(conversation)
            while True:
                try:
                    result = await self._carry_out(step)
                except Exception as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Send):
            loop = asyncio.get_running_loop()
            send = self._channels.method(step.target, step.path, loop)
            try:
                with self._channels.calling(step.target, loop):
                    return await send(step.payload, timeout=step.timeout, metadata=step.metadata)
            except grpc.aio.UsageError:  # gRPC's word for a channel that another task has just closed
                self._channels.check_open()
                raise
            except asyncio.CancelledError:
                if self._channels.closed and not _current_task_is_cancelled():
                    nothing = grpc.aio.Metadata()
                    raise grpc.aio.AioRpcError(
                        grpc.StatusCode.CANCELLED, nothing, nothing, "the client was closed", None
                    ) from None
                raise
        if isinstance(step, FetchToken):
            token = step.provider()
            return await token if isawaitable(token) else token
        if isinstance(step, Look):
            return await asyncio.to_thread(listens, step.port)
        return await asyncio.sleep(step.seconds)


def _close_in(loop: asyncio.AbstractEventLoop, channel: grpc.aio.Channel) -> None:
    """Close a channel in the event loop of another thread, which may end meanwhile."""
    closing = channel.close(None)
    try:
        asyncio.run_coroutine_threadsafe(closing, loop)
    except RuntimeError:
        closing.close()


def _current_task_is_cancelled() -> bool:
    """Whether a CancelledError is the task's own; taken to be before Python 3.11, where nothing tells."""
    cancelling: Callable[[], int] = getattr(asyncio.current_task(), "cancelling", lambda: 1)
    return cancelling() > 0


async def _in_order(
    source: BatchReader, explain: Callable[[list[Item]], Awaitable[list[ItemResult]]], max_in_flight: int
) -> AsyncGenerator[ItemResult, None]:
    """Results in the order of the images; as many batches are read ahead as are under way."""
    room = asyncio.Semaphore(max_in_flight)
    window: deque[asyncio.Task[list[ItemResult]]] = deque()
    reading: asyncio.Task[list[Item] | None] | None = None

    async def explain_in_turn(batch: list[Item]) -> list[ItemResult]:
        async with room:
            return await explain(batch)

    try:
        while True:
            if reading is None and not source.ended and len(window) < 2 * max_in_flight:
                reading = asyncio.create_task(source.next_batch_async())
            next_up: list[asyncio.Task[Any] | None] = [reading, window[0] if window else None]
            if tasks := [task for task in next_up if task is not None]:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            else:
                break
            if reading is not None and reading.done():
                batch, reading = reading.result(), None
                if batch is not None:
                    window.append(asyncio.create_task(explain_in_turn(batch)))
            if window and window[0].done():
                for result in window.popleft().result():
                    yield result
        if source.failure is not None:
            raise source.failure
    finally:
        left = [task for task in (reading, *window) if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
