"""Why a model has no gradient: the op that is named."""

from __future__ import annotations

import re
from collections.abc import Callable

import keras
import pytest
import tensorflow as tf
from callables import source_of

from saliency_exporter.graph.differentiable import without_gradient
from saliency_exporter.graph.trace import trace
from saliency_exporter.sources.keras_model import source_from_keras

KERNEL = tf.random.stateless_normal([12, 4], [1, 2])


def message(call: Callable, shape: tuple[int, ...] = (12,)) -> str:
    return str(without_gradient(trace(source_of(call, shape)), "net"))


def test_an_argmax_output_ends_the_gradient() -> None:
    def call(x):
        return tf.one_hot(tf.argmax(tf.nn.relu(x @ KERNEL), -1), 4)

    assert "it ends at ArgMax (ArgMax)" in message(call)


def test_a_comparison_in_the_middle_ends_the_gradient() -> None:
    def call(x):
        with tf.name_scope("binarize"):
            bits = tf.cast(x > 0.5, tf.float32)
        return bits @ KERNEL

    assert "it ends at binarize/Greater (Greater)" in message(call)


def test_an_input_that_is_used_as_whole_numbers_ends_the_gradient() -> None:
    def call(x):
        return tf.gather(KERNEL, tf.cast(x[:, 0], tf.int32))

    assert "it ends at Cast (Cast), whose whole numbers GatherV2 (GatherV2) looks up" in message(call)


def test_an_embedding_is_named_with_the_way_to_the_network_behind_it() -> None:
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(10, 4, name="words"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    error = without_gradient(trace(source_of(lambda x: model(tf.cast(x, tf.int32)), (6,))), "net")
    assert re.search(
        r"it ends at Cast \(Cast\), whose whole numbers \S*words\S* \(\w+\) looks up", str(error)
    )
    assert "keras.Model(layer.output, model.outputs)" in str(error.hint)
    # What the hint says is taken: the network behind the embedding, of floats.
    behind = source_from_keras(
        keras.Model(model.get_layer("words").output, model.outputs), name="behind", origin="test"
    )
    assert behind.input_shape == (6, 4)


def test_arithmetic_on_whole_numbers_is_named_with_the_cast_that_is_missing() -> None:
    def net(pixels):
        return tf.tanh(tf.cast(255 - pixels[:, ::-1], tf.float32) / 255) @ KERNEL

    error = without_gradient(trace(source_of(lambda x: net(tf.cast(x, tf.uint8)), (12,))), "net")
    assert "it ends at Cast (Cast), whose whole numbers sub (Sub) computes with" in str(error)
    assert "tf.cast(x, tf.float32)" in str(error.hint)
    # What the hint says has a gradient.
    x = tf.constant([[7.0] * 12])
    with tf.GradientTape() as tape:
        tape.watch(x)
        scores = net(tf.cast(x, tf.float32))
    assert tape.gradient(scores, x) is not None


def test_stopped_gradients_are_named() -> None:
    assert "it ends at StopGradient (StopGradient)" in message(lambda x: tf.stop_gradient(x) @ KERNEL)


def test_an_op_that_tensorflow_has_no_gradient_for_is_named() -> None:
    def call(x):
        with tf.name_scope("augment"):
            x = tf.image.adjust_contrast(x, 1.5)
        return tf.reduce_mean(x, [1, 2])

    assert message(call, (8, 8, 3)).startswith(
        "TensorFlow has no gradient for augment/adjust_contrast (AdjustContrastv2) of net"
    )


def test_a_prevented_gradient_is_named() -> None:
    def call(x):
        return tf.raw_ops.PreventGradient(input=x, message="as jax2tf does") @ KERNEL

    assert "no gradient for PreventGradient (PreventGradient)" in message(call)


def test_scores_that_do_not_depend_on_the_input_are_said() -> None:
    def call(x):
        return tf.ones([tf.shape(x)[0], 4])

    assert "do not depend on its input" in message(call)


@pytest.mark.parametrize("op", [tf.round, tf.floor, tf.sign])
def test_a_gradient_that_is_zero_is_no_end(op: Callable) -> None:
    """Of ops whose gradient TensorFlow calls zero, nothing is to be said but where it is missing."""
    assert "class scores of net have no gradient" in message(lambda x: op(x) @ KERNEL)
