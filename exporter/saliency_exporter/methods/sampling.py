"""Loops over an example's samples, a few at a time, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Step(NamedTuple):
    """What a step of a loop takes: S samples of each of B examples, which a model sees as B · S rows.

    Attributes:
        first: int32 scalar, number of the step's first sample.
        sample: int32 [B · S], the number of each row's sample. Beyond those that an example has asked for it
            is the last of these again, which is as finite as that one.
        active: bool [B, S], which samples have been asked for; the others count for nothing.
    """

    first: tf.Tensor
    sample: tf.Tensor
    active: tf.Tensor


def samples_at_once(batch: tf.Tensor, images_at_once: int) -> tf.Tensor:
    """S, how many samples of each example a step takes, int32 scalar.

    Args:
        batch: int32 scalar, the number of examples.
        images_at_once: how many images a step may take; at least one of each example it does.
    """
    return tf.maximum(1, images_at_once // batch)


def as_rows(values: tf.Tensor, at_once: tf.Tensor) -> tf.Tensor:
    """Each example's values S times, [B, …] to [B · S, …]."""
    batch, shape = tf.shape(values)[0], values.shape[1:]
    copies = tf.broadcast_to(values[:, tf.newaxis], _of_shape([batch, at_once], shape))
    return tf.ensure_shape(tf.reshape(copies, _of_shape([batch * at_once], shape)), (None, *shape))


def by_example(rows: tf.Tensor, at_once: tf.Tensor) -> tf.Tensor:
    """Rows apart by example, [B · S, …] to [B, S, …]."""
    return tf.reshape(rows, _of_shape([tf.shape(rows)[0] // at_once, at_once], rows.shape[1:]))


def _of_shape(first: list[tf.Tensor], rest: tf.TensorShape) -> tf.Tensor:
    return tf.concat([first, tf.constant(rest.as_list(), tf.int32)], 0)


def over_samples(
    count: tf.Tensor,
    at_once: tf.Tensor,
    step: Callable[..., tuple[tf.Tensor, ...]],
    state: tuple[tf.Tensor, ...],
) -> tuple[tf.Tensor, ...]:
    """The state after a loop over all samples.

    Args:
        count: int32 [B], how many samples each example asks for, ≥ 1.
        at_once: S, see `samples_at_once`.
        step: `Step` and the state to the new state, of the same shapes.
        state: before the first sample.
    """

    def body(first: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        samples = first + tf.range(at_once)
        sample = tf.reshape(tf.minimum(samples, count[:, tf.newaxis] - 1), [-1])
        after = step(Step(first, sample, samples < count[:, tf.newaxis]), *state)
        fixed = (tf.ensure_shape(new, old.shape) for new, old in zip(after, state, strict=True))
        return first + at_once, *fixed

    most = tf.reduce_max(count)
    _, *after = tf.while_loop(
        lambda first, *_: first < most, body, (tf.constant(0), *state), parallel_iterations=1
    )
    return tuple(after)
