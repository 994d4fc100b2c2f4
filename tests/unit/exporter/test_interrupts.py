"""An interrupt ends a command with one word, however it comes out of the call that it met."""

from __future__ import annotations

import os
import signal
import sys
import time

import click
import pytest
from click.testing import CliRunner

from saliency_exporter.cli import _LazyGroup


@pytest.fixture
def before():
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)
    sys.excepthook = sys.__excepthook__


@click.group(cls=_LazyGroup)
def commands() -> None:
    """Commands that meet an interrupt, and one that does not."""


@commands.command()
def plainly() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@commands.command()
def as_another_error() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise SystemError("returned a result with an exception set") from None


@commands.command()
def printed() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())  # what PyErr_Print of C++ code calls
    time.sleep(30)


@commands.command()
def broken() -> None:
    raise SystemError("returned a result with an exception set")


@pytest.mark.parametrize("command", ["plainly", "as-another-error", "printed"])
def test_an_interrupt_is_one_word_and_exit_code_130(before, command: str) -> None:
    result = CliRunner().invoke(commands, [command])
    assert (result.exit_code, result.output) == (130, "interrupted\n")


def test_an_error_without_an_interrupt_is_not_hidden(before) -> None:
    assert isinstance(CliRunner().invoke(commands, ["broken"]).exception, SystemError)
