"""How far the mean of an example's samples is settled: running moments, and the error of the mean.

The error is one of the *true* mean, of infinitely many samples. ‖standard error‖ / ‖mean of the samples‖ is
not: the noise is part of that mean's norm too, so that this ratio never exceeds about 1, however noisy a map
is. Here the noise is taken out of the norm.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from saliency_exporter.methods.declarations import Output, Parameter
from saliency_exporter.methods.sampling import CONSIDERED_AT

TARGET_ERROR = "target_error"
"""The parameter of methods that stop when they are accurate enough."""

FIRST_SAMPLE_BOUND = 2**30
"""Of `first_sample`: with as many samples behind it as a call may take, numbers stay within int32."""

_ROUNDING = 16 * 2.0**-23
"""Samples whose spread is less, over the norm of their mean, differ by float32 rounding alone."""


def merged(
    done: tf.Tensor, mean: tf.Tensor, sum_of_squares: tf.Tensor, maps: tf.Tensor, active: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Running mean and sum of squared deviations with a few more samples in them (Chan et al. 1979).

    Args:
        done: int32 scalar, how many samples are in them; of an example that has no active one, at least as
            many as it has asked for.
        mean: float32 [B, …].
        sum_of_squares: float32 [B, …], about the mean.
        maps: float32 [B, S, …], of more samples.
        active: bool [B, S], which of these count; the first ones of an example, or none. The others have to
            be finite.

    Returns:
        The new mean and sum; of an example without active samples, as they were.
    """
    # Products with 0 and 1 in place of selections, and two sums over the samples: uncompiled, each operation
    # is a pass over the memory, and a selection that broadcasts is the slowest of them.
    per_example = (-1,) + (1,) * (mean.shape.rank - 1)
    weight = tf.cast(active, tf.float32)
    more = tf.reduce_sum(weight, axis=1)
    # About the first of them, so that equal samples leave no rounding behind.
    first = maps[:, 0]
    per_sample = tf.concat([tf.shape(weight), [1] * (mean.shape.rank - 1)], 0)
    deviations = (maps - first[:, tf.newaxis]) * tf.reshape(weight, per_sample)
    total, squares = tf.reduce_sum(deviations, axis=1), tf.reduce_sum(tf.square(deviations), axis=1)
    offset = total / tf.reshape(tf.maximum(more, 1.0), per_example)
    squares = tf.maximum(squares - total * offset, 0.0)
    before = tf.cast(done, tf.float32)
    part = tf.reshape(more / (before + more), per_example)
    difference = (first - mean) + offset
    return mean + difference * part, sum_of_squares + squares + tf.square(difference) * (part * before)


