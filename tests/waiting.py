"""Waiting for what another thread or process does: by a condition and an end, never for a time alone."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 60.0
"""Far beyond what anything takes on a busy machine, and within a test's own limit."""


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Return when a condition holds; an AssertionError where it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(0.005)
