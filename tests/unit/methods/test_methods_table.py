"""The documentation's tables of methods are what the methods declare."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
sys.path.insert(0, str(TESTS / "matrix"))

from methods_table import BEGIN, END, PAGE, table, with_table  # noqa: E402

from saliency_exporter.methods.registry import OWN, find_methods  # noqa: E402


def test_the_page_shows_the_methods_that_there_are() -> None:
    page = PAGE.read_text()
    assert with_table(page, table(find_methods(OWN))) == page, "run make methods-table"


def test_a_method_of_another_package_is_shown_with_its_parameters_and_outputs(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS / "plugin"))
    shown = table(find_methods(["gradient_times_input"]))
    name = "explain_gradient_times_input"
    assert f"| `{name}` | The gradient of the class score times the model input | `attributions` |" in shown
    assert (
        f"| `{name}` | `factor` | float32 | 1.0 | 0 to 8 | what the attributions are multiplied by |" in shown
    )
    assert f"| `{name}` | `total` | float32 [B] | the sum of the attributions |" in shown
    assert f"| `{name}` | `positive` | int32 [B] | how many attributions are above 0 |" in shown


def test_the_rest_of_the_page_stays() -> None:
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"
