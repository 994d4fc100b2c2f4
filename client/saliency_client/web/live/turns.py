"""How many requests of the page run at a time, and how many wait; the next is told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Busy(Exception):
    """As many requests wait as may.

    Attributes:
        hint: the next step.
        seconds: when to come back.
    """

    seconds = 2

    def __init__(self, running: int, waiting: int) -> None:
        super().__init__(f"the page is busy: {running} requests run, and {waiting} wait")
        self.hint = (
            "ask again in a few seconds; --concurrency and --waiting of `saliency-client page` allow more"
        )


class Turns:
    """A bounded queue in one event loop.

    Args:
        running: so many run at a time.
        waiting: so many more are let in, and wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._running, self._waiting = running, waiting
        self._places = asyncio.Semaphore(running)
        self._inside = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Be let in, to take one turn or several.

        Raises:
            Busy: there is no room.
        """
        if self._inside >= self._running + self._waiting:
            raise Busy(self._running, self._waiting)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place and hold it: one call, so that a map of many samples does not stop the others."""
        async with self._places:
            yield
