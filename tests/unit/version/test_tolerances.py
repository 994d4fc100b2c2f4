from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.graph.rounding import rounding_of
from saliency_exporter.graph.trace import trace
from saliency_exporter.version.manifest import Rounding
from saliency_exporter.version.tolerances import (
    GRADIENT_TOLERANCE,
    MOST,
    OUTLIER_TOLERANCE,
    SCORE_TOLERANCE,
    tolerances,
)

layers = keras.layers


def network(policy: str, rectifiers: int = 3) -> keras.Model:
    keras.utils.set_random_seed(2)
    dtype = keras.mixed_precision.DTypePolicy(policy)
    x = inputs = keras.Input((12, 12, 3))
    for _ in range(rectifiers):
        x = layers.ReLU(dtype=dtype)(layers.Conv2D(8, 3, padding="same", dtype=dtype)(x))
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(inputs, layers.Dense(4, dtype="float32")(x))


@pytest.mark.parametrize(
    ("policy", "dtype", "unit"),
    [
        ("float32", "float32", 2**-24),
        ("mixed_float16", "float16", 2**-11),
        ("mixed_bfloat16", "bfloat16", 2**-8),
    ],
)
def test_rounding_is_that_of_the_dtype_that_convolutions_compute_in(policy, dtype, unit):
    model = network(policy)
    found = rounding_of(trace(source_of(lambda x: tf.cast(model(x), tf.float32), (12, 12, 3))))
    assert (found.dtype, found.unit, found.kinks) == (dtype, unit, 3)
    # Three convolutions and a product, each with a bias, and a mean.
    assert found.depth == 9


def test_a_loop_rounds_in_each_of_its_turns():
    model = keras.Sequential([keras.Input((20, 3)), layers.SimpleRNN(4), layers.Dense(2)])
    short = keras.Sequential([keras.Input((10, 3)), layers.SimpleRNN(4), layers.Dense(2)])
    depth, half = (rounding_of(trace(source_of(m, m.input_shape[1:]))).depth for m in (model, short))
    assert 1.8 < depth / half < 2


def test_bounds_are_those_of_float32_for_networks_as_deep_as_resnet152():
    bounds = tolerances(Rounding("float32", 500, 50))
    assert bounds.gradient == pytest.approx(GRADIENT_TOLERANCE)
    assert (bounds.score, bounds.outlier) == (SCORE_TOLERANCE, OUTLIER_TOLERANCE)
    assert tolerances(Rounding()) == bounds
    assert tolerances(Rounding("float64", 5000, 5000)) == bounds


def test_a_share_of_the_units_is_within_rounding_of_a_kink():
    """The derivation by simulation: normal inputs of k rectifiers, each off by δ, and who changes sides."""
    generator = np.random.default_rng(0)
    unit, depth, kinks = 2.0**-8, 16, 4
    off = unit * np.sqrt(depth)
    changed = 0.0
    for _ in range(kinks):
        x = generator.standard_normal(200_000)
        changed += np.mean((x > 0) != (x + off * generator.choice([-1, 1], x.shape) > 0))
    # Half of those within ±δ are on the side from which they are pushed over.
    bound = tolerances(Rounding("bfloat16", depth, kinks)).gradient
    assert 2 * np.sqrt(changed) <= bound
    assert bound <= 2 * np.sqrt(2 * changed) * 1.05 + 8 * np.sqrt(2) * off or bound == MOST


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_right_map_of_low_precision_is_within_the_bound_and_a_wrong_one_is_not(signatures_of, policy):
    model = network(policy)
    graph = trace(source_of(lambda x: tf.cast(model(x), tf.float32), (12, 12, 3)))
    found = rounding_of(graph)
    bound = tolerances(Rounding(found.dtype, found.depth, found.kinks))
    x = np.random.default_rng(0).uniform(-1, 1, (3, 12, 12, 3)).astype(np.float32)

    def map_of(compile: str) -> np.ndarray:
        built = signatures_of(model, (12, 12, 3), methods=("guided",), compile=compile, batch_sizes=(3,))
        return built("explain_guided", x, class_index=0)["gradients"].astype(np.float64)

    compiled, plain = map_of("xla"), map_of("none")
    norms = np.linalg.norm(plain.reshape(3, -1), axis=1)
    right = np.linalg.norm((compiled - plain).reshape(3, -1), axis=1) / norms
    wrong = np.linalg.norm((compiled[[1, 2, 0]] - plain).reshape(3, -1), axis=1) / norms
    assert right.min() <= bound.gradient
    assert right.max() <= bound.outlier
    assert wrong.min() > bound.outlier
