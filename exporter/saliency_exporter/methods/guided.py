"""Guided backpropagation: gradients in which every rectifier also blocks what is negative on the way back.

The maps hardly depend on a model's upper layers (Adebayo et al. 2018, arXiv 1810.03292; Sixt et al. 2019,
arXiv 1912.09818): they show edges that the lower layers respond to, and are no evidence of what made the
model choose the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saliency_exporter.errors import ExportError
from saliency_exporter.graph.activations.find import find_activations
from saliency_exporter.graph.forward_graph import ForwardGraph, Replacement
from saliency_exporter.methods.declarations import Method
from saliency_exporter.methods.gradients import explain
from saliency_exporter.rules.guided import guided_replacements

_MOST_NAMED = 5
_IN_A_LOOP = (
    "a rectifier inside a loop has no rule: build a recurrent layer with unroll=True, or export the other "
    "methods: --methods gradients,smooth"
)


def replacements(graph: ForwardGraph, model: str) -> Sequence[Replacement]:
    """The guided rule for every rectifier of a model.

    Raises:
        ExportError: the model has no rectifier, or one that the rule does not cover.
    """
    coverage = find_activations(graph)
    if coverage.uncovered:
        parts = [f"{name.rpartition('/')[0] or name} (its {op})" for op, name in coverage.uncovered]
        more = f" and {len(parts) - _MOST_NAMED} more" if len(parts) > _MOST_NAMED else ""
        raise ExportError(
            f"guided backpropagation has no rule for activations of model {model}: "
            f"{', '.join(dict.fromkeys(parts[:_MOST_NAMED]))}{more}",
            hint=_IN_A_LOOP if any("inside" in op for op, _ in coverage.uncovered) else None,
        )
    if not coverage.rectifiers:
        raise ExportError(f"{model} has no rectifier, so guided backpropagation would be the plain gradient")
    return guided_replacements(coverage)


def facts(graph: ForwardGraph) -> Mapping[str, Any]:
    """How many rectifiers of a model follow the rule."""
    return {"activations": find_activations(graph).count()}


METHOD = Method(
    name="guided",
    kind="sensitivity",
    summary="Guided backpropagation: on the way back, every rectifier passes positive signals only",
    source="Springenberg et al. 2014, arXiv 1412.6806, section 3.4",
    explain=explain,
    replacements=replacements,
    facts=facts,
)
