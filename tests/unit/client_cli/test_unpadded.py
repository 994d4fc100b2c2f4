"""Tables whose lines end where their words do."""

from __future__ import annotations

import io

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from saliency_client.cli.console import beside_spinner, console


def two_rows() -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name")
    table.add_column("a long heading")
    table.add_row("  one", "1")
    table.add_row("two", Text("a b", "bold"))
    return table


@pytest.mark.parametrize("wrap", [lambda table: table, Group], ids=["alone", "in a group"])
def test_blanks_inside_and_before_words_stay_and_those_behind_them_do_not(wrap):
    stream = io.StringIO()
    console(stream).print(wrap(two_rows()))
    assert stream.getvalue() == "name   a long heading\n  one  1\ntwo    a b\n"


def test_words_beside_a_spinner_fit_its_row_and_are_no_markup():
    shown = console(io.StringIO())
    shown.width = 20
    assert beside_spinner("[bold]one", shown).plain == "[bold]one"
    assert beside_spinner("1234567890\n1234567890", shown).plain == "1234567890 12345…"
