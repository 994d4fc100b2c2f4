"""What the page says where the command line names an option."""

from __future__ import annotations

import re

_FEWER = "ask for fewer passes over the model, with fewer samples, masks or steps"
_HINTS = {
    "SignatureNotFound": "reload the page: the model has changed",
    "UnknownMethod": "reload the page: the model has changed",
    "QueueFull": "ask again in a few seconds",
    "DeadlineExceeded": f"{_FEWER}; the first request after a start may wait for XLA to compile",
    "InvalidArgument": "the server's words name the value and its bound",
    "ResourceExhausted": f"{_FEWER}, or ask again in a few seconds",
}
"""By the type of an error; of all others, the next step is that of the command line.

What is said of the server itself (its address, its certificates) is for whoever started the page, which
was on the command line.
"""


def label(parameter: str) -> str:
    """What the page calls the field of a parameter: ``num_samples`` is "Num samples"."""
    return f"{parameter[:1].upper()}{parameter[1:]}".replace("_", " ")


def hint(error: Exception) -> str | None:
    """The page's own next step for an error; None where it has none."""
    return _HINTS.get(type(error).__name__)


def named(text: str, parameter: str) -> str:
    """A server's words with a parameter named as its field is."""
    return re.sub(rf"\b{re.escape(parameter)}\b", label(parameter), text)
