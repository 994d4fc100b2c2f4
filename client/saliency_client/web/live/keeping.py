"""Things in memory for a while, bounded by number, bytes and age, by names that nobody can guess."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

KeptT = TypeVar("KeptT")


@dataclass
class _Entry(Generic[KeptT]):
    value: KeptT
    size: int
    used: float


class Kept(Generic[KeptT]):
    """Things by name; those that nobody asked for the longest go first.

    Args:
        most: how many.
        most_bytes: how large together; one that is larger is kept alone.
        seconds: how long after it was last asked for.
        clock: gives seconds.
    """

    def __init__(
        self, *, most: int, most_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._most_bytes, self._seconds, self._clock = most, most_bytes, seconds, clock
        self._entries: OrderedDict[str, _Entry[KeptT]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes of all together."""
        return self._bytes

    def put(self, value: KeptT, size: int) -> str:
        """Keep something of so many bytes; gives its name, of 128 random bits."""
        name = secrets.token_urlsafe(16)
        self._entries[name] = _Entry(value, size, self._clock())
        self._bytes += size
        self.forget_old()
        while len(self._entries) > 1 and (len(self._entries) > self._most or self._bytes > self._most_bytes):
            self.drop(next(iter(self._entries)))
        return name

    def get(self, name: str) -> KeptT | None:
        """What was kept under a name; None if there is nothing, or not any more."""
        self.forget_old()
        entry = self._entries.get(name)
        if entry is None:
            return None
        entry.used = self._clock()
        self._entries.move_to_end(name)
        return entry.value

    def drop(self, name: str) -> None:
        """Forget one, if it is there."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._bytes -= entry.size

    def forget_old(self) -> None:
        """Forget what nobody asked for in time."""
        oldest = self._clock() - self._seconds
        while self._entries and next(iter(self._entries.values())).used < oldest:
            self.drop(next(iter(self._entries)))
