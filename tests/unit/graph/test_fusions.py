"""What is rewritten so that TensorFlow's remapper makes no fusion of it that a set of kernels lacks."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.graph.fusions import portable_graph
from saliency_exporter.graph.replay import Forward
from saliency_exporter.graph.trace import trace

layers = keras.layers


def graph_of(*body: keras.Layer, shape: tuple[int, ...] = (9, 8, 4)):
    model = keras.Sequential([keras.Input(shape), *body, layers.Flatten(), layers.Dense(3)])
    return trace(source_of(model, shape))


def ops(graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_a_bias_is_rewritten_behind_a_grouped_convolution_and_nowhere_else():
    graph = graph_of(
        layers.Conv2D(8, 3), layers.DepthwiseConv2D(3), layers.Conv2D(8, 3, groups=2), layers.Conv2D(8, 1)
    )
    rewritten = portable_graph(graph)
    kinds = [(before.op, after.op) for before, after in zip(graph.nodes, rewritten.nodes, strict=True)]
    biases = [after for before, after in kinds if before in ("BiasAdd", "AddV2", "Add")]
    assert [before for before, _ in kinds].count("BiasAdd") == 5
    assert biases == ["BiasAdd", "BiasAdd", "AddV2", "BiasAdd", "BiasAdd"]
    assert [node.name for node in rewritten.nodes] == [node.name for node in graph.nodes]


def test_a_graph_without_such_patterns_is_the_same_graph():
    graph = graph_of(
        layers.Conv2D(8, 3, dilation_rate=2, activation="relu"),
        layers.Conv2D(8, 1),
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        layers.ZeroPadding2D(),
        layers.MaxPool2D(),
    )
    assert portable_graph(graph).nodes == graph.nodes


@pytest.mark.parametrize(
    ("activation", "again", "kind"),
    [
        (lambda: layers.LeakyReLU(0.3), False, "Squeeze"),
        (layers.ReLU, False, "Add"),
        (layers.ReLU, True, "Squeeze"),
        (lambda: layers.Activation("tanh"), True, "Add"),
    ],
    ids=["leaky", "relu", "relu, and read again", "tanh, and read again"],
)
def test_a_sum_is_kept_from_a_convolution_where_its_fusion_is_wrong_or_fails(activation, again, kind):
    inputs = keras.Input((9, 8, 4))
    total = layers.Add()([layers.Conv2D(4, 3, padding="same")(inputs), inputs])
    x = activation()(total)
    x = layers.Multiply()([x, total]) if again else x
    graph = trace(source_of(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))), (9, 8, 4)))
    rewritten = portable_graph(graph)
    activated = next(node for node in rewritten.nodes if node.op in ("LeakyRelu", "Relu", "Tanh"))
    assert rewritten.node_map()[activated.input[0].split(":")[0]].op.startswith(kind)
    assert set(graph.node_map()) <= set(rewritten.node_map())


def test_a_batch_normalization_behind_a_grouped_convolution_is_a_scale_and_an_offset():
    rng = np.random.default_rng(0)
    kernel = tf.Variable(rng.normal(size=(3, 3, 2, 8)).astype("f"))
    statistics = [tf.Variable(rng.uniform(0.5, 2, 8).astype("f")) for _ in range(4)]

    def network(x: tf.Tensor) -> tf.Tensor:
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        gamma, beta, mean, variance = statistics
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=y, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=0.1, is_training=False
        )
        return tf.reduce_sum(tf.nn.relu(y), axis=[1, 2])

    graph = portable_graph(trace(source_of(network, (9, 8, 4)), score="output"))
    assert "FusedBatchNormV3" not in ops(graph)
    images = rng.normal(size=(2, 9, 8, 4)).astype("f")
    expected = tf.function(network, jit_compile=True)(images)
    got = tf.function(Forward(graph).scores)(tf.constant(images))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
