"""Which cases of a product of kinds run in `make test`: the others are for `make test-all`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest


def covering(*axes: Sequence[Any]) -> list[Any]:
    """All combinations for `pytest.mark.parametrize`, of which a covering set is quick and the rest slow.

    Of two axes each value is in a quick case, of three and more each pair of values of two axes: most faults
    need one value or two to show (Cohen et al. 1997, "The AETG system", IEEE TSE 23).

    Args:
        axes: the values of each parameter, in the order of the parameters.
    """
    cases = list(itertools.product(*(range(len(axis)) for axis in axes)))
    strength = min(2, max(1, len(axes) - 1))

    def met(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(itertools.combinations(enumerate(case), strength))

    left = set().union(*map(met, cases))
    quick, used = set(), Counter()
    while left:
        # What meets most that has not been met, of what has been used least.
        best = max(cases, key=lambda case: (len(met(case) & left), -sum(used[v] for v in enumerate(case))))
        quick.add(best)
        used.update(enumerate(best))
        left -= met(best)
    return [
        pytest.param(
            *(axis[i] for axis, i in zip(axes, case, strict=True)),
            marks=[] if case in quick else [pytest.mark.slow],
        )
        for case in cases
    ]
