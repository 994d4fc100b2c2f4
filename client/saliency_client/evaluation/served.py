"""Measures of a served model's methods: what a measure asks, as requests that are shared by all that run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from saliency_client._errors import SaliencyError
from saliency_client._threads import finished
from saliency_client.evaluation import controls
from saliency_client.evaluation.measure import Array, Predictions, Result, UndefinedMeasure
from saliency_client.evaluation.merging import Merger
from saliency_client.evaluation.registry import Measure

if TYPE_CHECKING:
    from saliency_client import SaliencyClient, Signature

_SUM_TOLERANCE = 1e-3


class VersionChanged(SaliencyError):
    """Another version of the model answers than the one that was asked first."""


@dataclass(frozen=True)
class Method:
    """An explanation method of the model, or a control, with what it is asked with.

    Attributes:
        name: of the method, or of the control.
        signature: None of a control.
        parameters: its own, by name; those that are left out are the model's defaults.
    """

    name: str
    signature: Signature | None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def signed(self) -> str | None:
        """The output that holds its map with signs; None where it gives none."""
        return self.signature.signed_map if self.signature else None


@dataclass(frozen=True)
class _Kind:
    """What goes together in a request: a method, and whether its map with signs is wanted; or predictions."""

    method: str | None
    outputs: str | None = None


PREDICTIONS = _Kind(None)
"""The kind of requests for predictions."""


def control_methods() -> tuple[Method, ...]:
    """The controls, as methods."""
    return tuple(Method(name, None) for name in (controls.RANDOM, controls.EDGES))


def predictions(outputs: Mapping[str, Array]) -> Predictions:
    """What a model's answer says of classes.

    `logits` and `probabilities`, or any output [N, classes]: of that, rows within 0..1 that sum to 1 are
    probabilities and others are scores.
    """
    rows = {
        name: np.asarray(values, np.float64)
        for name, values in outputs.items()
        if values.ndim == 2 and values.dtype.kind in "fiu"
    }
    scores, probabilities = rows.get("logits"), rows.get("probabilities")
    if scores is None and probabilities is None and rows:
        first = next(iter(rows.values()))
        is_share = (first >= 0).all() and np.allclose(first.sum(axis=1), 1, atol=_SUM_TOLERANCE)
        scores, probabilities = (None, first) if is_share else (first, None)
    return Predictions(scores, probabilities)


@dataclass(frozen=True)
class Requests:
    """The requests of a merger, carried out by a client.

    Args:
        client: that asks.
        methods: by name.
        version: that answers; another one is an error.
        timeout: seconds for each image of a request.
    """

    client: SaliencyClient
    methods: Mapping[str, Method]
    version: int | None
    timeout: float

    def __call__(self, kind: _Kind, items: Sequence[tuple[Array, int]]) -> list[Any]:
        """Ask about images and classes; of each its answer."""
        images = np.stack([image for image, _ in items])
        timeout = self.timeout * len(items)
        if kind.method is None:
            answer = predictions(self.client.predict(images, timeout=timeout))
            return [
                Predictions(*(None if part is None else part[row : row + 1] for part in _parts(answer)))
                for row in range(len(items))
            ]
        explanation = self.client.explain(
            images,
            method=kind.method,
            class_index=[class_index for _, class_index in items],
            outputs=kind.outputs,
            timeout=timeout,
            **self.methods[kind.method].parameters,
        )
        if self.version is not None and explanation.version not in (None, self.version):
            raise VersionChanged(
                f"version {explanation.version} of the model answers, and the evaluation began with version "
                f"{self.version}",
                hint="run it again: results of the two are not mixed",
            )
        return list(explanation)


@dataclass(frozen=True)
class Evaluator:
    """Asks for one image's map by one method, and measures it.

    Args:
        merger: whose `ask` is `Requests`.
        class_index: the class; None is the one that is predicted for each image.
        seed: of the random control.
    """

    merger: Merger
    class_index: int | None = None
    seed: int = 0

    def predict(self, images: Array) -> Predictions:
        """What the model says of images."""
        parts = [_parts(one) for one in self._answers(PREDICTIONS, images, -1)]
        columns = [
            None if any(part is None for part in column) else np.concatenate(column)
            for column in zip(*parts, strict=True)
        ]
        return Predictions(*columns)

    def measure(
        self, image: Array, method: Method, measures: Sequence[tuple[Measure, Any]]
    ) -> list[tuple[Result, str] | UndefinedMeasure]:
        """Of each measure with its settings: its result and the output that it read, or why there is none."""
        wants_signs = method.signed if any(one.reads == "signed" for one, _ in measures) else None
        class_index, maps = self._maps(image, method, wants_signs)

        def explain(images: Array, class_index: int) -> Array:
            return self._explain(images, method, class_index)

        found: list[tuple[Result, str] | UndefinedMeasure] = []
        for measure, settings in measures:
            read = maps.get(measure.reads) or maps["saliency"]
            try:
                check_promised(measure, method)
                with_class = replace(settings, class_index=class_index)
                result = measure.function(self.predict, explain, image, read[1], with_class)
                found.append((result, read[0]))
            except UndefinedMeasure as undefined:
                found.append(undefined)
        return found

    def _maps(
        self, image: Array, method: Method, signed: str | None
    ) -> tuple[int, dict[str, tuple[str, Array]]]:
        """The class that is explained, and of each kind of map the output's name and the map."""
        if method.signature is None:
            class_index = self.class_index
            if class_index is None:
                answer = self.predict(image[None])
                known = answer.scores if answer.scores is not None else answer.probabilities
                class_index = -1 if known is None else int(known[0].argmax())
            values = self._explain(image[None], method, class_index)[0]
            return class_index, {"saliency": (method.name, values)}
        asked = -1 if self.class_index is None else self.class_index
        (explanation,) = self._answers(_Kind(method.name, signed), image[None], asked)
        maps = {"saliency": ("saliency", explanation["saliency"][0])}
        if signed is not None:
            values = np.asarray(explanation[signed][0], np.float64)
            maps["signed"] = (signed, values if values.ndim == 2 else values.sum(axis=-1))
        return int(explanation["class_index"][0]), maps

    def _explain(self, images: Array, method: Method, class_index: int) -> Array:
        if method.name == controls.RANDOM:
            return controls.random_map(images, class_index, seed=self.seed)
        if method.name == controls.EDGES:
            return controls.sobel(images)
        answers = self._answers(_Kind(method.name), images, class_index)
        return np.stack([one["saliency"][0] for one in answers])

    def _answers(self, kind: _Kind, images: Array, class_index: int) -> list[Any]:
        futures: list[Future[Any]] = self.merger.submit(kind, [(image, class_index) for image in images])
        return [finished(future).result() for future in futures]


