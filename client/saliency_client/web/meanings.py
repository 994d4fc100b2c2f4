"""What the numbers beside a map say, for people: a page shows it where a number is pointed at."""

from __future__ import annotations

from saliency_client._contract import (
    COMPLETENESS_ERROR,
    RELATIVE_ERROR,
    SAMPLES_USED,
    STANDARD_ERROR,
    STEPS_USED,
)
from saliency_client.evaluation.registry import MEASURES

_OF_ANSWERS = {
    "probability": (
        "probability",
        "What the model gives the class that is explained, of 100 % for all classes. It says how sure the "
        "model is, not how good the map is.",
    ),
    "score": ("score", "The class's score before the softmax or sigmoid: the number that the map explains."),
    "rank": ("rank", "The place of the class among all classes, by probability."),
    "class_index": ("class", "The index of the class that is explained."),
    RELATIVE_ERROR: (
        "relative error",
        "How far the map is from the average over endlessly many samples, as a share of that. Below 0.3 it "
        "is settled; above 1 it is mostly noise. More samples bring it down.",
    ),
    STANDARD_ERROR: (
        "standard error",
        "The length of the map's standard error, in the map's own unit: the noise that averaging left.",
    ),
    SAMPLES_USED: ("samples", "How many samples the map is the average of."),
    COMPLETENESS_ERROR: (
        "completeness gap",
        "How far the shares of all pixels together are from what the score gains between the baseline and "
        "the image, over that gain. 0 is exact; more steps bring it down.",
    ),
    STEPS_USED: (
        "steps",
        "At how many points on the way from the baseline to the image the map was computed.",
    ),
    "baseline_score": (
        "score of the baseline",
        "The class's score of the image that the photo is compared with.",
    ),
    "milliseconds": ("time", "How long the request took that this photo was part of, with all photos in it."),
}


def meanings() -> dict[str, dict[str, str | None]]:
    """By the name of a number: its title, what it says, and which end is better, if either is.

    The numbers are those of answers and the measures of `saliency-client evaluate`.
    """
    answers = {
        name: {"title": title, "meaning": meaning, "better": None}
        for name, (title, meaning) in _OF_ANSWERS.items()
    }
    for name in (RELATIVE_ERROR, STANDARD_ERROR, COMPLETENESS_ERROR):
        answers[name]["better"] = "lower"
    measures = {
        name: {
            "title": name.replace("_", " "),
            "meaning": f"{one.summary[0].upper()}{one.summary[1:]}. {one.source}.",
            "better": one.better,
        }
        for name, one in MEASURES.items()
    }
    return {**measures, **answers}
