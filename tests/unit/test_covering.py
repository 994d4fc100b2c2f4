from __future__ import annotations

import itertools

import pytest
from covering import covering


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (9, 2), (3, 5), (2, 3, 4), (4, 2, 3, 2)], ids=str)
def test_every_value_is_quick_and_of_three_kinds_every_pair_and_all_is_in_test_all(sizes):
    axes = [list("abcdefghi"[:size]) for size in sizes]
    cases = covering(*axes)
    assert [case.values for case in cases] == list(itertools.product(*axes))
    assert all([mark.name for mark in case.marks] in ([], ["slow"]) for case in cases)
    quick = [case.values for case in cases if not case.marks]
    strength = 2 if len(sizes) > 2 else 1
    for places in itertools.combinations(range(len(sizes)), strength):
        met = {tuple(case[place] for place in places) for case in quick}
        assert met == set(itertools.product(*(axes[place] for place in places)))
    # A covering set has at least as many cases as the largest kinds have values together.
    least = max(sizes) if strength == 1 else max(a * b for a, b in itertools.combinations(sizes, 2))
    assert least <= len(quick) <= least + 2
