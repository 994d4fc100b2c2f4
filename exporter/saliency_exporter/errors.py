"""The error that every part of the exporter raises for a user's mistake or an unsupported model."""

from __future__ import annotations


class ExportError(Exception):
    """A user's mistake or an unsupported model, told in one sentence.

    ``str(error)`` is the sentence: it names the thing, the value and the bound.

    Attributes:
        hint: the next step, or None where there is none to suggest.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
