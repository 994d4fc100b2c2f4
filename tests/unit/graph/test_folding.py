from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of
from covering import covering
from rounding import assert_equal_to_rounding

from saliency_exporter.graph.folding import fold, fold_scales, fold_weight_expressions
from saliency_exporter.graph.forward_graph import ForwardGraph
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace

layers = keras.layers


def scores_and_gradient(graph: ForwardGraph, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    forward = Forward(graph)

    @tf.function(autograph=False)
    def run(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scores = forward.scores(x)
        return scores, tf.gradients(scores[:, 0], x)[0]

    return tuple(value.numpy() for value in run(tf.constant(images)))


def ops(graph: ForwardGraph) -> list[str]:
    return [node.op for node in graph.nodes if node.op not in ("Const", "Placeholder")]


def with_statistics(model: keras.Model) -> keras.Model:
    """Batch normalizations whose scales and offsets are far from 1 and 0."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "gamma" in weight.path or "moving_variance" in weight.path:
            weight.assign(rng.uniform(0.3, 3, weight.shape))
        elif "beta" in weight.path or "moving_mean" in weight.path or "bias" in weight.path:
            weight.assign(rng.normal(size=weight.shape))
    return model


def network(*body: keras.Layer) -> keras.Model:
    return with_statistics(
        keras.Sequential([keras.Input((9, 8, 3)), *body, layers.Flatten(), layers.Dense(4, use_bias=False)])
    )


@pytest.mark.parametrize(
    ("layer", "remaining"),
    [
        (lambda: layers.Conv2D(5, 3, use_bias=False), ["Conv2D", "BiasAdd"]),
        (lambda: layers.Conv2D(5, 3), ["Conv2D", "BiasAdd"]),
        (
            lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
            ["DepthwiseConv2dNative", "BiasAdd"],
        ),
        (lambda: layers.Conv2D(6, 3, groups=3, use_bias=False), ["Conv2D", "BiasAdd"]),
    ],
    ids=["conv", "conv with bias", "depthwise with multiplier", "grouped conv"],
)
def test_a_batch_normalization_becomes_part_of_the_convolution_before_it(layer, remaining):
    graph = trace(source_of(network(layer(), layers.BatchNormalization(), layers.ReLU()), (9, 8, 3)))
    folded = fold(graph)
    assert [op for op in ops(folded) if op not in ("Shape", "StridedSlice", "Pack", "Reshape")] == [
        *remaining,
        "Relu",
        "MatMul",
    ]
    images = np.random.default_rng(1).normal(size=(2, 9, 8, 3)).astype(np.float32)
    for got, expected in zip(
        scores_and_gradient(folded, images), scores_and_gradient(graph, images), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_folding_weight_expressions_changes_values_by_rounding_alone():
    graph = trace(
        source_of(
            network(layers.Conv2D(5, 3), layers.BatchNormalization(), layers.LayerNormalization()), (9, 8, 3)
        )
    )
    folded = fold_weight_expressions(graph)
    assert len(folded.nodes) < len(graph.nodes)
    assert "Rsqrt" not in ops(
        fold_weight_expressions(trace(source_of(network(layers.BatchNormalization()), (9, 8, 3))))
    )
    images = np.random.default_rng(1).normal(size=(2, 9, 8, 3)).astype(np.float32)
    for got, expected in zip(
        scores_and_gradient(folded, images), scores_and_gradient(graph, images), strict=True
    ):
        assert_equal_to_rounding(got, expected)


def test_a_weight_that_two_layers_share_is_left_alone():
    shared = layers.Conv2D(3, 3, padding="same", use_bias=False)
    inputs = keras.Input((9, 8, 3))
    x = layers.BatchNormalization()(shared(inputs))
    x = layers.BatchNormalization()(shared(x))
    model = with_statistics(keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x))))
    graph = fold_weight_expressions(trace(source_of(model, (9, 8, 3))))
    folded = fold_scales(graph)
    assert ops(folded).count("Mul") == ops(graph).count("Mul") == 2
    images = np.random.default_rng(1).normal(size=(2, 9, 8, 3)).astype(np.float32)
    expected = model(images).numpy()
    np.testing.assert_allclose(scores_and_gradient(folded, images)[0], expected, rtol=1e-4, atol=1e-4)


def test_an_output_that_something_else_reads_is_left_alone():
    inputs = keras.Input((9, 8, 3))
    convolved = layers.Conv2D(3, 3, padding="same", use_bias=False)(inputs)
    x = layers.Add()([convolved, layers.BatchNormalization()(convolved)])
    model = with_statistics(keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x))))
    folded = fold(trace(source_of(model, (9, 8, 3))))
    assert "Mul" in ops(folded)
    images = np.random.default_rng(1).normal(size=(2, 9, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(
        scores_and_gradient(folded, images)[0], model(images).numpy(), rtol=1e-4, atol=1e-4
    )


def test_a_sum_that_something_else_reads_keeps_its_own_offset():
    inputs = keras.Input((9, 8, 3))
    convolved = layers.Conv2D(3, 3, padding="same")(inputs)
    x = layers.Add()([convolved, layers.BatchNormalization(scale=False)(convolved)])
    model = with_statistics(keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x))))
    folded = fold(trace(source_of(model, (9, 8, 3))))
    images = np.random.default_rng(1).normal(size=(2, 9, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(
        scores_and_gradient(folded, images)[0], model(images).numpy(), rtol=1e-4, atol=1e-4
    )


def test_an_offset_that_is_no_channel_vector_is_left_alone():
    picture = tf.constant(np.random.default_rng(0).normal(size=(9, 8, 5)).astype(np.float32))
    kernel = tf.constant(np.random.default_rng(1).normal(size=(3, 3, 3, 5)).astype(np.float32))

    def offset_by_position(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + picture), [1, 2])

    graph = trace(source_of(offset_by_position, (9, 8, 3)))
    assert "BiasAdd" not in ops(fold(graph))
    images = np.random.default_rng(2).normal(size=(2, 9, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(
        scores_and_gradient(fold(graph), images)[0], offset_by_position(images), rtol=1e-5
    )


def test_folding_leaves_the_nodes_of_the_traced_graph_as_they_are():
    model = network(layers.Conv2D(5, 3), layers.BatchNormalization(), layers.ReLU())
    graph = trace(source_of(model, (9, 8, 3)))
    before = [node.SerializeToString(deterministic=True) for node in graph.nodes]
    fold(graph)
    assert [node.SerializeToString(deterministic=True) for node in graph.nodes] == before


def test_a_random_op_is_never_frozen_into_a_number():
    def dropped_at_rate_0(x: tf.Tensor) -> tf.Tensor:
        return x * tf.cast(tf.random.uniform((3,)) >= 0.0, tf.float32)

    graph = trace(source_of(dropped_at_rate_0, (3,)))
    assert "RandomUniform" in ops(fold(graph))


def test_what_a_constant_seed_decides_is_computed_once():
    # XLA draws other numbers from the same seed (README, independence): a server would add other ones.
    def noisy(x: tf.Tensor) -> tf.Tensor:
        return x + tf.random.stateless_uniform((3,), tf.constant([1, 2]))

    folded = fold(trace(source_of(noisy, (3,))))
    assert not any("Random" in op for op in ops(folded))
    x = np.zeros((1, 3), np.float32)
    want = tf.random.stateless_uniform((3,), tf.constant([1, 2]))
    np.testing.assert_allclose(scores_and_gradient(folded, x)[0][0], want, rtol=1e-6)


def test_several_outputs_of_one_op_on_weights_keep_their_places():
    weights = tf.constant(np.arange(12, dtype=np.float32).reshape(2, 6))

    def split(x: tf.Tensor) -> tf.Tensor:
        a, b, c = tf.split(weights, 3, axis=1)
        return x @ (a - 2 * b) + tf.reduce_sum(c)

    folded = fold(trace(source_of(split, (2,))))
    x = np.array([[1.0, 2.0]], np.float32)
    a, b, c = np.split(np.arange(12.0).reshape(2, 6), 3, axis=1)
    np.testing.assert_allclose(scores_and_gradient(folded, x)[0], x @ (a - 2 * b) + c.sum())


PADDED = {
    # Keras's own padding for even and odd sizes, as its MobileNet and EfficientNet write it.
    "depthwise 3": (lambda pad: [layers.ZeroPadding2D(pad), layers.DepthwiseConv2D(3, strides=2)], 3, True),
    "depthwise 5": (lambda pad: [layers.ZeroPadding2D(pad), layers.DepthwiseConv2D(5, strides=2)], 5, True),
    "conv 3": (lambda pad: [layers.ZeroPadding2D(pad), layers.Conv2D(4, 3, strides=2)], 3, True),
    "other zeros": (
        lambda pad: [layers.ZeroPadding2D(((2, 1), (1, 1))), layers.Conv2D(4, 3, strides=2)],
        3,
        False,
    ),
    "conv 7": (lambda pad: [layers.ZeroPadding2D(3), layers.Conv2D(4, 7, strides=2)], 7, False),
    "max pooling": (lambda pad: [layers.ZeroPadding2D(1), layers.MaxPooling2D(3)], 3, False),
}


@pytest.mark.parametrize(("padded", "size"), covering(list(PADDED), [(9, 8), (8, 9)]))
def test_zeros_of_same_padding_become_the_convolutions_own(padded, size):
    make, taps, folds = PADDED[padded]
    reach = taps // 2
    pad = tuple((reach - (1 - n % 2), reach) for n in size)
    model = keras.Sequential([keras.Input((*size, 3)), *make(pad), layers.Flatten(), layers.Dense(4)])
    graph = trace(source_of(model, (*size, 3)))
    folded = fold(graph)
    assert "Pad" in ops(graph)
    assert ("Pad" in ops(folded)) is not folds
    images = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    for got, expected in zip(
        scores_and_gradient(folded, images), scores_and_gradient(graph, images), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_zeros_that_something_else_reads_too_stay_there():
    inputs = keras.Input((8, 8, 3))
    padded = layers.ZeroPadding2D(((0, 1), (0, 1)))(inputs)
    parts = [layers.Conv2D(4, 3, strides=2)(padded), layers.AveragePooling2D(3, strides=2)(padded)]
    outputs = layers.Dense(4)(layers.Flatten()(layers.Concatenate()(parts)))
    graph = trace(source_of(keras.Model(inputs, outputs), (8, 8, 3)))
    folded = fold(graph)
    assert "Pad" in ops(folded)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for got, expected in zip(
        scores_and_gradient(folded, images), scores_and_gradient(graph, images), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