def check_promised(measure: Measure, method: Method) -> None:
    """Raise UndefinedMeasure where a measure holds a method to what it never promised."""
    complete = method.signature is not None and "completeness_error" in method.signature.outputs
    if "baseline" in measure.settings.__dataclass_fields__ and not complete:
        raise UndefinedMeasure("it promises no completeness: its answers have no completeness_error")


def settings_for(measure: Measure, method: Method, given: Mapping[str, Any]) -> Any:
    """A measure's settings: its own defaults, those that are given, and the baseline of the method.

    Args:
        measure: whose they are.
        method: that it measures.
        given: values by name; names of other measures' settings are passed over.

    Raises:
        OptionError: a value is out of range.
    """
    names = set(measure.settings.__dataclass_fields__)
    values = {**dict(measure.defaults), **{name: given[name] for name in given if name in names}}
    if "baseline" in names and method.signature is not None:
        default = method.signature.defaults.get("baseline")
        level = method.parameters.get("baseline", 0.0 if default is None else default)
        values.setdefault("baseline", float(np.asarray(level).reshape(-1)[0]))
    return measure.settings(**values)


def digest(image: Array) -> str:
    """SHA-256 of a model input: its dtype, shape and values."""
    head = f"{image.dtype.str}{image.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()


def made_with(
    model: str, version: int | None, method: Method, measure: str, settings: Any, image_digest: str
) -> dict[str, Any]:
    """What a result depends on, as JSON's own types: a result that was made with the same is kept."""
    asked = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(settings).items()}
    parameters = {name: _number(value) for name, value in sorted(_all_parameters(method).items())}
    return {
        "model": model,
        "version": version,
        "method": method.name,
        "parameters": parameters,
        "measure": measure,
        "settings": asked,
        "digest": image_digest,
    }


def _all_parameters(method: Method) -> dict[str, Any]:
    defaults = method.signature.defaults if method.signature else {}
    known = {name: value for name, value in defaults.items() if name != "class_index"}
    return {**known, **method.parameters}


def _number(value: Any) -> Any:
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else array.tolist()


def _parts(answer: Predictions) -> tuple[Any, Any]:
    return answer.scores, answer.probabilities
