"""SmoothGrad: the mean gradient over noisy copies of the input, with its spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from saliency_exporter.methods.declarations import CLASS_INDEX, Explained, Method, Output, Parameter
from saliency_exporter.methods.model import (
    IMAGES_AT_ONCE,
    GradientFunction,
    Model,
    ScoreFunction,
    chosen_class,
)
from saliency_exporter.methods.noise import standard_normal


class Smooth(NamedTuple):
    """SmoothGrad of one class score per example.

    Attributes:
        gradients: float32 [B, H, W, C], the mean over samples.
        variance: float32 [B, H, W, C], unbiased sample variance (VarGrad); NaN where num_samples is 1.
        relative_error: float32 [B], ‖standard error of the mean‖₂ / ‖mean‖₂; NaN where num_samples is 1.
        scores: float32 [B, classes], of the clean image.
        class_index: int32 [B], the class that was explained.
    """

    gradients: tf.Tensor
    variance: tf.Tensor
    relative_error: tf.Tensor
    scores: tf.Tensor
    class_index: tf.Tensor


def smooth(
    score_function: ScoreFunction,
    gradient_function: GradientFunction,
    x: tf.Tensor,
    class_index: tf.Tensor,
    num_samples: tf.Tensor,
    noise_level: tf.Tensor,
    seed: tf.Tensor,
    *,
    images_at_once: int = IMAGES_AT_ONCE,
) -> Smooth:
    """The mean of ∂S_c/∂x at x + N(0, σ²) over `num_samples` samples.

    Source: Smilkov et al. 2017, arXiv 1706.03825, section 2; σ = noise_level · (max(x) − min(x)) over the
    example's own input. The class comes from the clean image. Mean and variance are running ones, so memory
    does not grow with the number of samples. The variance is VarGrad (Adebayo et al. 2018,
    arXiv 1810.03292); SmoothGrad² is variance · (n − 1)/n + gradients².

    Args:
        score_function: the model.
        gradient_function: the gradient of its class scores.
        x: model input, float32 [B, H, W, C].
        class_index: int32 [B]; −1 is the class with the highest score of the clean image.
        num_samples: int32 [B], ≥ 1.
        noise_level: float32 [B], in [0, 1].
        seed: int32 [B]; the noise of sample i depends on (seed, i) alone.
        images_at_once: how many images a step of the loop may take; of the result it changes rounding alone.
    """
    scores = score_function(x)
    class_index = chosen_class(scores, class_index)
    sigma = noise_level * input_range(x)
    batch, shape = tf.shape(x)[0], tuple(x.shape[1:])
    at_once = tf.maximum(1, images_at_once // batch)
    # Axes [B, samples of a step, …]; the model sees the first two as one.
    rows = tf.concat([[batch * at_once], shape], 0)
    per_sample = tf.concat([[batch, at_once], shape], 0)

    def repeated(value: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.broadcast_to(value[:, tf.newaxis], [batch, at_once]), [-1])

    row_seed, row_class = repeated(seed), repeated(class_index)
    copies = tf.reshape(tf.broadcast_to(x[:, tf.newaxis], per_sample), rows)
    copies = tf.ensure_shape(copies, (None, *shape))
    row_sigma = tf.reshape(repeated(sigma), (-1,) + (1,) * len(shape))

    def step(
        first: tf.Tensor, mean: tf.Tensor, sum_of_squares: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        samples = first + tf.range(at_once)
        # Examples of one batch may ask for different numbers of samples: what is beyond them is their last
        # sample again, which is as finite as that, and counts for nothing.
        row_sample = tf.reshape(tf.minimum(samples, num_samples[:, tf.newaxis] - 1), [-1])
        noisy = copies + row_sigma * standard_normal(row_seed, row_sample, shape)
        gradient = tf.reshape(gradient_function(noisy, row_class), per_sample)
        active = samples < num_samples[:, tf.newaxis]
        mean, sum_of_squares = merged(first, mean, sum_of_squares, gradient, active)
        return first + at_once, tf.ensure_shape(mean, x.shape), tf.ensure_shape(sum_of_squares, x.shape)

    most = tf.reduce_max(num_samples)
    _, mean, sum_of_squares = tf.while_loop(
        lambda first, *_: first < most,
        step,
        (tf.constant(0), tf.zeros_like(x), tf.zeros_like(x)),
        parallel_iterations=1,
    )
    per_example = (-1,) + (1,) * len(shape)
    n = tf.cast(num_samples, tf.float32)
    # 0/0 is NaN: the spread of one sample is not known.
    variance = sum_of_squares / tf.reshape(n - 1.0, per_example)
    return Smooth(mean, variance, relative_error(mean, variance, n), scores, class_index)


def merged(
    done: tf.Tensor, mean: tf.Tensor, sum_of_squares: tf.Tensor, gradient: tf.Tensor, active: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Running mean and sum of squared deviations with a few more samples in them (Chan et al. 1979).

    Args:
        done: int32 scalar, how many samples are in them; of an example that has no active one, at least as
            many as it has asked for.
        mean: float32 [B, …].
        sum_of_squares: float32 [B, …], about the mean.
        gradient: float32 [B, S, …], more samples.
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
    first = gradient[:, 0]
    per_sample = tf.concat([tf.shape(weight), [1] * (mean.shape.rank - 1)], 0)
    deviations = (gradient - first[:, tf.newaxis]) * tf.reshape(weight, per_sample)
    total, squares = tf.reduce_sum(deviations, axis=1), tf.reduce_sum(tf.square(deviations), axis=1)
    offset = total / tf.reshape(tf.maximum(more, 1.0), per_example)
    squares = tf.maximum(squares - total * offset, 0.0)
    before = tf.cast(done, tf.float32)
    part = tf.reshape(more / (before + more), per_example)
    difference = (first - mean) + offset
    return mean + difference * part, sum_of_squares + squares + tf.square(difference) * (part * before)


def input_range(x: tf.Tensor) -> tf.Tensor:
    """max(x) − min(x) of each example, float32 [B]."""
    axes = list(range(1, x.shape.rank))
    return tf.reduce_max(x, axes) - tf.reduce_min(x, axes)


def relative_error(mean: tf.Tensor, variance: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """‖√(variance/n)‖₂ / ‖mean‖₂ of each example, float32 [B]; 0 where the gradient does not vary at all."""
    axes = list(range(1, mean.shape.rank))
    standard_error = tf.sqrt(tf.reduce_sum(variance, axes) / n)
    norm = tf.sqrt(tf.reduce_sum(tf.square(mean), axes))
    return tf.where(standard_error == 0.0, 0.0, standard_error / norm)


def explain(model: Model, x: tf.Tensor, parameters: Mapping[str, tf.Tensor]) -> Explained:
    """SmoothGrad of the class's unnormalized score."""
    result = smooth(
        model.scores,
        model.gradient,
        x,
        parameters[CLASS_INDEX],
        parameters["num_samples"],
        parameters["noise_level"],
        parameters["seed"],
        images_at_once=model.images_at_once,
    )
    return Explained(
        result.gradients,
        result.scores,
        result.class_index,
        {"variance": result.variance, "relative_error": result.relative_error},
    )


METHOD = Method(
    name="smooth",
    kind="sensitivity",
    summary="SmoothGrad: the mean of the gradients at noisy copies of the model input, with its spread",
    source="Smilkov et al. 2017, arXiv 1706.03825, section 2; variance: VarGrad, arXiv 1810.03292",
    explain=explain,
    parameters=(
        Parameter(
            "num_samples",
            "int32",
            default=50,
            examples=(2, 3),
            low=1,
            high="max_samples",
            help="number of noisy copies of each image",
        ),
        Parameter(
            "noise_level",
            "float32",
            default=0.15,
            examples=(0.1, 0.2),
            low=0,
            high=1,
            help="standard deviation of the noise over max(x) − min(x) of the model input x",
        ),
        Parameter(
            "seed",
            "int32",
            default=0,
            examples=(11, 7),
            help="seed of the noise; the same seed gives the same noise",
        ),
    ),
    outputs=(
        Output(
            "variance",
            per="value",
            help="unbiased sample variance of the gradient over the noise; NaN for one sample",
            verified=False,
        ),
        Output(
            "relative_error",
            per="example",
            help="norm of the mean's standard error over the norm of the mean; NaN for one sample",
        ),
    ),
)
