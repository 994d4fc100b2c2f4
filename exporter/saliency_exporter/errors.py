"""The error that every part of the exporter raises for a user's mistake or an unsupported model."""

from __future__ import annotations

import re


class ExportError(Exception):
    """A user's mistake or an unsupported model, told in one sentence.

    ``str(error)`` is the sentence: it names the thing, the value and the bound.

    Attributes:
        hint: the next step, or None where there is none to suggest.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NotWritten(ExportError):
    """A directory or a file cannot be written."""


def brief(error: BaseException) -> str:
    """What another library's error says, in one line of at most 300 characters."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    # Keras names the layer first and says what is wrong with it next.
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        del lines[0]
    if not lines:
        return type(error).__name__
    # AutoGraph puts the user's code first and the error that it raised last.
    text = lines[-1] if lines[0].startswith("in user code") else f"{type(error).__name__}: {lines[0]}"
    return text if len(text) <= 300 else text[:299] + "…"
