"""What a command says and returns when it fails: `error: …`, `hint: …`, an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from saliency_client.cli.streams import fill_missing
from saliency_client.cli.text import one_line

FAILURE, USAGE, INTERRUPTED = 1, 2, 130
RPC_BASE = 64


class CommandError(Exception):
    """A failure that a command finds by itself."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(click.UsageError):
    """Wrong arguments, with the next step."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


# The library's own hints speak of its functions; these speak of options.
_HINTS = {
    "ModelNotFound": "compare --model, --version and --label with the server's configuration; "
    "`saliency-client status --wait 60` waits for a model that is still loading",
    "SignatureNotFound": "`saliency-client signatures` lists what the model offers",
    "UnknownMethod": "`saliency-client signatures` lists what the model offers",
    "QueueFull": "lower --concurrency, or add servers",
    "TLSError": "give --tls, --ca and --server-name as the server's certificate needs, "
    "or none of them where it has none",
    "Unavailable": "check that TensorFlow Serving runs there and that this is its gRPC port (8500 by "
    "default, not the REST port 8501); `saliency-client status --wait 60` waits until it is up",
    "DeadlineExceeded": "give a longer --timeout, or fewer passes over the model, as with --num-samples; the "
    "first request after a start may wait for XLA to compile",
    "NotReady": "give --wait more seconds, or look into the server's log",
    "InvalidArgument": "the server's words name the value and its bound; "
    "`saliency-client signatures` lists inputs with their defaults, and their bounds where the export tells "
    "them; `saliency-exporter inspect VERSION_DIR` all bounds",
    "ResourceExhausted": "lower --concurrency, or ask for fewer passes over the model, as with --num-samples",
    "AccessDenied": "give --token-file or SALIENCY_TOKEN, or --cert and --key",
}


# How the library's hints name what these options and commands are.
_SPELLINGS = {
    "tls=TLS(…)": "--tls, --ca, --cert, --key",
    "tls=True": "--tls",
    "ca=…": "--ca",
    "certificate=…": "--cert",
    "server_name=…": "--server-name",
    "key=…": "--key",
    "signatures()[…].image_size has it": "`saliency-client signatures` shows it",
    "signatures() has": "`saliency-client signatures` shows",
}


def run(invoke: Callable[[], Any]) -> NoReturn:
    """Run a command to its exit code; a traceback is shown only with SALIENCY_DEBUG=1."""
    fill_missing()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = invoke()
    except Exception as error:
        if debugging():
            import traceback

            traceback.print_exception(error)
        sys.exit(_report(error))
    # An interrupt of a command comes as Abort; this one came before or after the command.
    except KeyboardInterrupt:
        sys.exit(_report(click.Abort()))
    sys.exit(result if isinstance(result, int) else 0)


def debugging() -> bool:
    """Whether SALIENCY_DEBUG asks for tracebacks."""
    return os.environ.get("SALIENCY_DEBUG", "0") not in ("", "0")


def exit_code(error: Exception) -> int:
    """The exit code for what a command raised."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, click.Abort):
        return INTERRUPTED
    if _is_option_error(error):
        return USAGE
    code = getattr(error, "code", None)
    # grpc.StatusCode's value is its number and its name; grpc is not imported for it.
    value = getattr(code, "value", None)
    return RPC_BASE + int(value[0]) if isinstance(value, tuple) else FAILURE


def describe(error: Exception) -> tuple[str, str | None]:
    """The sentence and the next step, without control characters."""
    if isinstance(error, click.ClickException):
        message, hint = error.format_message(), getattr(error, "hint", None) or _usage_hint(error)
    elif isinstance(error, OSError) and not hasattr(error, "hint"):
        where = f"{error.filename}: " if error.filename else ""
        message, hint = f"{where}{error.strerror or error}", None
        if not where and isinstance(error, FileNotFoundError) and not _has_folder():
            message, hint = "the current folder does not exist any more", "cd to one that does"
    # An error with a next step, or with None in its place, was made for people: CommandError, SaliencyError,
    # and the exporter's, which this package does not import.
    elif hasattr(error, "hint"):
        found = getattr(error, "found", None) or (error.hint if _is_option_error(error) else None)
        message, hint = str(error), _HINTS.get(type(error).__name__, error.hint)
        if found:
            hint = found
        hint = _in_options(hint) if hint else None
    else:
        message = f"unexpected {type(error).__name__}: {error}"
        hint = "SALIENCY_DEBUG=1 shows where; please report it"
    return one_line(message), one_line(hint) if hint else None


def _has_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _in_options(hint: str) -> str:
    for spelling, options in _SPELLINGS.items():
        hint = hint.replace(spelling, options)
    return hint


def _is_option_error(error: Exception) -> bool:
    # By name: the library is not imported where it raised nothing.
    return type(error).__name__ == "OptionError"


def print_error(message: str, hint: str | None) -> None:
    """`error: …` and `hint: …` to stderr."""
    from saliency_client.cli.text import styled

    click.echo(f"{styled('error:', 'red', sys.stderr)} {message}", err=True)
    if hint:
        click.echo(f"{styled('hint:', 'cyan', sys.stderr)} {hint}", err=True)


def _report(error: Exception) -> int:
    if isinstance(error, click.Abort):
        # A terminal shows ^C where the cursor was.
        click.echo("\ninterrupted" if sys.stderr.isatty() else "interrupted", err=True)
    # By name: click 8.1 has no such error, and ends the same way.
    elif type(error).__name__ == "NoArgsIsHelpError":
        click.echo(error.format_message(), err=True)  # type: ignore[attr-defined]
    else:
        print_error(*describe(error))
    return exit_code(error)


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"`{context.command_path} --help` lists the options" if context is not None else None
