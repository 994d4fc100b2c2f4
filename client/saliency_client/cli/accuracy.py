"""What a person is told of how sure a map is, and of what would make it surer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from saliency_client._accuracy import SETTLED, samples_needed
from saliency_client._contract import (
    COMPLETENESS_ERROR,
    COUNTS,
    RELATIVE_ERROR,
    SAMPLES_USED,
    STEPS_USED,
    TARGET_ERROR,
)
from saliency_client._slices import count_of
from saliency_client.cli.parameters import option_name

if TYPE_CHECKING:
    from saliency_client import Explanation, Signature

_USUAL_BOUNDS = {"num_samples": 1_000, "num_masks": 4_000, "num_steps": 1_000}
"""What an export allows in a call where nothing else was said when it was made."""


def about(
    explanation: Explanation,
    signature: Signature,
    parameters: Mapping[str, Any],
    *,
    named: Callable[[str], str] = option_name,
) -> list[str]:
    """Notes on one image's map, if it is mostly noise or misses its target, with the next step.

    Args:
        explanation: B = 1.
        signature: of the method.
        parameters: that were given.
        named: what a person calls a parameter, where a new value is given to it.
    """
    # As it was sent.
    target = float(np.float32(parameters.get(TARGET_ERROR) or 0))
    error, gap = _number(explanation, RELATIVE_ERROR), _number(explanation, COMPLETENESS_ERROR)
    count = count_of(signature)
    if error is not None and count is not None:
        used = _number(explanation, SAMPLES_USED) or _asked(count, signature, parameters)
        if used and (error > target > 0 or error > 1):
            return [_unsettled(error, int(used), target, count, _option(count, signature, named))]
    if gap is not None and count is not None and gap > target > 0:
        used = _number(explanation, STEPS_USED) or _asked(count, signature, parameters)
        return [
            f"the completeness error is {gap:.2g} after {used:g} {COUNTS[count]}, and {target:g} was asked "
            f"for; more of them bring it down: {_option(count, signature, named)(2 * int(used))}"
        ]
    return []


def settling(explanation: Explanation, target: float, fallen: list[float]) -> str:
    """How far a mean over samples is, for a person who waits.

    Args:
        explanation: the mean so far; of several images, the one with the largest error is told.
        target: the error that is waited for.
        fallen: the errors before, to which this one is added.
    """
    worst = max(explanation, key=lambda one: _rank(one[RELATIVE_ERROR][0]))
    error, samples = float(worst[RELATIVE_ERROR][0]), int(worst[SAMPLES_USED][0])
    fallen.append(error)
    trail = " → ".join(shown(one) for one in fallen[-3:])
    needed = float(samples_needed(error, samples, target))
    of_all = f" of about {needed:.0f}" if needed > samples and math.isfinite(needed) else ""
    return f"{explanation.method}: relative error {trail} after {samples}{of_all}; target {target:g}"


def shown(error: float) -> str:
    """An error in a line for people."""
    return "∞" if math.isinf(error) else "?" if math.isnan(error) else f"{error:.2f}"


def in_words(error: float) -> str:
    """An error with what it means, for a caption, whose font knows no ∞."""
    if math.isinf(error):
        return "infinite (no signal yet)"
    return f"{error:.2f} (mostly noise)" if error > 1 else f"{error:.2f}"


def _unsettled(error: float, used: int, target: float, count: str, option: Callable[[int], str]) -> str:
    what = COUNTS[count]
    if math.isinf(error):
        return (
            f"the map is noise: {used} {what} show no signal above it, so nobody can say how many would; "
            f"try {option(10 * used)}, or another method"
        )
    wanted = target or SETTLED
    needed = int(samples_needed(error, used, wanted))
    noise = "the map is mostly noise: " if error > 1 else ""
    asked = f", and {target:g} was asked for" if target else ""
    return (
        f"{noise}its relative error is {error:.2f} after {used} {what}{asked}; "
        f"about {needed} bring it to {wanted:g}: {option(needed)}"
    )


def _option(count: str, signature: Signature, named: Callable[[str], str]) -> Callable[[int], str]:
    """What to give, and what stands or may stand against it, from a number."""
    bound, usual = signature.bounds.get(count, (None, None))[1], _USUAL_BOUNDS[count]

    def option(number: int) -> str:
        typed = f"{named(count)} {number}"
        if number <= (usual if bound is None else bound):
            return typed
        if bound is not None:
            return f"an export with a larger --max-samples, as this model takes {bound} in a call, at most"
        return f"{typed} (an export allows {usual} in a call, unless it was made with another --max-samples)"

    return option


def _asked(count: str, signature: Signature, parameters: Mapping[str, Any]) -> float:
    """How many were asked for, which are those that an older export used; 0 where nobody says."""
    given = parameters.get(count) or signature.defaults.get(count)
    return 0.0 if given is None else float(given)


def _number(explanation: Explanation, output: str) -> float | None:
    """An output of one number for an image; None where there is none, or it is NaN."""
    values = explanation.outputs.get(output)
    return None if values is None or values.shape != (1,) or math.isnan(values[0]) else float(values[0])


def _rank(error: float) -> float:
    return math.inf if math.isnan(error) else error
