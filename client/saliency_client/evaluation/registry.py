"""All measures: what each is called, reads and prefers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from saliency_client.evaluation import (
    completeness_gap,
    deletion,
    faithfulness_correlation,
    insertion,
    max_sensitivity,
    random_logit,
    road,
    sparseness,
)
from saliency_client.evaluation.controls import EDGES, RANDOM
from saliency_client.evaluation.curves import CurveSettings
from saliency_client.evaluation.measure import Result

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: as in the papers.
        function: of (predict, explain, image, map, settings).
        settings: the class of its settings, whose defaults are the papers' or a library's.
        reads: the map that it takes: "saliency", or "signed", the sum over channels of the signed map.
        better: which values are better; None: neither.
        summary: one line.
        source: the paper.
        controls: those that a method has to beat: a random map is best at random
            logit, and that is no merit.
        defaults: settings that differ from those of the class.
    """

    name: str
    function: Callable[..., Result]
    settings: type[Any]
    reads: Literal["saliency", "signed"]
    better: Better | None
    summary: str
    source: str
    controls: tuple[str, ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()


MEASURES = {
    one.name: one
    for one in (
        Measure(
            deletion.NAME,
            deletion.deletion,
            CurveSettings,
            "saliency",
            "lower",
            "area under the class probability while the most salient pixels are removed",
            "Petsiuk et al. 2018, arXiv 1806.07421",
            (RANDOM, EDGES),
        ),
        Measure(
            insertion.NAME,
            insertion.insertion,
            CurveSettings,
            "saliency",
            "higher",
            "area under the class probability while the most salient pixels are added",
            "Petsiuk et al. 2018, arXiv 1806.07421",
            (RANDOM, EDGES),
            (("substrate", "blur"),),
        ),
        Measure(
            road.NAME,
            road.road,
            road.RoadSettings,
            "saliency",
            "lower",
            "class probability after the most salient pixels are imputed from their neighbors",
            "Rong et al. 2022, arXiv 2202.00449",
            (RANDOM, EDGES),
        ),
        Measure(
            faithfulness_correlation.NAME,
            faithfulness_correlation.faithfulness_correlation,
            faithfulness_correlation.FaithfulnessSettings,
            "signed",
            "higher",
            "correlation of what a map gives to random pixels and what the score loses with them",
            "Bhatt et al. 2020, arXiv 2005.00631",
            (RANDOM, EDGES),
        ),
        Measure(
            max_sensitivity.NAME,
            max_sensitivity.max_sensitivity,
            max_sensitivity.SensitivitySettings,
            "saliency",
            "lower",
            "largest relative change of the map for small changes of the image",
            "Yeh et al. 2019, arXiv 1901.09392",
            (RANDOM,),
        ),
        Measure(
            sparseness.NAME,
            sparseness.sparseness,
            sparseness.SparsenessSettings,
            "saliency",
            None,
            "Gini index of the map: how few pixels hold most of it",
            "Chalasani et al. 2020, arXiv 1810.06583",
        ),
        Measure(
            completeness_gap.NAME,
            completeness_gap.completeness_gap,
            completeness_gap.CompletenessSettings,
            "signed",
            "lower",
            "how far the map's sum is from the score it promises to share out",
            "Sundararajan et al. 2017, arXiv 1703.01365",
        ),
        Measure(
            random_logit.NAME,
            random_logit.random_logit,
            random_logit.RandomLogitSettings,
            "saliency",
            "lower",
            "how alike the maps of the class and of a random other one are",
            "Sixt et al. 2020, arXiv 1912.09818",
            (EDGES,),
        ),
    )
}
"""By name, in the order in which they are shown."""
