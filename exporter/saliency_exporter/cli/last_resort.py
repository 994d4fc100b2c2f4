"""What a command says of an error that nobody foresaw, TensorFlow's and Keras's among them: one sentence.

The sentence names the step that failed, the layer or the op where the error names one, and the reason in one
line. What was made for people (`ExportError`, usage errors, a file that cannot be read) passes as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

from saliency_client.cli.errors import CommandError
from saliency_exporter.errors import brief

_HINT = "SALIENCY_DEBUG=1 shows where; please report it"

_STEP = "_saliency_step"
"""The attribute of an error that says in which step it came."""

_LAYER = (
    # tf-keras, then Keras 3: "calling layer 'pool' (type Pool)", "calling Pool.call()".
    re.compile(r"when calling layer ['\"](?P<name>[^'\"]+)['\"] \(type (?P<kind>\w+)\)"),
    re.compile(r"when calling (?P<kind>\w+)\.call\(\)"),
    re.compile(r"\blayer ['\"](?P<name>[^'\"]+)['\"]"),
)
_OP = (
    re.compile(r"op type: (?P<kind>\w+)"),
    re.compile(r"Detected at node (?P<name>[\w./-]+)"),
    re.compile(r"\{\{node (?P<name>[^}\s]+)\}\} = (?P<kind>\w+)"),
    re.compile(r"\{\{node (?P<name>[^}\s]+)\}\}"),
    re.compile(r"No registered '(?P<kind>\w+)'"),
    re.compile(r"\[Op:(?!__inference)(?P<kind>\w+)\]"),
)


@contextmanager
def last_resort(command: Callable[[], str]) -> Iterator[None]:
    """Say in one sentence what failed, if the block fails for a reason that nobody foresaw.

    Args:
        command: what is run, such as "saliency-exporter verify"; asked when it has failed.

    Raises:
        CommandError: the block failed; the error is its cause.
    """
    try:
        yield
    except Exception as error:
        if is_foreseen(error):
            raise
        raise CommandError(sentence(error, command()), hint=_HINT) from error


def note_step(error: BaseException, step: str) -> None:
    """Note in which step an error came, such as "tracing the forward pass"; the innermost counts."""
    if step and not hasattr(error, _STEP):
        with suppress(AttributeError):
            setattr(error, _STEP, step)


def is_foreseen(error: Exception) -> bool:
    """Whether an error was made for people, or is one that the command line has words for."""
    if isinstance(error, click.ClickException | click.Abort | click.exceptions.Exit):
        return True
    # What this project raises has a next step, or None in its place. A missing package, a full memory and a
    # file that cannot be read are told as they are.
    return hasattr(error, "hint") or isinstance(error, MemoryError | ModuleNotFoundError | OSError)


def sentence(error: BaseException, command: str) -> str:
    """What failed, where and why, in one line."""
    step, where = getattr(error, _STEP, None), _place(error)
    at = f" at {where}" if where else ""
    if step is None:
        return f"unexpected {brief(error)} ({command}{at})"
    return f"{step} failed{at}: {brief(error)}"


def _place(error: BaseException) -> str:
    """The layer, or the op, that an error or what it was raised from names; "" where none does."""
    for patterns, what in ((_LAYER, "layer"), (_OP, "op")):
        for cause in _causes(error):
            text = str(cause)
            # The outermost pattern that fits; of several ops the first.
            for pattern in patterns:
                if match := pattern.search(text):
                    return _named(what, match)
    return ""


def _named(what: str, match: re.Match[str]) -> str:
    found = match.groupdict()
    name, kind = found.get("name"), found.get("kind")
    return f"{what} {name} ({kind})" if name and kind else f"{what} {name or kind}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, innermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    yield from reversed(chain)
