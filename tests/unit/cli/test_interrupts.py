"""An interrupt ends a command with one word, however it comes out of the call that it met."""

from __future__ import annotations

import os
import signal
import sys
import time

import click
import pytest
from click.testing import CliRunner

from saliency_exporter.cli import _Exporter
from saliency_exporter.cli.interrupts import interrupts


@pytest.fixture
def before():
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.excepthook is sys.__excepthook__
    signal.signal(signal.SIGINT, handler)


@click.group(cls=_Exporter, homes={})
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
def printed_as_another_error() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt as error:
        sys.excepthook(SystemError, SystemError(str(error)), None)
    time.sleep(30)


@commands.command()
def broken() -> None:
    raise SystemError("returned a result with an exception set")


@pytest.mark.parametrize("command", ["plainly", "as-another-error", "printed", "printed-as-another-error"])
def test_an_interrupt_is_one_word_and_exit_code_130(before, monkeypatch, command: str) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    result = CliRunner().invoke(commands, [command])
    assert (result.exit_code, result.output) == (130, "interrupted\n")


def test_an_error_without_an_interrupt_is_not_hidden(before) -> None:
    result = CliRunner().invoke(commands, ["broken"])
    assert result.exit_code == 1
    assert "error: unexpected SystemError: returned a result with an exception set" in result.output
    assert "hint: SALIENCY_DEBUG=1 shows where" in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_a_block_too_and_are_noted(number: signal.Signals) -> None:
    # What starts the tests may have it ignored, as nohup does with SIGHUP.
    handler = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts((number,)) as noted:
            os.kill(os.getpid(), number)
        assert noted == [number]
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts((signal.SIGHUP,)) as noted:
            os.kill(os.getpid(), signal.SIGHUP)
        assert noted == []
    finally:
        signal.signal(signal.SIGHUP, handler)
