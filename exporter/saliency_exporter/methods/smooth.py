"""SmoothGrad: the mean gradient over noisy copies of the input, with its spread."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from .gradients import ScoreFunction, chosen_class, score_gradient


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
    x: tf.Tensor,
    class_index: tf.Tensor,
    num_samples: tf.Tensor,
    noise_level: tf.Tensor,
    seed: tf.Tensor,
) -> Smooth:
    """The mean of ∂S_c/∂x at x + N(0, σ²) over `num_samples` samples.

    Source: Smilkov et al. 2017, arXiv 1706.03825, section 2; σ = noise_level · (max(x) − min(x)) over the
    example's own input. The class comes from the clean image. Mean and variance are running ones (Welford
    1962), so memory does not grow with the number of samples. The variance is VarGrad (Adebayo et al. 2018,
    arXiv 1810.03292); SmoothGrad² is variance · (n − 1)/n + gradients².

    Args:
        score_function: the model.
        x: model input, float32 [B, H, W, C].
        class_index: int32 [B]; −1 is the class with the highest score of the clean image.
        num_samples: int32 [B], ≥ 1.
        noise_level: float32 [B], in [0, 1].
        seed: int32 [B]; the noise of sample i depends on (seed, i) alone.
    """
    scores = score_function(x)
    class_index = chosen_class(scores, class_index)
    sigma = noise_level * input_range(x)
    per_example = (-1,) + (1,) * (x.shape.rank - 1)

    def step(
        sample: tf.Tensor, mean: tf.Tensor, sum_of_squares: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        noise = standard_normal(seed, sample, tuple(x.shape[1:]))
        noisy = x + tf.reshape(sigma, per_example) * noise
        gradient = score_gradient(score_function(noisy), noisy, class_index)
        # Examples of one batch may ask for different numbers of samples: what is done stays as it is.
        active = tf.reshape(sample < num_samples, per_example)
        difference = gradient - mean
        new_mean = mean + difference / tf.cast(sample + 1, tf.float32)
        new_sum = sum_of_squares + difference * (gradient - new_mean)
        return sample + 1, tf.where(active, new_mean, mean), tf.where(active, new_sum, sum_of_squares)

    most = tf.reduce_max(num_samples)
    _, mean, sum_of_squares = tf.while_loop(
        lambda sample, *_: sample < most,
        step,
        (tf.constant(0), tf.zeros_like(x), tf.zeros_like(x)),
        parallel_iterations=1,
    )
    n = tf.cast(num_samples, tf.float32)
    # 0/0 is NaN: the spread of one sample is not known.
    variance = sum_of_squares / tf.reshape(n - 1.0, per_example)
    return Smooth(mean, variance, relative_error(mean, variance, n), scores, class_index)


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

    The bits are those of Philox (Salmon et al. 2011) keyed by (seed, sample), the same compiled and
    uncompiled. TensorFlow's own normal and uniform floats take different bits of that stream when they are
    compiled, so the floats are made here: 23 bits to the open unit interval, then Box and Muller 1958.
    Compiled and uncompiled values agree to float32 rounding.

    Args:
        seed: int32 [B].
        sample: int32 scalar, the sample's number.
        shape: shape of one example.
    """
    size = math.prod(shape)
    pairs = (size + 1) // 2

    def bits_of(example_seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform(
            (2, pairs), tf.stack([example_seed, sample]), None, None, tf.int32, alg="philox"
        )

    bits = tf.map_fn(bits_of, seed, fn_output_signature=tf.TensorSpec((2, pairs), tf.int32))
    radius = tf.sqrt(-2.0 * tf.math.log(_open_unit(bits[:, 0])))
    cosine, sine = _unit_vector(bits[:, 1])
    normal = tf.concat([radius * cosine, radius * sine], axis=1)[:, :size]
    return tf.reshape(normal, (-1, *shape))


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
