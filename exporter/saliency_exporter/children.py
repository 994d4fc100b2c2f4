"""Child processes that do not outlive their parent, however it ends short of being killed outright."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked this process to end.

    Attributes:
        signal_number: which one.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[str]
    stop_signal: int
    grace: float


class Children:
    """Starts child processes; none is left when the block ends, by itself, by an exception or by a signal.

    Each child leads a session of its own, so a Ctrl-C at the terminal reaches this process alone. Within the
    block SIGINT, SIGTERM and SIGHUP are passed on to the children, and raise `Interrupted` where this
    process next starts, awaits or checks: never between a child's start and its entry in the list, and
    never in the midst of ending them. For the main thread.
    """

    def __init__(self) -> None:
        self._children: list[_Child] = []
        self._signal_number: int | None = None

    def __enter__(self) -> Children:
        # What is ignored stays ignored: `nohup` and the shell's background jobs rely on it.
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._on_signal) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            _end(child)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(
        self,
        command: Sequence[str],
        *,
        stop_signal: int = signal.SIGTERM,
        grace: float = 10.0,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start a child.

        Args:
            command: what to run.
            stop_signal: what asks it to end.
            grace: seconds until it is killed if it does not.
            options: for `subprocess.Popen`.

        Raises:
            Interrupted: a signal has come.
        """
        self.check()
        process = subprocess.Popen(
            command, start_new_session=True, stdin=subprocess.DEVNULL, text=True, **options
        )
        self._children.append(_Child(process, stop_signal, grace))
        self.check()
        return process

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Start a child and wait for it; what it prints to the pipes that were asked for is in the result.

        Raises:
            Interrupted: a signal has come.
        """
        process = self.start(command, **options)
        out, err = process.communicate()
        _kill_group(process)
        self.check()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def check(self) -> None:
        """Where this process waits by itself: notice a signal.

        Raises:
            Interrupted: a signal has come.
        """
        if self._signal_number is not None:
            raise Interrupted(self._signal_number)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signal_number is not None:
            return
        self._signal_number = number
        # What this process waits for ends now, or when its time is up.
        for child in self._children:
            child.process.send_signal(child.stop_signal)
            killer = threading.Timer(child.grace, _kill_if_running, [child.process])
            killer.daemon = True
            killer.start()


def _end(child: _Child) -> None:
    process = child.process
    if process.poll() is not None:
        return  # Its number may belong to another process by now.
    process.send_signal(child.stop_signal)
    with suppress(subprocess.TimeoutExpired):
        process.wait(child.grace)
    _kill_group(process)
    process.wait()


def _kill_if_running(process: subprocess.Popen[str]) -> None:
    if process.returncode is None:
        _kill_group(process)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a child if it still runs, and what it started and left."""
    # No such group is left, or (on macOS) only processes that have ended and wait for their parent.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
