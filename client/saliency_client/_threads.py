"""Threads that `SaliencyClient.explain_many` runs its requests on, and a wait for what they do."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import grpc

from saliency_client._bulk import BatchReader, Item, ItemResult

T = TypeVar("T")

_LOOK_SECONDS = 0.2
"""How long one wait lasts at most; gRPC's own calls look as often."""


class Stopped(BaseException):
    """Ends a conversation whose result nobody wants any more."""


class Cancellation:
    """Ends every call and wait of one `explain_many` at once."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._calls: set[Any] = set()
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """End what is under way, and what follows."""
        self._stop.set()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def result(self, call: Any) -> Any:
        """The result of a gRPC future, once it is there.

        Raises:
            Stopped: cancelled before that.
        """
        with self._lock:
            self._calls.add(call)
        try:
            if self._stop.is_set():
                call.cancel()
            return call.result()
        except grpc.FutureCancelledError:
            raise Stopped from None
        finally:
            with self._lock:
                self._calls.discard(call)

    def wait(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            Stopped: cancelled before that.
        """
        if self._stop.wait(seconds):
            raise Stopped


class Workers(Generic[T]):
    """At most `count` threads, started as work comes; daemons, so that none abandoned holds up exit."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[threading.Thread] = []
        self._work: SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = SimpleQueue()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have work done by the next free thread."""
        if len(self._threads) < self._count:
            name = f"explain_many-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._serve, name=name, daemon=True))
            self._threads[-1].start()
        future: Future[T] = Future()
        self._work.put((future, work))
        return future

    def stop(self) -> None:
        """Wait for the threads to end; work that has not begun is dropped."""
        while not self._work.empty():
            self._work.get()
        for _ in self._threads:
            self._work.put(None)
        while self._threads:
            self._threads.pop().join()

    def _serve(self) -> None:
        while (task := self._work.get()) is not None:
            future, work = task
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)


def finished(future: Future[T]) -> Future[T]:
    """The same future, once it is done.

    It is waited for in turns: a signal that comes between Python's last look for signals and a wait without
    an end would be seen after that wait alone.
    """
    while not future.done():
        wait([future], _LOOK_SECONDS)
    return future


def in_order(
    source: BatchReader, explain: Callable[[list[Item], Cancellation], list[ItemResult]], max_in_flight: int
) -> Generator[ItemResult, None, None]:
    """Results in the order of the images; as many batches are read ahead as are under way."""
    cancellation = Cancellation()
    workers: Workers[list[ItemResult]] = Workers(max_in_flight)
    window: deque[Future[list[ItemResult]]] = deque()

    def end() -> None:
        cancellation.cancel()
        workers.stop()

    def start(batch: list[Item]) -> None:
        window.append(workers.submit(lambda: explain(batch, cancellation)))

    # Results left lying are closed when the interpreter is past running threads: end them before that.
    atexit.register(end)
    try:
        while True:
            while not source.ended and len(window) < 2 * max_in_flight and not (window and window[0].done()):
                batch = source.next_batch()
                if batch is not None:
                    start(batch)
            if not window:
                break
            yield from finished(window.popleft()).result()
        if source.failure is not None:
            raise source.failure
    finally:
        atexit.unregister(end)
        end()
