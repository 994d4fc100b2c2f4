"""The steps of a command on stderr: each with the seconds that it took."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType

import click

from saliency_client.cli.console import beside_spinner, console
from saliency_client.cli.text import one_line
from saliency_exporter.cli.last_resort import note_step


class Steps:
    """Says each step; at a terminal, with a spinner while it lasts.

    A step ends where the next one begins, or the block. An error takes its step along.
    """

    def __init__(self) -> None:
        self._running: ExitStack | None = None
        self._words, self._start = "", 0.0
        self._terminal = sys.stderr.isatty()

    def __call__(self, words: str) -> None:
        """Begin a step."""
        self._end()
        self._words, self._start = one_line(words), time.monotonic()
        self._running = ExitStack()
        if self._terminal:
            shown = console(sys.stderr)
            self._running.enter_context(shown.status(beside_spinner(f"{self._words} …", shown)))
        else:
            click.echo(f"{self._words} …", err=True, nl=False)

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end()
            return
        self.leave_line()
        if error is not None:
            note_step(error, self._words)

    def leave_line(self) -> None:
        """Leave the step's line as it is: what follows is on lines of its own."""
        if self._running is None:
            return
        self._running.close()
        self._running = None
        click.echo(f"{self._words} …" if self._terminal else "", err=True)

    def _end(self) -> None:
        if self._running is None:
            return
        self._running.close()
        self._running = None
        seconds = f" {time.monotonic() - self._start:.1f} s"
        if self._terminal:
            from rich.text import Text

            console(sys.stderr).print(Text.assemble(self._words, (seconds, "dim")), soft_wrap=True)
        else:
            click.echo(seconds, err=True)
