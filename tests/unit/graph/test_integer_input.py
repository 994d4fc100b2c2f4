"""Models on whole numbers: the same scores, and the gradient of the network behind the cast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace

RNG = np.random.default_rng(5)
KERNEL = tf.constant(RNG.normal(size=(3, 4)).astype(np.float32))
PIXELS = RNG.integers(0, 256, (2, 6, 6, 3)).astype(np.float32)


def network(x):
    return tf.reduce_mean(tf.nn.relu(tf.tanh(x / 64.0 - 2.0) @ KERNEL), [1, 2])


FRONTS: dict[str, tuple[Callable, Callable]] = {
    "a cast": (lambda x: tf.cast(x, tf.float32), lambda x: x),
    "convert_image_dtype": (
        lambda x: 255.0 * tf.image.convert_image_dtype(x, tf.float32),
        lambda x: 255.0 * (x * (1.0 / 255)),
    ),
    "moved, then cast": (
        lambda x: tf.cast(tf.reverse(tf.transpose(x, [0, 2, 1, 3]), [-1]), tf.float32),
        lambda x: tf.reverse(tf.transpose(x, [0, 2, 1, 3]), [-1]),
    ),
    "channels taken apart": (
        lambda x: tf.cast(tf.stack(tf.unstack(x, axis=-1)[::-1], axis=-1), tf.float32),
        lambda x: tf.reverse(x, [-1]),
    ),
    "resized": (
        lambda x: tf.image.resize(x, (9, 9)),
        lambda x: tf.image.resize(x, (9, 9)),
    ),
    "wider integers first": (lambda x: tf.cast(tf.cast(x, tf.int32), tf.float32), lambda x: x),
    "half floats": (
        lambda x: tf.cast(tf.cast(x, tf.float16), tf.float32),
        lambda x: tf.cast(tf.cast(x, tf.float16), tf.float32),
    ),
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("dtype", [tf.uint8, tf.int32])
def test_a_model_on_whole_numbers_is_cut_at_its_cast_to_floats(front: str, dtype: tf.DType) -> None:
    if front == "convert_image_dtype" and dtype != tf.uint8:
        pytest.skip("it divides by the largest number of the dtype")
    on_integers, on_floats = FRONTS[front]
    graph = trace(source_of(lambda x: network(on_integers(tf.cast(x, dtype))), (6, 6, 3)))
    assert graph.input_dtype == dtype.name
    forward = Forward(graph)
    x = tf.constant(PIXELS)

    @tf.function(autograph=False)
    def replayed(x):
        scores = forward.scores(x)
        return scores, tf.gradients(scores[:, 1], x)[0]

    scores, gradient = replayed(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = network(on_floats(x))
        score = expected[:, 1]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    want = tape.gradient(score, x).numpy()
    assert np.linalg.norm(want) > 0
    assert np.linalg.norm(gradient - want) / np.linalg.norm(want) < 1e-5


def test_integers_that_the_network_computes_with_are_left_alone() -> None:
    def call(x):
        whole = tf.cast(x, tf.int32)
        return network(tf.cast(whole // 2, tf.float32))

    graph = trace(source_of(call, (6, 6, 3)))
    assert graph.input_dtype == ""
    assert "FloorDiv" in {node.op for node in graph.nodes}


def test_a_model_on_floats_is_left_alone() -> None:
    assert trace(source_of(network, (6, 6, 3))).input_dtype == ""