def variance_of(sum_of_squares: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """Sample variance, float32 [B, …]; NaN for one sample, whose spread is not known.

    Args:
        sum_of_squares: float32 [B, …], as `merged` gives it.
        n: int32 [B], how many samples are in it, ≥ 1.
    """
    return sum_of_squares / tf.reshape(_others(n), (-1,) + (1,) * (sum_of_squares.shape.rank - 1))


def _others(n: tf.Tensor) -> tf.Tensor:
    """How many samples there are beside one, float32; NaN for 0, since compiled, 0/0 may be rounding/0."""
    return tf.where(n > 1, tf.cast(n, tf.float32) - 1.0, np.nan)


def squared_differences(maps: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """Σ ‖first − second‖² over the pairs of which both samples count, float32 [B].

    Args:
        maps: float32 [B, S, …], of pairs one after the other; S is even.
        active: bool [B, S], which samples count.
    """
    # Uncompiled, a slice with a stride takes many times as long as taking halves of a last axis but one.
    first, second = tf.unstack(tf.reshape(maps, [-1, 2, math.prod(maps.shape[2:])]), axis=1)
    apart = tf.reduce_sum(tf.math.squared_difference(first, second), 1)
    both = tf.cast(active[:, 1::2], tf.float32)
    return tf.reduce_sum(tf.reshape(apart, tf.shape(both)) * both, 1)


def squared_error(squares: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """‖se‖² of a mean of independent samples, float32 [B]; NaN for one.

    Args:
        squares: float32 [B], Σ ‖sample − mean‖².
        n: int32 [B], how many samples there are, ≥ 1.
    """
    return squares / (tf.cast(n, tf.float32) * _others(n))


def squared_error_of_pairs(squares: tf.Tensor, differences: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """‖se‖² of a mean of samples that are independent pair by pair, float32 [B]; NaN for one pair.

    It is that of the pairs' means p, Σ ‖p − mean‖² / (k (k − 1)) for k pairs, since
    4 ‖p − mean‖² = 2 ‖first − mean‖² + 2 ‖second − mean‖² − ‖first − second‖². Of an odd number, the last
    sample stands for a pair, and its deviation counts twice, which is more than its share.

    Args:
        squares: float32 [B], Σ ‖sample − mean‖².
        differences: float32 [B], Σ ‖first − second‖² over pairs.
        n: int32 [B], how many samples there are, ≥ 1.
    """
    pairs = (n + 1) // 2
    k = tf.cast(pairs, tf.float32)
    between = tf.maximum(2.0 * squares - differences, 0.0) / tf.square(tf.cast(n, tf.float32))
    return between * k / _others(pairs)


def relative_error(
    mean: tf.Tensor, squared_error: tf.Tensor, n: tf.Tensor, signal: tf.Tensor | None = None
) -> tf.Tensor:
    """‖se‖₂ / √(max(‖mean‖² − ‖se‖², 0)) of each example, float32 [B], with se the mean's standard error.

    It estimates ‖mean − true mean‖₂ / ‖true mean‖₂: the expectation of ‖mean‖² is ‖true mean‖² + ‖se‖². It is
    ∞ where nothing is left of the mean, NaN where the error is, and 0 where the samples do not vary by more
    than rounding.

    Args:
        mean: float32 [B, …], as `merged` gives it.
        squared_error: float32 [B], ‖se‖².
        n: int32 [B], how many samples are in them, ≥ 1.
        signal: what the error is one of, float32 [B, …]; None for the mean itself.
    """
    squared_norm = _squared_norm(mean)
    left = (squared_norm if signal is None else _squared_norm(signal)) - squared_error
    # NaN compares false and stays NaN.
    is_rounding = squared_error * tf.cast(n, tf.float32) <= _ROUNDING**2 * squared_norm
    return tf.where(is_rounding, 0.0, tf.sqrt(squared_error / tf.maximum(left, 0.0)))


def contrast(maps: tf.Tensor) -> tf.Tensor:
    """What differs between places: maps [B, …], each less its mean over places."""
    return maps - tf.reduce_mean(maps, list(range(1, maps.shape.rank)), keepdims=True)


def total(values: tf.Tensor) -> tf.Tensor:
    """The sum over an example's values, [B, …] to [B]."""
    return tf.reduce_sum(values, list(range(1, values.shape.rank)))


def _squared_norm(values: tf.Tensor) -> tf.Tensor:
    return total(tf.square(values))


def parameters(sample: str, noise: str) -> tuple[Parameter, Parameter]:
    """`first_sample` and `target_error`, of a method that is a mean over samples.

    Args:
        sample: what one is called.
        noise: what a seed and the number of a sample decide.
    """
    return (
        Parameter(
            "first_sample",
            "int32",
            default=0,
            examples=(0, 5),
            low=0,
            high=FIRST_SAMPLE_BOUND,
            help=f"number of the first {sample}: {sample} i has {noise} of (seed, first_sample + i)",
        ),
        Parameter(
            TARGET_ERROR,
            "float32",
            default=0,
            # So small that an export is measured and warmed up with all its samples.
            examples=(0.0, 1e-6),
            low=0,
            help=f"stop where relative_error is at most this, at a multiple of {CONSIDERED_AT} {sample}s; "
            "0 never stops early",
        ),
    )


def outputs(sample: str, of: str = "map", alone: str = "one sample") -> tuple[Output, Output, Output]:
    """`relative_error`, `standard_error` and `samples_used`, of a method that is a mean over samples.

    The errors are not verified: they are computed beside the mean, which is, and of the two or three samples
    of a verification the error may well be infinite.

    Args:
        sample: what one is called.
        of: what the error is of.
        alone: of how many no error is known.
    """
    return (
        Output(
            "relative_error",
            per="example",
            help=f"distance of the {of} from that of infinitely many {sample}s, over the norm of the latter; "
            f"above 1 it is mostly noise; infinity where nothing is left of it, NaN for {alone}",
            verified=False,
        ),
        Output(
            "standard_error",
            per="example",
            help=f"‖se‖, the norm of the standard error of the {of.rstrip(',')}; with it, means over several "
            f"calls have an error; NaN for {alone}",
            verified=False,
        ),
        Output(
            "samples_used",
            per="example",
            help=f"number of {sample}s that the map is the mean of",
            dtype="int32",
        ),
    )
