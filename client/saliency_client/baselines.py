"""Several baselines of a method that has one: gray levels by name, and the average over them.

A method with the parameter `baseline`, as integrated gradients has, tells what the image counts beside a
baseline: of a black one, black pixels count nothing. The average over black and white has no such blind spot;
it is what XRAI (Kapishnikov et al. 2019, arXiv 1906.02825, section 3.2.1) is computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saliency_client._contract import COMPLETENESS_ERROR, SALIENCY, SIGNED_MAPS
from saliency_client._errors import InputError
from saliency_client._explanation import Explanation
from saliency_client._saliency import saliency_of
from saliency_client._tensors import Array

if TYPE_CHECKING:
    from saliency_client.client import SaliencyClient

PARAMETER = "baseline"
"""The parameter of a method: a gray level in the images' own unit."""
LEVELS: Mapping[str, float] = {"black": 0.0, "white": 255.0, "gray": 127.5, "grey": 127.5}
"""Of images of uint8."""

_BASELINE_SCORE, _SCORE = "baseline_score", "score"
_SHARES = SIGNED_MAPS[1]
_OF_THE_CLASS = frozenset({"class_index", "label"})


def explain(
    client: SaliencyClient,
    images: Any,
    *,
    baselines: Iterable[str | float] = ("black", "white"),
    **arguments: Any,
) -> Explanation:
    """Explain images once for each baseline, and average.

    Args:
        client: asks the server, once for each baseline.
        images: as for `SaliencyClient.explain`.
        baselines: gray levels in the images' own unit, the same for all images; or names for images of uint8:
            "black" (0), "white" (255), "gray" (127.5).
        **arguments: of `SaliencyClient.explain`, such as `method`. With several baselines all outputs are
            asked for.

    Returns:
        The average, as `average` makes it.

    Raises:
        InputError: no baseline, or one that is no gray level; and whatever `SaliencyClient.explain` raises,
            such as UnknownParameter for a method that has no baseline.

    Example:
        >>> from saliency_client import baselines
        >>> explanation = baselines.explain(client, images, baselines=["black", "white"], method="shares")
        >>> explanation.attributions.shape
        (2, 224, 224, 3)
    """
    levels = gray_levels(baselines)
    if len(levels) > 1:
        arguments["outputs"] = "all"
    return average([client.explain(images, baseline=level, **arguments) for level in levels])


def gray_levels(baselines: Iterable[str | float] | str | float) -> tuple[float, ...]:
    """Baselines as numbers; each once, in order.

    Raises:
        InputError: there is none, or one is neither a finite number nor a name.

    Example:
        >>> from saliency_client import baselines
        >>> baselines.gray_levels(["black", "white", 64])
        (0.0, 255.0, 64.0)
    """
    given = [baselines] if isinstance(baselines, (str, int, float)) else list(baselines)
    if not given:
        raise InputError("no baseline is given", hint="such as 'black' and 'white'")
    return tuple(dict.fromkeys(_level(one) for one in given))


def average(explanations: Sequence[Explanation]) -> Explanation:
    """The average of explanations of the same images by the same method with different baselines.

    The method's map with signs is averaged, and `saliency` is taken of the average: for `attributions` |sum
    over channels|, for `gradients` the largest magnitude; of a method without such a map it is averaged
    itself. So `attributions` add up to the score less the mean of the baselines' scores, and
    `completeness_error` says how far they do not. All other numbers that differ are averaged.

    Args:
        explanations: at least one, of the same model and version, of the same classes.

    Raises:
        InputError: they are not of the same, or lack the map that is to be averaged.

    Example:
        >>> from saliency_client import baselines
        >>> both = [
        ...     client.explain(images, method="shares", baseline=level, outputs="all")
        ...     for level in baselines.gray_levels(["black", "white"])
        ... ]
        >>> baselines.average(both).attributions.shape
        (2, 224, 224, 3)
    """
    if not explanations:
        raise InputError("there is no explanation to average")
    first, *others = explanations
    for other in others:
        _check_alike(first, other)
    if not others:
        return first
    outputs: dict[str, Array] = {}
    for name in first.outputs:
        values = [one.outputs[name] for one in explanations]
        same = all(np.array_equal(values[0], value) for value in values[1:])
        if not same and (name in _OF_THE_CLASS or values[0].dtype.kind not in "fiu"):
            raise InputError(f"the explanations differ in {name}: they are not of the same classes")
        mean = values[0] if same else np.mean(values, axis=0, dtype=np.float64).astype(np.float32)
        outputs[name] = np.asarray(mean)
    signed = first.offered_signed_map
    if signed is not None and SALIENCY in outputs:
        if signed not in outputs:
            raise InputError(
                f"saliency is the average's own, and {signed}, of which it is taken, did not come",
                hint=f"explain(…, outputs=[{signed!r}])",
            )
        sizes = outputs[SALIENCY].shape[1:]
        outputs[SALIENCY] = saliency_of(signed, outputs[signed], sizes, channels=first.has_channels)
    if {COMPLETENESS_ERROR, _BASELINE_SCORE, _SCORE, _SHARES} <= outputs.keys():
        outputs[COMPLETENESS_ERROR] = _completeness_error(outputs)
    return first.with_outputs(outputs)


def _level(baseline: str | float) -> float:
    if isinstance(baseline, str):
        if baseline not in LEVELS:
            raise InputError(f"baseline {baseline!r} is none of {', '.join(LEVELS)}; or give a number")
        return LEVELS[baseline]
    try:
        level = float(baseline)
    except (TypeError, ValueError):
        level = np.nan
    if not np.isfinite(level):
        raise InputError(f"baseline {baseline!r} is not a finite number")
    return level


def _check_alike(first: Explanation, other: Explanation) -> None:
    for what in ("method", "model", "version"):
        if getattr(first, what) != getattr(other, what):
            raise InputError(
                f"explanations by {what} {getattr(first, what)!r} and {getattr(other, what)!r} "
                "have no average",
                hint="give the client a version, if one was replaced meanwhile"
                if what == "version"
                else None,
            )
    if first.outputs.keys() != other.outputs.keys() or len(first) != len(other):
        raise InputError("the explanations hold different outputs, or different images")


def _completeness_error(outputs: Mapping[str, Array]) -> Array:
    """|Σ attributions − (score − baseline's score)| ⁄ |score − baseline's score|."""
    shares = outputs[_SHARES].reshape(len(outputs[_SHARES]), -1).sum(axis=1, dtype=np.float64)
    given = outputs[_SCORE].astype(np.float64) - outputs[_BASELINE_SCORE]
    tiny = np.finfo(np.float32).tiny
    error: Array = np.abs(shares - given) / np.maximum(np.abs(given), tiny)
    return error.astype(np.float32)
