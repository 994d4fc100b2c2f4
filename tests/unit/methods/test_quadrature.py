"""The Gauss–Legendre rules of the graph against NumPy's, and against what they integrate exactly."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from saliency_exporter.methods.quadrature import gauss_legendre

COUNTS = (1, 2, 3, 5, 10, 32, 33, 34, 50, 64, 333, 1000)
ULP = 2.0**-24
"""Half of float32's relative spacing: what a value is off by that is exact before it is rounded."""


@pytest.fixture(scope="module", params=[False, True], ids=["uncompiled", "compiled"])
def rules(request):
    """The rules of all counts, computed in one call: nodes and weights by count."""
    count = np.repeat(COUNTS, COUNTS).astype(np.int32)
    number = np.concatenate([np.arange(n, dtype=np.int32) for n in COUNTS])
    rule = tf.function(gauss_legendre, jit_compile=request.param)
    nodes, weights = (part.numpy().astype(np.float64) for part in rule(count, number))
    return {n: (nodes[count == n], weights[count == n]) for n in COUNTS}


@pytest.mark.parametrize("count", COUNTS)
def test_nodes_and_weights_are_numpys_to_float32_rounding(rules, count):
    x, w = np.polynomial.legendre.leggauss(count)
    nodes, weights = rules[count]
    # Two roundings: that of float32, and of the table or series, which is below it.
    np.testing.assert_allclose(nodes, (1 + x) / 2, rtol=2 * ULP, atol=0)
    # Of 1000 nodes, NumPy's own weights are off by 1e-8.
    np.testing.assert_allclose(weights, w / 2, rtol=2 * ULP + 1e-8, atol=0)


@pytest.mark.parametrize("count", COUNTS)
def test_a_polynomial_of_degree_2n_minus_1_is_integrated_exactly_and_the_next_one_is_not(rules, count):
    nodes, weights = rules[count]
    # Legendre polynomials of the degree, moved to (0, 1): their integral is 0, and they keep within [−1, 1].
    for degree in {1, count - 1, 2 * count - 1} - {0}:
        values = np.polynomial.legendre.Legendre.basis(degree)(2 * nodes - 1)
        # A node's rounding moves the value by the slope, which is at most degree².
        assert abs(np.sum(weights * values)) < ULP * (4 + degree**2)
    if count <= 10:
        square = np.polynomial.legendre.Legendre.basis(count)(2 * nodes - 1) ** 2
        # The square of the polynomial whose zeros are the nodes, of degree 2n: the rule sees nothing of it.
        assert abs(np.sum(weights * square) - 1 / (2 * count + 1)) > 0.9 / (2 * count + 1)


@pytest.mark.parametrize("count", [2000, 30_000, 1_000_000])
def test_rules_beyond_those_that_numpy_can_make_integrate_an_oscillation(count):
    nodes, weights = (part.numpy() for part in gauss_legendre(tf.fill([count], count), tf.range(count)))
    assert (np.diff(nodes.astype(np.float64)) >= 0).all()
    assert nodes[0] > 0
    assert nodes[-1] <= 1
    values = weights.astype(np.float64) * np.cos(100 * nodes.astype(np.float64))
    assert np.sum(weights, dtype=np.float64) == pytest.approx(1, abs=ULP)
    assert np.sum(values) == pytest.approx(np.sin(100) / 100, abs=1e-6)
