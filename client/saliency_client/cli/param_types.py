"""Types of options, for both command lines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from saliency_client._numbers import MOST_SECONDS

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN, which no bound keeps out, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Seconds(click.FloatRange):
    """A time above 0; the library takes infinity, and whatever is beyond thirty years, for no limit."""

    name = "number of seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The time in seconds."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value} is not a time.", param, ctx)
        return seconds


SECONDS = Seconds(min=0, min_open=True)
"""A limit of time, which may be infinite."""

FINITE_SECONDS = FiniteRange(min=0, min_open=True, max=MOST_SECONDS)
"""A time that ends."""
