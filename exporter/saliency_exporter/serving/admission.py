"""How many requests run and how many may wait, shared out among the clients; the next is refused at once."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from saliency_exporter.runtime.servable import ServableError

# A part of all places that one client alone never gets: an eighth.
_RESERVED = 8


class _Turn:
    """A request that waits; the event is set when it may run."""

    def __init__(self, large: bool) -> None:
        self.large = large
        self.come = threading.Event()


class Admission:
    """At most `running` requests run side by side and at most `waiting` wait for a place.

    A bound on the requests that are inside the server bounds its memory, and an overloaded server that says
    so at once lets a client go to another replica while its deadline still allows it.

    Nobody starves: clients take turns, so that a client with one request waits for one request of each other
    client and not for all of a bulk client's; one client gets at most seven eighths of all places; and large
    requests leave one running place to the others, where there are two or more.
    """

    def __init__(self, running: int, waiting: int) -> None:
        if running < 1 or waiting < 0:
            raise ValueError(f"needs running >= 1 and waiting >= 0, got {running} and {waiting}")
        self.capacity = running + waiting
        self._most = self.capacity - self.capacity // _RESERVED
        self._lock = threading.Lock()
        self._inside = 0
        self._held: Counter[str] = Counter()
        self._free = running
        self._free_for_large = max(1, running - 1)
        # Clients in the order of their turns, each with its requests in their order.
        self._waiting: OrderedDict[str, deque[_Turn]] = OrderedDict()

    @property
    def idle(self) -> bool:
        """Whether no request is inside."""
        with self._lock:
            return self._inside == 0

    @contextmanager
    def place(self, client: str = "", *, large: bool = False) -> Iterator[None]:
        """Waits for its turn and holds it.

        Args:
            client: who asks; those of one name share one turn.
            large: leave one running place to requests that are not.

        Raises:
            ServableError: UNAVAILABLE, at once, when every waiting place is taken, or all that one client
                gets.
        """
        turn = _Turn(large)
        with self._lock:
            if self._inside >= self.capacity:
                raise _full(f"{self.capacity} requests running or waiting")
            if self._held[client] >= self._most:
                raise _full(f"{self._most} requests of this client running or waiting")
            self._inside += 1
            self._held[client] += 1
            self._waiting.setdefault(client, deque()).append(turn)
            self._give_turns()
        turn.come.wait()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                self._held[client] -= 1
                if not self._held[client]:
                    del self._held[client]
                self._free += 1
                self._free_for_large += large
                self._give_turns()

    def _give_turns(self) -> None:
        """Lets run what may; called with the lock held."""
        while self._free and (client := self._next_client()) is not None:
            turns = self._waiting.pop(client)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # at the end of the line
            self._free -= 1
            self._free_for_large -= turn.large
            turn.come.set()

    def _next_client(self) -> str | None:
        return next(
            (client for client, turns in self._waiting.items() if self._free_for_large or not turns[0].large),
            None,
        )


def _full(detail: str) -> ServableError:
    return ServableError(tf.errors.UNAVAILABLE, f"The server is full: {detail}")
