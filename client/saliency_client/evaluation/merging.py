"""Images from many threads go to a server in full batches, with a bound on the requests under way."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

Ask = Callable[[Any, Sequence[Any]], Sequence[Any]]
"""A kind of request and its items, to an answer, or an error, for each."""


@dataclass(frozen=True)
class Load:
    """What has been sent.

    Attributes:
        requests: how many.
        items: how many went in them, by kind.
        seconds: since the first request.
        busy_seconds: of these, those in which a request was under way: while a server had something to do.
    """

    requests: int
    items: Mapping[Hashable, int]
    seconds: float
    busy_seconds: float


@dataclass
class Merger:
    """Takes items from any thread and asks about those of one kind together.

    A request is full, unless nothing else is under way and the server would wait. So a part of a batch, which
    a compiled model pads to a full one, is computed at the end of the work alone.

    Args:
        ask: about the items of one request; called in threads of this object.
        batch_size: items in a request, at most.
        concurrency: requests under way, at most.
    """

    ask: Ask
    batch_size: int
    concurrency: int
    _waiting: dict[Hashable, deque[tuple[Any, Future[Any]]]] = field(
        default_factory=lambda: defaultdict(deque), init=False
    )
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _running: int = field(default=0, init=False)
    _requests: int = field(default=0, init=False)
    _items: Counter[Hashable] = field(default_factory=Counter, init=False)
    _begun: float | None = field(default=None, init=False)
    _busy: float = field(default=0.0, init=False)
    _since: float = field(default=0.0, init=False)
    _closed: bool = field(default=False, init=False)

    def __enter__(self) -> Merger:
        for _ in range(self.concurrency):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads; what is waiting is not asked any more."""
        with self._changed:
            self._closed = True
            for items in self._waiting.values():
                for _, future in items:
                    future.cancel()
            self._changed.notify_all()

    def submit(self, kind: Hashable, items: Sequence[Any]) -> list[Future[Any]]:
        """Ask about items; each future gives an answer, or raises its error."""
        futures: list[Future[Any]] = [Future() for _ in items]
        with self._changed:
            if self._closed:
                raise RuntimeError("the merger is closed")
            self._waiting[kind].extend(zip(items, futures, strict=True))
            self._changed.notify_all()
        return futures

    def load(self) -> Load:
        """What has been sent up to now."""
        with self._changed:
            now = time.perf_counter()
            busy = self._busy + (now - self._since if self._running else 0.0)
            return Load(
                self._requests, dict(self._items), now - self._begun if self._begun is not None else 0.0, busy
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                while (kind := self._next()) is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                items = self._waiting[kind]
                batch = [items.popleft() for _ in range(min(self.batch_size, len(items)))]
                self._items[kind] += len(batch)
                self._start()
            try:
                answers = self.ask(kind, [item for item, _ in batch])
            except BaseException as error:
                answers = [error] * len(batch)
            with self._changed:
                self._end()
            for (_, future), answer in zip(batch, answers, strict=True):
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _next(self) -> Hashable | None:
        """The kind with most items: of a full request, or of any where nothing is under way."""
        kind = max(self._waiting, key=lambda one: len(self._waiting[one]), default=None)
        if kind is None or not self._waiting[kind]:
            return None
        return kind if len(self._waiting[kind]) >= self.batch_size or not self._running else None

    def _start(self) -> None:
        now = time.perf_counter()
        self._begun = now if self._begun is None else self._begun
        if not self._running:
            self._since = now
        self._running += 1
        self._requests += 1

    def _end(self) -> None:
        self._running -= 1
        if not self._running:
            self._busy += time.perf_counter() - self._since
        self._changed.notify_all()
