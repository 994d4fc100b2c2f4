"""SmoothGrad: the mean gradient over noisy copies of the input, with its spread."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from .gradients import GradientFunction, ScoreFunction, chosen_class

IMAGES_AT_ONCE = 10
"""A step of the loop takes as many samples of each example as make up to that many images, and at least one.

One image at a time does not fill a device, and waits for the weights: with ten, an uncompiled sample of
ResNet50 takes a third less processor time. Samples beyond `num_samples` in the last step are work for
nothing: numbers that people ask for are multiples of ten."""


def samples_of_a_step(batch: int, images_at_once: int = IMAGES_AT_ONCE) -> int:
    """How many samples of each example a step of the loop takes."""
    return max(1, images_at_once // batch)


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


def standard_normal(seed: tf.Tensor, sample: tf.Tensor, shape: tuple[int, ...]) -> tf.Tensor:
    """Standard normal noise that each example draws on its own, float32 [B, *shape].

    The bits are those of `random_bits`. TensorFlow's own normal and uniform floats take different bits of the
    same stream when they are compiled, so the floats are made here: 23 bits to the open unit interval, then
    Box and Muller 1958. Floats made of the same bits agree to float32 rounding, whatever computes them.

    Args:
        seed: int32 [B].
        sample: int32, scalar or [B], the sample's number.
        shape: shape of one example.
    """
    size = math.prod(shape)
    normal = normal_of(random_bits(seed, sample, (size + 1) // 2))
    return tf.reshape(normal[:, :size], (-1, *shape))


def random_bits(seed: tf.Tensor, sample: tf.Tensor, pairs: int) -> tf.Tensor:
    """Random integers of each example, a function of its seed and the sample's number, int32 [B, 2, pairs].

    Philox4x32-10 (Salmon et al. 2011), a counter's blocks under a key that is Philox of (seed, sample). There
    is no rounding in it: the bits are the same compiled, uncompiled, on every device and at every position in
    a batch.

    Args:
        seed: int32 [B].
        sample: int32, scalar or [B].
        pairs: how many integers in each of the two rows.
    """

    def bits_of(key: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform((2, pairs), key, None, None, tf.int32, alg="philox")

    keys = tf.stack([seed, tf.broadcast_to(sample, tf.shape(seed))], axis=1)
    return tf.map_fn(bits_of, keys, fn_output_signature=tf.TensorSpec((2, pairs), tf.int32))


def normal_of(bits: tf.Tensor) -> tf.Tensor:
    """Independent standard normal numbers from independent random integers (Box and Muller 1958).

    Args:
        bits: int32 [B, 2, pairs].

    Returns:
        float32 [B, 2 · pairs], each within a few units in the last place of its pair's radius.
    """
    radius = tf.sqrt(-2.0 * tf.math.log(_open_unit(bits[:, 0])))
    cosine, sine = _unit_vector(bits[:, 1])
    return tf.concat([radius * cosine, radius * sine], axis=1)


def _open_unit(bits: tf.Tensor) -> tf.Tensor:
    """Uniform in (0, 1) from the high 23 bits of int32."""
    high_bits = tf.bitwise.right_shift(tf.bitcast(bits, tf.uint32), tf.constant(9, tf.uint32))
    return (tf.cast(tf.bitcast(high_bits, tf.int32), tf.float32) + 0.5) * 2.0**-23


def _unit_vector(bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cosine and sine of an angle that is uniform on the circle, from int32 bits.

    The high 23 bits choose the angle in the quarter |θ| ≤ π/4, where Taylor polynomials are exact to
    float32 (the first term left out is below 3e-8) and cost a fraction of a general cosine and sine; two of
    the low bits choose the quarter.
    """
    theta = (math.pi / 4) * (2.0 * _open_unit(bits) - 1.0)
    square = theta * theta
    cosine = _polynomial(square, [(-1) ** k / math.factorial(2 * k) for k in range(5)])
    sine = theta * _polynomial(square, [(-1) ** k / math.factorial(2 * k + 1) for k in range(5)])
    sign = 1.0 - tf.cast(bits & 2, tf.float32)
    swapped = (bits & 1) == 1
    return sign * tf.where(swapped, sine, cosine), sign * tf.where(swapped, cosine, sine)


def _polynomial(x: tf.Tensor, coefficients: list[float]) -> tf.Tensor:
    """Σ coefficients[k] · xᵏ, by Horner's scheme."""
    *lower, highest = coefficients
    value = highest * x + lower.pop()
    while lower:
        value = value * x + lower.pop()
    return value
