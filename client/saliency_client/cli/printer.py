"""Where a command's words go: results to stdout, for people, for scripts or as JSON; the rest to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TextIO

import click

from saliency_client.cli.console import beside_spinner
from saliency_client.cli.console import console as _console
from saliency_client.cli.errors import describe, print_error
from saliency_client.cli.text import one_line, plain_json, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Mode = Literal["human", "json", "quiet"]


@dataclass(frozen=True)
class Printer:
    """One command's output.

    Attributes:
        mode: "human", "json" (one line per result on stdout), or "quiet" (the bare result, no comments).
        verbose: show details of the work as well.
        results_to_stderr: stdout is taken by a file's bytes.
    """

    mode: Mode = "human"
    verbose: bool = False
    results_to_stderr: bool = False

    def result(
        self, record: Mapping[str, Any], human: Callable[[], RenderableType], quiet: Sequence[str] = ()
    ) -> None:
        """Print one result in the form that was asked for.

        Args:
            record: the JSON object.
            human: makes what a person sees; text in it is already printable.
            quiet: the bare lines; tabs part their cells.
        """
        if self.mode == "json":
            self._line(json.dumps(plain_json(record), allow_nan=False))
        elif self.mode == "human":
            from rich.text import Text

            # A path that is broken into lines cannot be copied.
            shown = human()
            self.console.print(shown, soft_wrap=isinstance(shown, Text))
        else:
            for line in quiet:
                self._line("\t".join(printable(cell) for cell in line.split("\t")))

    def note(self, text: str) -> None:
        """Print a comment for people to stderr."""
        if self.mode != "quiet":
            click.echo(one_line(text), err=True)

    def detail(self, text: str) -> None:
        """Print a detail of the work to stderr, if --verbose."""
        if self.verbose:
            click.echo(one_line(text), err=True)

    def error(self, error: Exception, about: str | None = None) -> None:
        """Print `error: …` and `hint: …` to stderr, without ending the command."""
        message, hint = describe(error)
        subject = one_line(about) if about else None
        print_error(f"{subject}: {message}" if subject and subject not in message else message, hint)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[], None]]:
        """A progress bar for people at a terminal; gives the function that advances it by one."""
        if self.mode != "human" or total < 2 or not sys.stderr.isatty():
            yield lambda: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self._beside_results(), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[str], None] | None]:
        """A spinner for people at a terminal; gives what changes its words, or None elsewhere."""
        if self.mode != "human" or not sys.stderr.isatty():
            yield None
            return
        shown = self._beside_results()
        with shown.status(beside_spinner(what, shown)) as status:
            yield lambda words: status.update(beside_spinner(words, shown))

    @cached_property
    def console(self) -> Console:
        """Where results for people go."""
        return _console(self._stream)

    def _beside_results(self) -> Console:
        """Where what moves is drawn: through one console with results that go to a terminal as well."""
        return self.console if self._stream.isatty() else _console(sys.stderr)

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self.results_to_stderr else sys.stdout

    def _line(self, text: str) -> None:
        click.echo(text, file=self._stream)
