"""Where people read: tables, colors and progress on a terminal, plain lines everywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from saliency_client.cli.text import one_line, shows_color

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# On a pipe there is no width to fit into; a table may be as wide as its words.
_PIPE_WIDTH = 500
_SPINNER = 2
"""Cells that a spinner takes before its words, with the blank between them."""


def console(stream: TextIO) -> Console:
    """A console that writes to a stream, with colors where it shows them, and tables without end blanks."""
    from rich.console import Console

    from saliency_client.cli.unpadded import Unpadding

    made = Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        color_system="auto" if shows_color(stream) else None,
        width=None if stream.isatty() else _PIPE_WIDTH,
    )
    made.push_render_hook(Unpadding())
    return made


def beside_spinner(words: str, console: Console) -> Text:
    """Words that stay on the row of a spinner; what has no room there is cut off.

    Args:
        words: of any length and in any lines.
        console: where the spinner is.
    """
    from rich.text import Text

    text = Text(one_line(words))
    # The last column stays free: some terminals begin a row when it is filled.
    text.truncate(max(1, console.width - _SPINNER - 1), overflow="ellipsis")
    return text
