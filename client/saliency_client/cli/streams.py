"""Standard streams that a command was started without, as by `>&-` or in a frozen app without a console."""

from __future__ import annotations

import os
import sys


def fill_missing() -> None:
    """Put the null device in place of a standard stream that is closed.

    Else its number would go to the next file or connection that is opened, and what is printed into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - to the end


def stdout_is_closed() -> bool:
    """Whether what is written to stdout goes nowhere, since the command was started without."""
    return getattr(sys.stdout, "name", None) == os.devnull
