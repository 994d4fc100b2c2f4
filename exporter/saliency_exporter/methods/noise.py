"""Noise that is a function of a seed and a sample's number alone, with the same bits wherever it is drawn."""

from __future__ import annotations

import math

import tensorflow as tf


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


def opposite_pairs(sample: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The number of a sample's draw, int32, and the sign that it has there, float32 1 or −1; shapes as given.

    Samples 2k and 2k + 1 have ε and −ε with ε draw k: so what is odd in the noise cancels in the mean of a
    pair, and that mean varies less than one of two independent samples.

    Args:
        sample: int32, the sample's number, ≥ 0.
    """
    return sample // 2, 1.0 - 2.0 * tf.cast(sample % 2, tf.float32)


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
