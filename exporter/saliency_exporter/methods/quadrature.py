"""The Gauss–Legendre rule as a function of its number of nodes, which each example of a batch has its own of.

A rule's nodes are independent of one another here: each is computed where it is needed, so that nothing
depends on how many there are but which of them are asked for. Of up to `_WRITTEN` nodes the rule is a table.
Beyond, node and weight come from the asymptotic series of the angle θ in the cosine of a Legendre
polynomial's zero, cut after its second term, as in Bogaert 2014 (SIAM J. Sci. Comput. 36(3), section 2):

    θ(k) = x + v² (cot x − 1/x) / 8 + O(v⁴),  x = v j(k),  v = 1 / (n + 1/2)

with j(k) the k-th zero of the Bessel function J₀, by McMahon's series (DLMF 10.21.19) but for the first ones.
The weight is sin θ · dθ/dk of the same series: the derivative of a Legendre polynomial at its zeros is the
speed of its phase, by the constant Wronskian of its equation. What is cut is below 4·10⁻⁸ of a weight at
33 nodes, 7·10⁻⁹ at 50, and less beyond: float32 rounds by more.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

_WRITTEN = 32
"""Rules of up to so many nodes are written into the graph, 8 KB of them."""

_ZEROS = (2.404825557695773, 5.520078110286311, 8.653727912911013, 11.791534439014281, 14.930917708487787)
"""Of the Bessel function J₀ (Abramowitz and Stegun 1964, table 9.5)."""

_SLOPES = (0.5191474972894669, 0.3402648065583681, 0.2714522999283819, 0.2324598313647248, 0.2065464331331239)
"""|J₁| there."""

_MCMAHON = (1.0, -124 / 3, 120928 / 15, -401743168 / 105)
"""Coefficients of (8β)⁻¹, (8β)⁻³, (8β)⁻⁵, (8β)⁻⁷; the first one left out is 7·10⁻¹⁰ at the sixth zero."""


def gauss_legendre(count: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Nodes in (0, 1), ascending, and weights, whose sum is 1, of rules for the integral from 0 to 1.

    Args:
        count: int32, nodes of the rule, ≥ 1.
        number: int32 of the same shape, which of them, in [0, count).

    Returns:
        Nodes and weights, float32 of that shape.
    """
    nodes, weights = (tf.constant(values) for values in _written_out())
    place = tf.minimum(count, _WRITTEN)
    place = place * (place - 1) // 2 + tf.minimum(number, place - 1)
    node, weight = _asymptotic(count, number)
    few = count <= _WRITTEN
    node = tf.where(few, tf.gather(nodes, place), node)
    weight = tf.where(few, tf.gather(weights, place), weight)
    return tf.cast(node, tf.float32), tf.cast(weight, tf.float32)


def _written_out() -> tuple[np.ndarray, np.ndarray]:
    """The rules of 1 to `_WRITTEN` nodes, one after the other, float64 each."""
    rules = [np.polynomial.legendre.leggauss(count) for count in range(1, _WRITTEN + 1)]
    return np.concatenate([(1 + x) / 2 for x, _ in rules]), np.concatenate([w / 2 for _, w in rules])


def _asymptotic(count: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Node and weight, float64, of a rule of many nodes."""
    # The rule is symmetric, and the series is that of the half that begins at the angle 0.
    k = tf.minimum(number + 1, count - number)
    zero, zero_step = _bessel_zero(k)
    v = 1.0 / (tf.cast(count, tf.float64) + 0.5)
    x = v * zero
    sine = tf.sin(x)
    theta = x + v * v * (tf.cos(x) / sine - 1.0 / x) / 8
    theta_step = v * zero_step * (1.0 + v * v * (1.0 / (x * x) - 1.0 / (sine * sine)) / 8)
    lower = tf.square(tf.sin(theta / 2))
    return tf.where(number < k, lower, 1.0 - lower), tf.sin(theta) * theta_step / 2


def _bessel_zero(k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The k-th zero j of J₀, k ≥ 1, and dj/dk, float64. At a zero, dj/dk is 2 / (j J₁(j)²)."""
    beta = (tf.cast(k, tf.float64) - 0.25) * math.pi
    power, zero, step = 1.0 / (8 * beta), beta, tf.ones_like(beta)
    for order, coefficient in zip((1, 3, 5, 7), _MCMAHON, strict=True):
        zero += coefficient * power
        step -= order * coefficient * power / beta
        power /= tf.square(8 * beta)
    known = tf.constant(_ZEROS, tf.float64)
    known_step = 2.0 / (known * tf.square(tf.constant(_SLOPES, tf.float64)))
    place = tf.minimum(k, len(_ZEROS)) - 1
    first = k <= len(_ZEROS)
    return (
        tf.where(first, tf.gather(known, place), zero),
        tf.where(first, tf.gather(known_step, place), math.pi * step),
    )
