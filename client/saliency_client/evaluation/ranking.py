"""From results of many images to what is said of methods: means, pairs, and those that beat no control."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from saliency_client.evaluation.controls import PREFIX
from saliency_client.evaluation.registry import MEASURES
from saliency_client.evaluation.statistics import Comparison, Summary, compare, summary


@dataclass(frozen=True)
class Standing:
    """One method by one measure.

    Attributes:
        measure: its name.
        method: its name.
        summary: over the images.
        against: the comparison with each control that the measure has, by the control's name.
        curve: (share of pixels, mean quantity over the images), where the measure has one.
    """

    measure: str
    method: str
    summary: Summary
    against: Mapping[str, Comparison]
    curve: tuple[tuple[float, float], ...] = ()

    @property
    def no_better_than(self) -> tuple[str, ...]:
        """The controls that the method is not shown to beat; none where neither end is better."""
        if self.method.startswith(PREFIX):
            return ()
        return tuple(name for name, found in self.against.items() if found.images and not found.better)


@dataclass(frozen=True)
class Pair:
    """Two methods by one measure, on the same images."""

    measure: str
    first: str
    second: str
    comparison: Comparison


def values_of(records: Sequence[Mapping[str, Any]], measure: str, method: str) -> dict[str, float]:
    """Value by image; NaN where it is undefined."""
    return {
        one["image"]: math.nan if one["value"] is None else one["value"]
        for one in records
        if one["measure"] == measure and one["method"] == method
    }


def standings(records: Sequence[Mapping[str, Any]], *, seed: int = 0) -> list[Standing]:
    """Each method by each measure, the best first; of measures that prefer neither end, the largest first."""
    found: list[Standing] = []
    for measure in _named(records, "measure"):
        better = MEASURES[measure].better
        methods = _named([one for one in records if one["measure"] == measure], "method")
        values = {method: values_of(records, measure, method) for method in methods}
        rows = [
            Standing(
                measure,
                method,
                summary(list(values[method].values()), seed=seed),
                {
                    control: compare(values[method], values[control], better=better, seed=seed)
                    for control in MEASURES[measure].controls
                    if control in values and control != method
                },
                _mean_curve(records, measure, method),
            )
            for method in methods
        ]
        sign = 1 if better == "lower" else -1
        found += sorted(rows, key=lambda row: _last_if_nan(sign * row.summary.mean))
    return found


def pairs(records: Sequence[Mapping[str, Any]], *, seed: int = 0) -> list[Pair]:
    """Every two methods by each measure, in the order in which they were asked for."""
    found: list[Pair] = []
    for measure in _named(records, "measure"):
        methods = _named([one for one in records if one["measure"] == measure], "method")
        values = {method: values_of(records, measure, method) for method in methods}
        for at, first in enumerate(methods):
            for second in methods[at + 1 :]:
                comparison = compare(
                    values[first], values[second], better=MEASURES[measure].better, seed=seed
                )
                found.append(Pair(measure, first, second, comparison))
    return found


def standing_json(one: Standing) -> dict[str, Any]:
    """A line of JSON."""
    return {
        "kind": "summary",
        "measure": one.measure,
        "method": one.method,
        **asdict(one.summary),
        "better": MEASURES[one.measure].better,
        "no_better_than": list(one.no_better_than),
        "curve": [list(point) for point in one.curve],
    }


def pair_json(one: Pair) -> dict[str, Any]:
    """A line of JSON."""
    return {
        "kind": "pair",
        "measure": one.measure,
        "methods": [one.first, one.second],
        **asdict(one.comparison),
    }


def _mean_curve(
    records: Sequence[Mapping[str, Any]], measure: str, method: str
) -> tuple[tuple[float, float], ...]:
    curves = [
        one["curve"]
        for one in records
        if one["measure"] == measure and one["method"] == method and one["curve"]
    ]
    return tuple(
        (float(points[0][0]), sum(y for _, y in points) / len(points))
        for points in zip(*curves, strict=False)
    )


def _named(records: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    return list(dict.fromkeys(one[field] for one in records))


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
