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


_RAISED = re.compile(r"^\s*(\w+(?:Error|Exception)): (?=\S)", re.MULTILINE)
"""How AutoGraph's report of user code begins the error that was raised at last."""
_PLACES = re.compile(
    r"(Detected at node|File \"|Node: |\[\[|<stack traces|\d+ root error|Stack trace|Original stack)"
)
"""How lines begin that say where a graph failed, and not why."""
_NOISE = (
    (re.compile(r"\{\{function_node [^}]*\}\} ?"), ""),
    (re.compile(r"\{\{(?:node )?([^}]*)\}\}"), r"\1"),
    (re.compile(r" ?\[Op:\w+\](?: name: ?)?"), ""),
    (re.compile(r"\[_XlaMustCompile[^\]]*\]"), ""),
    (re.compile(r"^\(\d+\) [A-Z_]+: "), ""),
    # What Keras adds is a whole configuration, or every number of a weight.
    (re.compile(r"\.? Full object config: .*"), ""),
    (re.compile(r"\. (Make sure custom classes|Please ensure you are using a `keras).*"), ""),
    (re.compile(r" using config=\{.*"), ""),
    (re.compile(r", value=\[.*"), ""),
)


def brief(error: BaseException) -> str:
    """What another library's error says, in one line of at most 300 characters.

    TensorFlow and Keras put their reason behind where it happened, or behind what was being read; this finds
    it.
    """
    kind, lines = _reason(type(error).__name__, re.sub(r"\x1b\[[0-9;]*m", "", str(error)))
    for pattern, instead in _NOISE:
        lines = [pattern.sub(instead, line) for line in lines]
    reason = next((line.strip() for line in lines if line.strip()), "")
    text = f"{kind}: {reason}" if reason else kind
    return text if len(text) <= 300 else text[:299] + "…"


def _reason(kind: str, message: str) -> tuple[str, list[str]]:
    """The innermost error's type, and its lines from the one that says why."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return kind, []
    first = lines[0]
    if first.startswith("in user code:") and (raised := _RAISED.search(message)) is not None:
        return _reason(raised[1], message[raised.end() :])
    # Of Keras, while it reads a file: the configuration first, the reason last.
    if "Exception encountered: " in message:
        return _reason(kind, message.rpartition("Exception encountered: ")[2])
    # Of Keras: the layer first, the reason next.
    told_next = first.startswith(("Exception encountered when calling", "A total of "))
    if (told_next or first.endswith("Error encountered:")) and len(lines) > 1:
        return _reason(kind, "\n".join(lines[1:]))
    if first.startswith("Graph execution error"):
        return kind, [line for line in lines[1:] if not _PLACES.match(line)]
    return kind, lines
