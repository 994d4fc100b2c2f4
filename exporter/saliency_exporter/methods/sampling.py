"""Loops over an example's samples, a few at a time, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from saliency_exporter.methods.model import SAMPLES_OF_A_STEP

CONSIDERED_AT = SAMPLES_OF_A_STEP[-1]
"""A loop considers whether to go on with an example at multiples of so many samples.

It is one number for every batch size, and the samples of a step divide it: so when an example stops depends
on itself alone. Of fewer samples the error is hardly known."""


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


def samples_at_once(batch: tf.Tensor, images_at_once: int, least: int = 1) -> tf.Tensor:
    """S, how many samples of each example a step takes, int32 scalar: `samples_of_a_step` of tensors.

    Args:
        batch: int32 scalar, the number of examples.
        images_at_once: how many images a step may take.
        least: how many of each example it takes in any case; 2 where samples come in pairs.
    """
    samples = tf.constant(SAMPLES_OF_A_STEP)
    return tf.reduce_max(tf.where(samples * batch <= images_at_once, samples, least))


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
    _, *after = _loop(count, at_once, step, state, lambda done, count, *state: count)
    return tuple(after)


def until_accurate(
    count: tf.Tensor,
    target: tf.Tensor,
    at_once: tf.Tensor,
    step: Callable[..., tuple[tf.Tensor, ...]],
    state: tuple[tf.Tensor, ...],
    error: Callable[..., tf.Tensor],
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """As `over_samples`, but an example is done when its error is at or below its target.

    That is considered at multiples of `CONSIDERED_AT`, so it depends neither on the batch size nor on
    neighbors, but for an error within rounding of the target. An example that is done is from then on one
    that has asked for as many samples as it has: its state stays, bit for bit, while the loop goes on for
    others.

    Args:
        count: int32 [B], how many samples each example asks for at most, ≥ 1.
        target: float32 [B], ≥ 0; 0 for all samples.
        at_once: S, see `samples_at_once`.
        step: `Step` and the state to the new state, of the same shapes.
        state: before the first sample.
        error: number of samples of each example, int32 [B], and the state to the error, float32 [B].

    Returns:
        How many samples each example has, int32 [B], and the state.
    """

    def considered(done: tf.Tensor, count: tf.Tensor, *state: tf.Tensor) -> tf.Tensor:
        so_far = tf.minimum(count, done)
        reached = (target > 0.0) & (error(so_far, *state) <= target)
        return tf.where(reached, so_far, count)

    def asked_for(done: tf.Tensor, count: tf.Tensor, *state: tf.Tensor) -> tf.Tensor:
        # An error takes passes over the memory, and is computed where it decides something.
        decides = tf.reduce_any((target > 0.0) & (done < count)) & (done % CONSIDERED_AT == 0)
        return tf.cond(decides, lambda: considered(done, count, *state), lambda: count)

    used, *after = _loop(count, at_once, step, state, asked_for)
    return used, tuple(after)


def _loop(
    count: tf.Tensor,
    at_once: tf.Tensor,
    step: Callable[..., tuple[tf.Tensor, ...]],
    state: tuple[tf.Tensor, ...],
    asked_for: Callable[..., tf.Tensor],
) -> tuple[tf.Tensor, ...]:
    """How many samples each example has asked for in the end, int32 [B], and the state after these.

    Args:
        count: int32 [B], how many samples each example asks for before the first one.
        at_once: S.
        step: `Step` and the state to the new state.
        state: before the first sample.
        asked_for: the number of samples done, int32 scalar, `count` and the state to the new `count`, which
            may be less than it was, and not less than what is done of an example.
    """

    def body(first: tf.Tensor, count: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        samples = first + tf.range(at_once)
        sample = tf.reshape(tf.minimum(samples, count[:, tf.newaxis] - 1), [-1])
        after = step(Step(first, sample, samples < count[:, tf.newaxis]), *state)
        fixed = [tf.ensure_shape(new, old.shape) for new, old in zip(after, state, strict=True)]
        done = first + at_once
        return done, tf.ensure_shape(asked_for(done, count, *fixed), count.shape), *fixed

    _, *after = tf.while_loop(
        lambda first, count, *_: first < tf.reduce_max(count),
        body,
        (tf.constant(0), count, *state),
        parallel_iterations=1,
    )
    return tuple(after)
