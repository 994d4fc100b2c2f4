"""A bound on the pixels that all threads of a process hold decoded at one time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_PIXELS = 2 * 89_478_485
"""As many as the largest single picture may have by default."""


class PixelRoom:
    """Lets pictures be decoded while they have room together; the next waits for its turn.

    A picture that is larger than the whole room is decoded alone.
    """

    def __init__(self, bound: int = MOST_PIXELS) -> None:
        self.bound = bound
        self._clear()
        os.register_at_fork(after_in_child=self._clear)

    def _clear(self) -> None:
        # Whoever waits holds the turn, so that many small pictures do not pass a large one for ever.
        self._turn = threading.Lock()
        self._left = threading.Condition()
        self._used = 0
        self._here = threading.local()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait for room, and hold it in the block, or longer: see `kept`."""
        kept: list[int] | None = getattr(self._here, "kept", None)
        # Two threads that each hold some and wait for the other's would wait for ever.
        if kept:
            with self._left:
                self._used += pixels
        else:
            self._enter(pixels)
        if kept is not None:
            kept.append(pixels)
            yield
            return
        try:
            yield
        finally:
            self._leave(pixels)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What this thread decodes in the block counts until the block ends: the pictures are in use."""
        self._here.kept = []
        try:
            yield
        finally:
            pixels, self._here.kept = sum(self._here.kept), None
            self._leave(pixels)

    def _enter(self, pixels: int) -> None:
        with self._turn, self._left:
            self._left.wait_for(lambda: not self._used or self._used + pixels <= self.bound)
            self._used += pixels

    def _leave(self, pixels: int) -> None:
        with self._left:
            self._used -= pixels
            self._left.notify_all()


ROOM = PixelRoom()
