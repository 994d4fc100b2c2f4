"""Numbers that callers give: which can be used, NumPy's own included."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, TypeGuard

MOST_SECONDS = 1e9
"""Thirty years; more is no limit. From 1e10 s on gRPC's clock overflows: the time is over at once."""


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: Any) -> TypeGuard[float]:
    """Whether it is a number; True and False are none. NaN and infinity are: bounds refuse them."""
    return isinstance(value, Real) and not isinstance(value, bool)


def are_seconds(value: Any) -> TypeGuard[float]:
    """Whether it is a time above 0 that can be waited for."""
    return is_real(value) and 0 < value <= MOST_SECONDS
