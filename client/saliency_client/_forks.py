"""fork() and gRPC: which child processes may connect, and how the others are told.

gRPC does not work in a child whose parent had connected, and may hang there, unless its fork support is on.
Even then no thread may be in a call when the process forks: in the child gRPC waits, inside fork() itself,
for locks of threads that are not there (grpc/_cython/_cygrpc/fork_posix.pyx.pxi of grpc/grpc's Python,
and Channel._postfork_child of grpc/_channel.py). While a channel
of asyncio is open, a thread waits inside gRPC's core, which then skips its own preparations ("skipping fork()
handlers", fork_posix.cc): calls in the child hang, and threads that the core starts there may crash it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from saliency_client._errors import ClientClosed


class _Process:
    """What is known of this process, and of the one that it was forked from."""

    def __init__(self) -> None:
        self.connected_in: int | None = None
        """The process in which a client first connected."""
        self.forked_while: str | None = None
        """What made this process, a child, unfit for gRPC: what was under way in its parent at the fork."""
        self.gate = threading.RLock()
        """Held while the process forks, so that no call begins then."""
        self.calls: Counter[Any] = Counter()
        """How many calls are under way on each channel."""
        self.apart: set[Any] = set()
        """Channels that gRPC must not touch in a child, where it would wait for the calls on them."""
        self.asynchronous: weakref.WeakSet[Any] = weakref.WeakSet()
        """Channels of asyncio that were opened here."""


_process = _Process()


def note_asynchronous(channel: Any) -> None:
    """Note that a channel of asyncio is open from now on."""
    _process.asynchronous.add(channel)


def note_connection() -> None:
    """Note that a client connects in this process.

    Raises:
        ClientClosed: a process that this one was forked from had connected, and gRPC cannot be used here.
    """
    check_fork(_process.connected_in)
    _process.connected_in = os.getpid()


def check_fork(connected_in: int | None) -> None:
    """Raise ClientClosed if gRPC cannot be used here: it connected in another process, before fork()."""
    if connected_in in (None, os.getpid()):
        return
    if not _is_supported():
        raise ClientClosed(
            "a client connected before fork(), and gRPC may hang in the child process",
            hint="connect in the child only, start processes with 'spawn' or 'forkserver', or set "
            "GRPC_ENABLE_FORK_SUPPORT=1 in the environment before Python starts",
        )
    if _process.forked_while is not None:
        raise ClientClosed(
            f"the process was forked while {_process.forked_while}, and gRPC may hang in the child process",
            hint="fork when no call is under way and asyncio clients are closed, connect in the child only, "
            "or start processes with 'spawn' or 'forkserver'",
        )


@contextmanager
def calling(channel: Any) -> Iterator[None]:
    """Around a call on a channel: a child that is forked meanwhile is told."""
    if not _is_supported():
        yield
        return
    with _process.gate:
        calls = _process.calls
        calls[channel] += 1
    try:
        yield
    finally:
        with _process.gate:
            calls[channel] -= 1
            if not calls[channel]:
                del calls[channel]


def _is_supported() -> bool:
    """Whether gRPC's fork support is on; it looks at the environment once, when it is imported."""
    return bool(cygrpc.is_fork_support_enabled())


def _before() -> None:
    if not _is_supported():
        return
    _process.gate.acquire()
    _process.apart = {_own(channel) for channel in _process.calls} & _channels_to_fork()
    _channels_to_fork().difference_update(_process.apart)


def _after_in_parent() -> None:
    if not _is_supported():
        return
    _channels_to_fork().update(_process.apart)
    _process.apart = set()
    _process.gate.release()


def _after_in_child() -> None:
    if not _is_supported():
        return
    # The channels in `apart` are kept: to let go of one closes it, which waits for its calls.
    asynchronous = {channel for channel in _process.asynchronous if _is_open(channel)}
    _process.apart |= asynchronous
    if _process.calls:
        _process.forked_while = "a call was under way"
    elif asynchronous:
        _process.forked_while = "an asyncio client was open"
    _process.calls = Counter()
    _process.asynchronous = weakref.WeakSet()
    _process.gate = threading.RLock()


def _is_open(channel: Any) -> bool:
    inner: Any = getattr(channel, "_channel", None)
    return not (hasattr(inner, "closed") and inner.closed())


def _channels_to_fork() -> set[Any]:
    """The channels whose calls gRPC ends in a child."""
    channels: set[Any] = cygrpc._fork_state.channels
    return channels


def _own(channel: Any) -> Any:
    """The channel of gRPC below its interceptors; of asyncio's the channel itself."""
    while isinstance(inner := getattr(channel, "_channel", None), grpc.Channel):
        channel = inner
    return channel


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
