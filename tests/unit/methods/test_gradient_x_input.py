"""Gradient × input against what it is equal to where a score is linear in pieces through the origin."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

SHAPE = (6, 5, 2)
METHODS = ("gradients", "gradient_x_input")
CLASSES = [2, 0, 1]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def weights() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(n, m)) / n**0.5 for n, m in ((60, 20), (20, 12), (12, 3))]


def epsilon_lrp(weights: list[np.ndarray], x: np.ndarray, class_index: int, epsilon: float) -> np.ndarray:
    """Relevance by the ε-rule, R_i = Σ_j x_i w_ij R_j / (z_j + ε sign z_j): Bach et al. 2015, eq. 58."""
    inputs = [x.ravel()]
    for weight in weights:
        z = inputs[-1] @ weight
        inputs.append(np.maximum(z, 0) if weight is not weights[-1] else z)
    relevance = np.where(np.arange(3) == class_index, inputs[-1], 0.0)
    for weight, below in zip(weights[::-1], inputs[-2::-1], strict=True):
        z = below @ weight
        relevance = below * (weight @ (relevance / (z + epsilon * np.where(z < 0, -1, 1))))
    return relevance.reshape(x.shape)


@pytest.mark.parametrize("compile", ["none", "xla"])
def test_of_a_network_of_relus_without_biases_it_is_relevance_by_the_epsilon_rule(
    signatures_of, images, weights, compile
):
    layers = [keras.layers.Dense(w.shape[1], "relu" if w.shape[1] > 3 else None, False) for w in weights]
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), *layers])
    for layer, weight in zip(layers, weights, strict=True):
        layer.set_weights([weight])
    built = signatures_of(model, SHAPE, compile=compile, methods=METHODS)
    got = built("explain_gradient_x_input", images, class_index=CLASSES)
    for b, c in enumerate(CLASSES):
        expected = epsilon_lrp(weights, images[b].astype(np.float64), c, epsilon=1e-12)
        np.testing.assert_allclose(got["attributions"][b], expected, atol=1e-6 * np.abs(expected).max())
        np.testing.assert_allclose(got["attributions"][b].sum(), got["score"][b], rtol=1e-5)
        np.testing.assert_allclose(
            got["saliency"][b], np.abs(expected.sum(-1)), atol=2e-6 * np.abs(expected).max()
        )


def test_of_a_linear_score_without_a_bias_its_sum_is_the_score_and_a_bias_is_not_in_it(signatures_of, images):
    weight = np.random.default_rng(2).normal(size=(60, 3)).astype(np.float32)

    @tf.function
    def linear(x):
        return tf.reshape(x, (-1, 60)) @ weight + [0.0, 10.0, -5.0]

    got = signatures_of(linear, SHAPE, methods=METHODS)(
        "explain_gradient_x_input", images, class_index=CLASSES
    )
    for b, (c, bias) in enumerate(zip(CLASSES, (-5.0, 0.0, 10.0), strict=True)):
        np.testing.assert_allclose(
            got["attributions"][b].ravel(), images[b].ravel() * weight[:, c], rtol=1e-6, atol=1e-7
        )
        np.testing.assert_allclose(got["attributions"][b].sum(), got["score"][b] - bias, atol=1e-4)
