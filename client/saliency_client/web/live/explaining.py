"""A photo's map, or its map as it refines; and its most probable classes."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saliency_client import maps
from saliency_client._contract import RELATIVE_ERROR, SAMPLES_USED, TARGET_ERROR, VARIANCE
from saliency_client._explanation import Explanation
from saliency_client._signatures import Signature
from saliency_client._slices import count_of, takes_slices
from saliency_client.cli import accuracy, classes
from saliency_client.cli.errors import CommandError
from saliency_client.cli.explainer import facts_of
from saliency_client.cli.model_input import class_scores
from saliency_client.web.live import forms, words
from saliency_client.web.live.model import Served
from saliency_client.web.live.turns import Turns
from saliency_client.web.map_picture import MapPicture, map_picture

MOST_CLASSES = 5


@dataclass(frozen=True)
class Wish:
    """What a person asks for.

    Attributes:
        choice: the key of a version.
        method: its name.
        class_name: a class by its index or its name; None: the predicted one.
        parameters: numbers by name, as the browser sent them.
    """

    choice: str
    method: str
    class_name: str | int | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Map:
    """One map, or what is known of it after some samples.

    Attributes:
        explanation: B = 1.
        signature: of its method.
        parameters: with which one call gives the same map.
        facts: what is told of it, as in a JSON line of `explain`.
        notes: what to know of it.
        milliseconds: that the calls took so far.
    """

    explanation: Explanation
    signature: Signature
    parameters: Mapping[str, int | float]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    milliseconds: float

    @property
    def bytes(self) -> int:
        """How much memory it takes."""
        return sum(array.nbytes for array in self.explanation.outputs.values())


async def explained(served: Served, wish: Wish, image: npt.NDArray[Any], turns: Turns) -> AsyncIterator[Map]:
    """The map; of a mean over samples, the map after each slice of them, the last one last.

    Args:
        served: the model.
        wish: what is asked for.
        image: the model input, without a batch axis.
        turns: one is taken for each call.

    Raises:
        SaliencyError, CommandError: as the client's calls and the search for a class raise them.
    """
    client = served.client(wish.choice)
    signature = await served.signature(wish.choice, wish.method)
    names = await served.names(wish.choice) if _needs_names(signature, wish) else None
    given = forms.parameters(wish.parameters, signature)
    class_index = _class_index(wish.class_name, names)
    if class_index is not None:
        forms.check(signature, forms.CLASS, class_index)
    arguments: dict[str, Any] = {"method": wish.method, "class_index": class_index, **given}
    took = 0.0

    def found(explanation: Explanation, parameters: Mapping[str, int | float]) -> Map:
        outputs = {name: values for name, values in explanation.outputs.items() if name != VARIANCE}
        kept = explanation.with_outputs(outputs)
        notes = accuracy.about(kept, signature, given, named=words.label)
        return Map(kept, signature, parameters, facts_of(kept, names), tuple(notes), took * 1000)

    if not takes_slices(signature):
        async with turns.turn():
            started = time.monotonic()
            explanation = await client.explain(image[np.newaxis], outputs="all", **arguments)
            took = time.monotonic() - started
        yield found(explanation, given)
        return
    target = arguments.pop(TARGET_ERROR, signature.defaults.get(TARGET_ERROR, 0))
    slices = client.explain_until(image[np.newaxis], target_error=float(target), **arguments)
    try:
        while True:
            async with turns.turn():
                started = time.monotonic()
                explanation_so_far = await anext(slices, None)
                took += time.monotonic() - started
            if explanation_so_far is None:
                return
            yield found(explanation_so_far, _in_one_call(explanation_so_far, signature, given))
    finally:
        await slices.aclose()


async def predicted(
    served: Served, choice: str, image: npt.NDArray[Any], turns: Turns
) -> list[dict[str, Any]]:
    """The most probable classes, the best first: `class_index`, `label`, `probability`, `score`.

    Raises:
        SaliencyError, CommandError: as the client's calls raise them.
    """
    client = served.client(choice)
    names = await served.names(choice)
    async with turns.turn():
        outputs = await client.predict(image[np.newaxis])
    scores, probabilities = class_scores(outputs)
    order = np.argsort(-(scores if probabilities is None else probabilities), kind="stable")[:MOST_CLASSES]
    return [
        {
            "class_index": int(index),
            "label": names[index] if names is not None and index < len(names) else None,
            "probability": None if probabilities is None else float(probabilities[index]),
            "score": float(scores[index]),
        }
        for index in order
    ]


def event(one: Map, name: str) -> dict[str, Any]:
    """What the browser is told of a map that is kept under a name.

    Raises:
        CommandError: the map holds NaN or infinity.
    """
    explanation = one.explanation
    own = one.signature.signed_map
    try:
        absolute = map_picture(explanation.saliency[0], compress=False)
        signed = None
        if own is not None and own in explanation.outputs:
            values = explanation[own][0]
            signs = maps.signed(values if explanation.has_channels else values[..., np.newaxis])
            signed = map_picture(signs, signed=True, compress=False)
    except ValueError as error:
        raise CommandError(f"no picture can be drawn: {error}", hint="download the array (npy)") from error
    numbers = {
        key: value
        for key, value in {**one.facts, **one.facts["outputs"], SAMPLES_USED: _samples(explanation)}.items()
        if key in ("probability", "score", "completeness_error", SAMPLES_USED, "steps_used", "relative_error")
        and value is not None
    }
    return {
        "event": "map",
        "id": name,
        "facts": {key: one.facts[key] for key in ("method", "version", "class_index", "label")},
        "numbers": {key: value for key, value in numbers.items() if key != RELATIVE_ERROR},
        "error": accuracy.shown(numbers[RELATIVE_ERROR]) if RELATIVE_ERROR in numbers else None,
        "notes": list(one.notes),
        "milliseconds": round(one.milliseconds),
        "absolute": _for_browser(absolute),
        "signed": None if signed is None else _for_browser(signed),
    }


def _for_browser(picture: MapPicture) -> dict[str, Any]:
    encoded = base64.b64encode(picture.png).decode()
    return {
        "src": f"data:image/png;base64,{encoded}",
        "low": picture.low,
        "high": picture.high,
        "signed": picture.signed,
    }


def _samples(explanation: Explanation) -> int | None:
    values = explanation.outputs.get(SAMPLES_USED)
    return None if values is None else int(values[0])


def _in_one_call(
    explanation: Explanation, signature: Signature, given: Mapping[str, int | float]
) -> dict[str, int | float]:
    """The parameters with which one call takes the samples that slices took."""
    count = count_of(signature)
    assert count is not None
    rest = {name: value for name, value in given.items() if name != TARGET_ERROR}
    return {**rest, count: int(explanation[SAMPLES_USED][0])}


def _needs_names(signature: Signature, wish: Wish) -> bool:
    by_name = isinstance(wish.class_name, str) and _typed_index(wish.class_name) is None
    return by_name or "label" not in signature.outputs


def _typed_index(name: str) -> int | None:
    return classes.given_index(name, option="the class")


def _class_index(wanted: str | int | None, names: tuple[str, ...] | None) -> int | None:
    if wanted is None or isinstance(wanted, int):
        return wanted
    index = _typed_index(wanted)
    if index is not None:
        return None if index == classes.PREDICTED else index
    if not names:
        raise CommandError("the served model has no class names", hint="give the number of the class")
    return classes.find_class(
        wanted, names, by_index="give the number of one, as {}", otherwise="give the number of the class"
    )
