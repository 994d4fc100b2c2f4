"""Signals that end a command by one KeyboardInterrupt, however they come out of a call of TensorFlow's."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType


@contextmanager
def interrupts(numbers: Sequence[int] = (signal.SIGINT,)) -> Iterator[list[int]]:
    """Let signals end the block by KeyboardInterrupt.

    Amid a call of TensorFlow's an interrupt may come out as another error, or be printed and forgotten: the
    first becomes a KeyboardInterrupt, the second is sent again. What is ignored, as SIGINT in a shell's
    background job or SIGHUP under nohup, stays ignored.

    Args:
        numbers: which signals.

    Yields:
        The signals that have come, a list that grows.

    Raises:
        KeyboardInterrupt: one has come.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        sys.excepthook = again
        signal.default_int_handler(number, frame)

    def again(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Code of TensorFlow's that can pass no exception on prints it and goes on. After an interrupt, that
        # is the interrupt, as what it is or as another error.
        timer = threading.Timer(0.01, os.kill, (os.getpid(), noted[-1]))
        timer.daemon = True
        timer.start()

    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        heeded = []
    before, hook = {number: signal.signal(number, note) for number in heeded}, sys.excepthook
    try:
        yield noted
    except Exception as error:
        if noted:
            raise KeyboardInterrupt from error
        raise
    finally:
        sys.excepthook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
