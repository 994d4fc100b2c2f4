"""The signatures that a SavedModel brings along: described, exercised when exported and when verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from saliency_exporter.runtime.functions import ConcreteFunction
from saliency_exporter.runtime.servable import Servable, ServableError
from saliency_exporter.version.manifest import KeptSignature

_PREFIX = "kept"
_EXAMPLES = 2
_TOLERANCE = 1e-3
"""Bound of max|difference| / max(1, max|expected|): the very same ops, on another device or thread count."""

Functions = Mapping[str, ConcreteFunction]


@dataclass(frozen=True)
class KeptCalls:
    """What a kept signature was given in the exporting process, and what it answered.

    Attributes:
        inputs: array by input name; empty where no request can be made up for it.
        outputs: array by output name.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def describe_kept(functions: Functions) -> dict[str, KeptSignature]:
    """Names, dtypes and shapes of every signature."""
    return {
        name: KeptSignature(
            inputs={key: _spec(spec) for key, spec in sorted(_inputs(function).items())},
            outputs={key: _spec(tensor) for key, tensor in sorted(function.structured_outputs.items())},
        )
        for name, function in functions.items()
    }


def kept_references(functions: Functions, example: tuple[int, ...]) -> dict[str, KeptCalls]:
    """What every signature answers to inputs made up for it.

    Floats are random in −1..1, of the explained input's shape where the signature leaves sizes open; whole
    numbers are 0. Nothing can be made up for strings, and not every signature takes what is made up: those
    are carried over all the same, and only their description is verified.

    Args:
        functions: the signatures.
        example: shape of one example of the explained input.
    """
    references = {}
    for name, function in functions.items():
        inputs = {key: _made_up(spec, example) for key, spec in _inputs(function).items()}
        try:
            outputs = function(**{key: tf.constant(value) for key, value in inputs.items()})
        except (ValueError, TypeError, tf.errors.OpError):
            references[name] = KeptCalls({}, {})
            continue
        references[name] = KeptCalls(inputs, {key: tensor.numpy() for key, tensor in outputs.items()})
    return references


def kept_arrays(references: Mapping[str, KeptCalls]) -> dict[str, np.ndarray]:
    """The references as the arrays of one file, by `kept/SIGNATURE/input/NAME` and …/output/NAME."""
    arrays: dict[str, np.ndarray] = {}
    for name, calls in references.items():
        arrays |= {f"{_PREFIX}/{name}/input/{key}": value for key, value in calls.inputs.items()}
        # Strings are kept as fixed-width bytes: an array of objects would have to be unpickled.
        arrays |= {
            f"{_PREFIX}/{name}/output/{key}": value.astype(np.bytes_) if value.dtype == object else value
            for key, value in calls.outputs.items()
        }
    return arrays


def kept_problems(
    servable: Servable, described: Mapping[str, KeptSignature], arrays: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """What is not as it was: a name, a dtype, a shape or a value of a kept signature.

    Args:
        servable: the loaded version.
        described: as `describe_kept` gave it.
        arrays: the file's arrays, as `kept_arrays` gave them.
    """
    for name, was in described.items():
        signature = servable.signature_defs.get(name)
        if signature is None:
            yield f"signature {name} of the model is missing"
            continue
        both = (("inputs", signature.inputs, was.inputs), ("outputs", signature.outputs, was.outputs))
        for kind, infos, before in both:
            now = {
                key: {
                    "dtype": tf.as_dtype(info.dtype).name,
                    "shape": _shape(tf.TensorShape(info.tensor_shape)),
                }
                for key, info in sorted(infos.items())
            }
            if now != before:
                yield f"the {kind} of {name} are {now}, and were {before}"
        yield from _value_problems(servable, name, arrays)


def _value_problems(servable: Servable, name: str, arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    inputs = _section(arrays, f"{_PREFIX}/{name}/input/")
    if not inputs:
        return
    try:
        got = servable.predict(name, inputs)
    except ServableError as error:
        yield f"{name} of the model fails: {error}"
        return
    for key, want in _section(arrays, f"{_PREFIX}/{name}/output/").items():
        if got[key].shape != want.shape:
            yield f"output {key} of {name} has shape {got[key].shape}, and had {want.shape}"
        elif not _equal(got[key], want):
            yield f"output {key} of {name} is not what the model gave"


def _equal(got: np.ndarray, want: np.ndarray) -> bool:
    if want.dtype.kind != "f":
        return np.array_equal(got.astype(want.dtype), want)
    bound = _TOLERANCE * max(1.0, float(np.max(np.abs(want), initial=0.0, where=np.isfinite(want))))
    return np.allclose(got.astype(np.float64), want.astype(np.float64), rtol=0, atol=bound, equal_nan=True)


def _section(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _inputs(function: ConcreteFunction) -> Mapping[str, tf.TensorSpec]:
    return function.structured_input_signature[1]


def _spec(spec: Any) -> dict[str, Any]:
    return {"dtype": tf.as_dtype(spec.dtype).name, "shape": _shape(spec.shape)}


def _shape(shape: tf.TensorShape) -> list[int | None] | None:
    return None if shape.rank is None else shape.as_list()


def _made_up(spec: tf.TensorSpec, example: tuple[int, ...]) -> np.ndarray:
    shape = [_EXAMPLES, *example] if spec.shape.rank is None else spec.shape.as_list()
    filling = [_EXAMPLES, *example] if len(shape) == len(example) + 1 else [_EXAMPLES] * len(shape)
    shape = [other if size is None else size for size, other in zip(shape, filling, strict=True)]
    if spec.dtype.is_floating:
        return np.random.default_rng(20260102).uniform(-1, 1, shape).astype(spec.dtype.as_numpy_dtype)
    return np.zeros(shape, spec.dtype.as_numpy_dtype)
