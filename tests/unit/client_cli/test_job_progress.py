"""What a person sees of a job that runs."""

from __future__ import annotations

import time

import pytest

from saliency_client.bulk.job import Extent, Progress
from saliency_client.cli.job_run import duration, state_of


def progress_of(rows: int, extent: Extent | None, *, before: int = 0, failed: int = 0) -> Progress:
    """Ten seconds after the beginning."""
    return Progress(before, rows, failed, extent, started=time.monotonic() - 10)


def test_rows_rate_and_time_left_are_one_line():
    assert state_of(progress_of(0, None)) == "waiting for the first row"
    assert state_of(progress_of(0, None, before=7)) == "7 rows done; waiting for the first"
    assert state_of(progress_of(200, Extent(1200, 0), before=400, failed=3)) == (
        "600 of 1,200 rows (50.0 %), 20 a second, 30 s left, 3 failed"
    )


def test_rows_that_are_judged_are_about_so_many():
    judged = Extent(0, 4000, rows_read=100, bytes_read=1000)

    assert state_of(progress_of(100, judged)) == "100 of about 400 rows (25.0 %), 10 a second, 30 s left"
    assert state_of(progress_of(100, Extent(0, None))) == "100 rows, 10 a second"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (5340, "89 min"), (12000, "3 h 20 min")],
)
def test_a_duration_has_two_digits_or_so(seconds, words):
    assert duration(seconds) == words
