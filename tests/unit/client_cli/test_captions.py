"""What a picture of several methods says of its image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from saliency_client.cli.pictures import Answer, caption, common_facts


def facts_of(*scores: float, probability: float = 0.9) -> Any:
    answers = [
        SimpleNamespace(
            method=f"m{rank}",
            facts={
                "method": f"m{rank}",
                "model": "m",
                "class_index": 3,
                "score": score,
                "probability": probability,
            },
        )
        for rank, score in enumerate(scores)
    ]
    return common_facts(cast("list[Answer]", answers))


def test_scores_that_differ_by_rounding_are_one() -> None:
    facts = facts_of(7.183021, 7.183027)

    assert facts["score"] == 7.183021
    assert caption(facts)[1] == "m0, m1, m, score 7.18"


def test_scores_that_differ_by_more_are_none() -> None:
    assert "score" not in facts_of(7.18, 7.25)
    assert "score" not in facts_of(0.0, 0.02)
