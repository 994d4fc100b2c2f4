"""Tables without the blanks that fill their lines: who copies a line of one gets its words alone."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Table


class Unpadding(RenderHook):
    """Prints tables, and groups of them, without blanks at the ends of lines."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What is printed instead."""
        return [_Unpadded(one) if isinstance(one, (Table, Group)) else one for one in renderables]


class _Unpadded:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self._renderable, options, pad=False):
            yield from without_end(line)
            yield Segment.line()


def without_end(line: Sequence[Segment]) -> list[Segment]:
    """A line up to its last character that is no blank."""
    kept = list(line)
    while kept and not kept[-1].text.rstrip(" "):
        kept.pop()
    if kept:
        last = kept.pop()
        kept.append(Segment(last.text.rstrip(" "), last.style))
    return kept
