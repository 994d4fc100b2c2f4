"""A model of one example that has no batch: [H, W, C] to [classes], as one of a batch of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from saliency_exporter.sources.any_batch import fixed_batch

_CHANNELS = (1, 3, 4)
"""Sizes of the last axis of a picture; of more there is no telling a picture from a batch of rows."""

Forward = Callable[[tf.Tensor], Any]


def with_batch_of_one(
    spec: tf.TensorSpec, forward: Forward, outputs: Iterable[tf.TensorSpec | tf.Tensor]
) -> tuple[tf.TensorSpec, Forward]:
    """A forward pass with a batch, of one that has none: of its input, or of its output alone.

    The first axis of an input is a batch if an output has the same. An input [8, 8, 3] whose scores are
    [1, 4] or [4] is one example, and so is [1, 8, 8, 3] whose scores are [4].

    Args:
        spec: of the input that is explained, as the model declares it.
        forward: that input to the model's output.
        outputs: what it returns, by dtype and shape.

    Returns:
        The spec with a batch of 1, and [1, …] to outputs [1, …]; what was given, where there is a batch.
    """
    if not _has_no_batch(spec, [o for o in outputs if tf.as_dtype(o.dtype).is_floating]):
        return spec, forward
    has_axis = fixed_batch(spec) == 1

    def of_one(x: tf.Tensor) -> Any:
        return tf.nest.map_structure(_with_batch, forward(x if has_axis else x[0]))

    return spec if has_axis else tf.TensorSpec([1, *spec.shape], spec.dtype, spec.name), of_one


def _has_no_batch(spec: tf.TensorSpec, outputs: list[tf.TensorSpec | tf.Tensor]) -> bool:
    if not spec.shape.rank or not outputs or any(output.shape.rank is None for output in outputs):
        return False
    size = fixed_batch(spec)
    if size is None and (spec.shape.rank != 3 or spec.shape[-1] not in _CHANNELS):
        return False
    firsts = [output.shape[0] for output in outputs if output.shape.rank]
    return bool(firsts) and all(first is not None and first != size for first in firsts)


def _with_batch(value: Any) -> Any:
    if not tf.is_tensor(value) or value.shape.rank is None:
        return value
    return value if value.shape.rank > 1 and value.shape[0] == 1 else value[tf.newaxis]
