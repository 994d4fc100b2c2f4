"""Text for terminals: nothing that a file name, a label or a server says may act on them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, TextIO

import click


def printable(text: str) -> str:
    """Replace control characters, escapes, direction marks and broken characters by their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same, with line breaks as they are."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: Any) -> str:
    """Indented JSON, whose strings keep every character that can be shown and escape the others."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def plain_json(value: Any) -> Any:
    """JSON's own types; what is not finite becomes null, for JSON has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def one_line(text: str) -> str:
    """The same, with line breaks and runs of blanks as one blank."""
    return printable(" ".join(text.split()))


def styled(text: str, color: str, stream: TextIO) -> str:
    """Text in a color, where the stream shows colors."""
    return click.style(text, fg=color, bold=True) if shows_color(stream) else text


def shows_color(stream: TextIO) -> bool:
    """Whether a stream is a terminal with colors, and NO_COLOR is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
