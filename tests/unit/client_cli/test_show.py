"""What people see of results (cli/show.py)."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from saliency_client.cli.show import Line, bar, class_name, column, number_texts, percent, skipped

RECORD = {
    "rank": 2,
    "class_index": 281,
    "label": "tabby",
    "probability": 0.1234,
    "score": 5.678,
    "relative_error": 0.07,
    "outputs": {"steps_used": 8},
    "milliseconds": 41.6,
    "method": "smooth",
    "model": "lite0",
    "version": 3,
    "files": ["cat-smooth.png"],
}


def test_a_row_has_name_rank_class_probability_time_error_and_file():
    text = Line("cat.jpg", RECORD, width=8, alone=False).render().plain
    assert " ".join(text.split()) == "cat.jpg 2 tabby (281) 12.3 % 42 ms ±7 % cat-smooth.png"


def test_a_single_result_has_a_block_of_its_own():
    text = Line("cat.jpg", RECORD, width=8, alone=True).render().plain
    assert text.splitlines() == [
        "tabby (281)  12.3 %",
        "smooth of lite0 version 3, score 5.68, relative error 0.07, steps used 8, 42 ms",
        "cat-smooth.png",
    ]


@pytest.mark.parametrize(
    ("error", "row", "words"),
    [
        (0.3, "±30 %", "relative error 0.30"),
        (1.0, "±100 %", "relative error 1.00"),
        (1.11, "±111 %", "relative error 1.11 (mostly noise)"),
        (float("inf"), "±∞", "relative error infinite (no signal yet)"),
    ],
)
def test_an_error_is_told_with_what_it_means(error, row, words):
    record = {**RECORD, "relative_error": error}
    assert row in Line("cat.jpg", record, width=8, alone=False).render().plain
    assert f"{words}, steps used 8" in Line("cat.jpg", record, width=8, alone=True).render().plain
    assert number_texts({**record, "outputs": {"standard_error": 0.02}}) == [words]


def test_what_a_result_has_not_is_left_out():
    bare = {**RECORD, "rank": None, "label": "", "probability": None, "score": None, "relative_error": None}
    bare["outputs"] = {"steps_used": None}
    bare |= {"version": None, "files": []}
    assert Line("cat.jpg", bare, 8, alone=False).render().plain.split() == [
        "cat.jpg",
        "class",
        "281",
        "42",
        "ms",
        "stdout",
    ]
    assert Line("cat.jpg", bare, 8, alone=True).render().plain.splitlines() == [
        "class 281",
        "smooth of lite0, 42 ms",
        "stdout",
    ]


def test_an_image_that_was_done_says_so():
    assert skipped("cat.jpg").plain == "cat.jpg  is done, skipped"


@pytest.mark.parametrize("text", ["short", "a-name-that-is-longer-than-its-column", "猫猫猫猫猫猫猫猫猫猫"])
def test_a_column_is_as_wide_as_asked_and_keeps_both_ends_of_a_long_name(text):
    shown = column(text, 12)
    assert cell_len(shown) == 12
    assert shown[:2] == text[:2]
    assert shown.rstrip()[-2:] == text[-2:]


def test_a_class_without_a_label_is_its_index_and_no_probability_is_nothing():
    assert class_name({"class_index": 3, "label": ""}, with_index=True) == "class 3"
    assert percent(None) == ""


@pytest.mark.parametrize(
    ("share", "encoding", "shown"),
    [
        (0.5, "utf-8", "████"),
        (3 / 64, "UTF-8", "▍"),
        (1.0, "utf-8", "████████"),
        (0.5, "ascii", "####"),
        (0.0, "utf-8", ""),
        (None, "utf-8", ""),
    ],
)
def test_a_bar_is_as_long_as_its_share_in_eighths_where_the_terminal_has_them(share, encoding, shown):
    assert bar(share, 8, encoding) == shown
