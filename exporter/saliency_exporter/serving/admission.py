"""How many requests run and how many may wait; the next one is refused at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from saliency_exporter.servable import ServableError


class Admission:
    """At most `running` requests run side by side and at most `waiting` wait for a place, in order.

    A bound on the requests that are inside the server bounds its memory, and an overloaded server that says
    so at once lets a client go to another replica while its deadline still allows it.
    """

    def __init__(self, running: int, waiting: int) -> None:
        if running < 1 or waiting < 0:
            raise ValueError(f"needs running >= 1 and waiting >= 0, got {running} and {waiting}")
        self.capacity = running + waiting
        self._lock = threading.Lock()
        self._inside = 0
        self._running = threading.BoundedSemaphore(running)

    @property
    def idle(self) -> bool:
        """Whether no request is inside."""
        with self._lock:
            return self._inside == 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Waits for its turn and holds it.

        Raises:
            ServableError: UNAVAILABLE, at once, when every waiting place is taken.
        """
        with self._lock:
            if self._inside >= self.capacity:
                raise ServableError(
                    tf.errors.UNAVAILABLE,
                    f"The server is full: {self.capacity} requests running or waiting",
                )
            self._inside += 1
        try:
            with self._running:
                yield
        finally:
            with self._lock:
                self._inside -= 1
