"""Where people read: tables, colors and progress on a terminal, plain lines everywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from saliency_client.cli.text import shows_color

if TYPE_CHECKING:
    from rich.console import Console

# On a pipe there is no width to fit into; a table may be as wide as its words.
_PIPE_WIDTH = 500


def console(stream: TextIO) -> Console:
    """A console that writes to a stream, with colors where it shows them."""
    from rich.console import Console

    return Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        color_system="auto" if shows_color(stream) else None,
        width=None if stream.isatty() else _PIPE_WIDTH,
    )
