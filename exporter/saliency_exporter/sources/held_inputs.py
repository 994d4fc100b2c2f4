"""Of several inputs: the one that is explained, and the constants that the others are held at."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from saliency_exporter.errors import ExportError
from saliency_exporter.sources.choices import Choices


def explained_input(name: str, specs: Mapping[str, tf.TensorSpec], choices: Choices) -> str:
    """The name of the input that is explained.

    Args:
        name: the model, for messages.
        specs: every input of the model, in order.
        choices: input and held, where the user gave them.

    Raises:
        ExportError: there is no such input, there are several and none is named, or one of the others is not
            held at a value.
    """
    unknown = [key for key in (choices.input, *choices.held) if key is not None and key not in specs]
    if unknown:
        raise ExportError(f"{name} has no input {unknown[0]!r}", hint=f"it has {', '.join(specs)}")
    free = [key for key in specs if key not in choices.held]
    explained = choices.input or (free[0] if len(free) == 1 else None)
    if explained is None:
        raise ExportError(
            f"{name} has {len(specs)} inputs ({', '.join(specs)}); one can be explained",
            hint="choose it with --input NAME, and give every other its value with --hold NAME=VALUE "
            "(a number, true, false, or a .npy file with one example's)",
        )
    if explained in choices.held:
        raise ExportError(f"input {explained} of {name} is both explained and held", hint="hold the others")
    missing = [key for key in free if key != explained]
    if missing:
        raise ExportError(
            f"{name} has {len(specs)} inputs, and {', '.join(missing)} has no value",
            hint=f"hold it at one: --hold {missing[0]}=VALUE (a number, true, false, or a .npy file with one "
            "example's)",
        )
    return explained


def held_inputs(name: str, specs: Mapping[str, tf.TensorSpec], choices: Choices) -> dict[str, np.ndarray]:
    """The value of one example of every held input: of the input's dtype and shape without the batch.

    Raises:
        ExportError: a value is not of the input's shape, or changes when it is cast to its dtype.
    """
    return {key: _fitted(f"input {key} of {name}", specs[key], value) for key, value in choices.held.items()}


def for_batch_of(x: tf.Tensor, value: np.ndarray, spec: tf.TensorSpec) -> tf.Tensor:
    """A held value for each example of x: [B, *value.shape]; as it is for an input without a batch."""
    if spec.shape.rank == 0:
        return tf.constant(value)
    return tf.broadcast_to(tf.constant(value), tf.concat([tf.shape(x)[:1], value.shape], axis=0))


def describe(choices: Choices, explained: str) -> str:
    """What was chosen, for the manifest: "" for a model with one input."""
    if not choices.held:
        return ""
    values = ", ".join(
        f"{key} = {value}" if value.ndim == 0 else f"{key} = an array {list(value.shape)}"
        for key, value in choices.held.items()
    )
    return f", input {explained}, with {values}"


def _fitted(what: str, spec: tf.TensorSpec, value: np.ndarray) -> np.ndarray:
    if spec.dtype == tf.string:
        raise ExportError(
            f"{what} takes strings, which cannot be held",
            hint="write a function of the other input, and export it as module:callable",
        )
    if value.dtype.kind not in "biuf":
        raise ExportError(f"{what} takes {spec.dtype.name}; {_shown(value)} is none")
    # A float constant is exact to the model's own precision; a whole number or a truth value must stay one.
    with np.errstate(invalid="ignore", over="ignore"):
        cast = value.astype(spec.dtype.as_numpy_dtype)
    lost = np.isinf(cast) & np.isfinite(value) if spec.dtype.is_floating else cast != value
    if np.any(lost):
        raise ExportError(f"{what} takes {_range(spec.dtype)}; {_shown(value)} is none")
    if spec.shape.rank is None:
        return cast
    shape = spec.shape[1:].as_list() if spec.shape.rank else []
    if value.ndim == 0 and None not in shape:
        return np.broadcast_to(cast, shape).copy()
    if len(shape) != value.ndim or any(s not in (None, v) for s, v in zip(shape, value.shape, strict=True)):
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ExportError(
            f"{what} takes [{sizes}] for one example; the value has shape {list(value.shape)}",
            hint="give a number for all elements, or a .npy file with one example's array, without the batch",
        )
    return cast


def _range(dtype: tf.DType) -> str:
    """A dtype by name, with the least and the greatest value of those that have such."""
    return dtype.name if dtype == tf.bool else f"{dtype.name}, from {dtype.min} to {dtype.max}"


def _shown(value: np.ndarray) -> str:
    return str(value) if value.ndim == 0 else f"an array of {value.dtype}"
