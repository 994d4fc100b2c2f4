"""The name of a function of one number, from its values on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from saliency_exporter.graph.activations.elementwise import ELEMENTWISE, Array, elu, erfc, sigmoid, softplus

_GRID = np.concatenate([np.linspace(-12, 12, 4801), [-900.0, -60.0, 60.0, 900.0]])
_FAR = 1e5


_FLOAT32 = 2.0**-24


def identify(
    function: Callable[[Array], Array], rounding: float = _FLOAT32
) -> tuple[str, float, float] | None:
    """Names the activation that a function of one number is.

    Args:
        function: of arrays, in float64; its constants are rounded as the graph has them.
        rounding: the unit roundoff of those constants.

    Returns:
        (kind, threshold, upper) as in `Activation`, or None where it is none that is known.
    """
    with np.errstate(all="ignore"):
        values = function(_GRID)
        if not np.all(np.isfinite(values)):
            return None
        for kind, reference, is_gate in _SMOOTH:
            if _same(values, reference(_GRID), rounding):
                return (kind, math.nan, math.inf) if is_gate else (kind, 0.0, math.inf)
        return (
            _swish(function, values, rounding)
            or _elu_with_alpha(function, values, rounding)
            or _rectifier(function, values, rounding)
        )


_SLOPES = (-0.5, 0.0, 0.01, 0.25, 0.75, 1.5)


def identify_learned(
    function: Callable[[Array, float], Array], rounding: float = _FLOAT32
) -> tuple[str, float, float] | None:
    """Names the activation that a function of one number and one learned number is.

    The one that is known is PReLU (He et al. 2015, arXiv 1502.01852): x above 0, slope · x below. Whatever
    slope was learned, the function above 0 is the same.

    Returns:
        (kind, threshold, upper) as in `Activation`, or None where it is none that is known.
    """
    with np.errstate(all="ignore"):
        for sign in (1.0, -1.0):
            if all(
                _same(function(_GRID, sign * slope), np.where(_GRID > 0, _GRID, slope * _GRID), rounding)
                for slope in _SLOPES
            ):
                return ("prelu", 0.0, math.inf)
    return None


def _same(values: Array, reference: Array, rounding: float) -> bool:
    # A definition has a handful of constants, each rounded, in float32 by 6e-8 of a value. GELU and its
    # approximation by tanh are 5e-4 apart: with the constants of bfloat16 they are one, and their rule is.
    tolerance = max(2e-6, 4 * rounding)
    return bool(np.allclose(values, reference, rtol=tolerance, atol=tolerance))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_SMOOTH: tuple[tuple[str, Callable[[Array], Array], bool], ...] = (
    ("gelu", lambda x: 0.5 * x * erfc(-x / math.sqrt(2)), False),
    ("gelu(tanh)", _gelu_tanh, False),
    ("mish", lambda x: x * np.tanh(softplus(x)), False),
    ("softplus", softplus, False),
    ("elu", elu, False),
    ("selu", ELEMENTWISE["Selu"], False),
    ("hard_swish", lambda x: x * np.clip(x + 3, 0, 6) / 6, False),
    ("hard_sigmoid", lambda x: np.clip(x + 3, 0, 6) / 6, True),
    ("hard_sigmoid", lambda x: np.clip(0.2 * x + 0.5, 0, 1), True),
)


def _swish(
    function: Callable[[Array], Array], values: Array, rounding: float
) -> tuple[str, float, float] | None:
    at_one = float(function(np.array([1.0]))[0])
    if not 0.5 < at_one < 1.0:
        return None
    beta = math.log(at_one / (1 - at_one))
    if not _same(values, _GRID * sigmoid(beta * _GRID), rounding):
        return None
    return ("swish" if abs(beta - 1) < 1e-6 else f"swish(beta={beta:.4g})", 0.0, math.inf)


def _elu_with_alpha(
    function: Callable[[Array], Array], values: Array, rounding: float
) -> tuple[str, float, float] | None:
    alpha = -float(function(np.array([-900.0]))[0])
    below = alpha * np.expm1(np.minimum(_GRID, 0))
    if alpha <= 0 or not _same(values, np.where(_GRID > 0, _GRID, below), rounding):
        return None
    return (f"elu(alpha={alpha:.4g})", 0.0, math.inf)


def _rectifier(
    function: Callable[[Array], Array], values: Array, rounding: float
) -> tuple[str, float, float] | None:
    """ReLU(x; slope a, max m, threshold t): m for x ≥ m, x for t ≤ x < m, a·(x − t) below t."""
    low, lower, high, higher = (float(v) for v in function(np.array([-_FAR, -2 * _FAR, _FAR, 2 * _FAR])))
    slope = (low - lower) / _FAR
    if abs(slope) < 1e-9:
        slope = 0.0
    upper = high if high == higher else math.inf
    if math.isinf(upper) and abs((higher - high) / _FAR - 1) > 1e-6:
        return None
    if slope:
        threshold = -_FAR - low / slope
        threshold = 0.0 if abs(threshold) < 1e-3 else threshold
    else:
        threshold = _first_positive(function, min(upper, _FAR))
    if not (0 <= slope < 1 and -_FAR < threshold < upper and (upper > 0 or math.isinf(upper))):
        return None
    grid = _GRID[np.abs(_GRID - threshold) > 1e-4]
    kept = values[np.abs(_GRID - threshold) > 1e-4]
    expected = np.where(grid >= threshold, np.minimum(grid, upper), slope * (grid - threshold))
    if not _same(kept, expected, rounding):
        return None
    return (_rectifier_name(slope, upper, threshold), threshold, upper)


def _first_positive(function: Callable[[Array], Array], high: float) -> float:
    """Where a function that is zero at first becomes positive, by bisection."""
    low = -_FAR
    for _ in range(80):
        middle = (low + high) / 2
        if float(function(np.array([middle]))[0]) > 0:
            high = middle
        else:
            low = middle
    return 0.0 if abs(high) < 1e-9 else round(high, 6)


def _rectifier_name(slope: float, upper: float, threshold: float) -> str:
    if not slope and not threshold and upper == 6:
        return "relu6"
    parameters: Mapping[str, float] = {"negative_slope": slope, "max_value": upper, "threshold": threshold}
    given = ", ".join(f"{k}={v:.4g}" for k, v in parameters.items() if v and math.isfinite(v))
    return f"relu({given})" if given else "relu"
